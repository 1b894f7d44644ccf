"""An extension of Griffe: what a config's field says of itself in `help` is its description in the reference.

Its value there is the default, and not the call of `field` that has both.
"""

from __future__ import annotations

import ast
from typing import Any

import griffe


class FieldHelp(griffe.Extension):
    """Takes the text behind "help" of `field(metadata=…)` as a dataclass field's docstring."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Called for each attribute that Griffe reads.

        Args:
            node: the assignment, as it stands in the file.
            attr: what Griffe has made of it.
            kwargs: what else it tells, of no use here.
        """
        if attr.docstring is None and isinstance(node, ast.AnnAssign) and (text := help_of(node.value)):
            attr.docstring = griffe.Docstring(text, lineno=node.lineno, endlineno=node.end_lineno, parent=attr)
            attr.value = default_of(attr.value)


def default_of(value: Any) -> Any:
    """What `field(default=…)` gives; the call itself where it has none, as with a `default_factory`."""
    given = {argument.name: argument.value for argument in value.arguments if isinstance(argument, griffe.ExprKeyword)}
    return given.get("default", value)


def help_of(value: ast.expr | None) -> str | None:
    """The help of `field(…, metadata={"help": …})`; None where there is none that is a plain text."""
    if not isinstance(value, ast.Call):
        return None
    for argument in value.keywords:
        if argument.arg == "metadata" and isinstance(argument.value, ast.Dict):
            pairs = zip(argument.value.keys, argument.value.values, strict=True)
            texts = [text for key, text in pairs if isinstance(key, ast.Constant) and key.value == "help"]
            return texts[0].value if texts and isinstance(texts[0], ast.Constant) else None
    return None
