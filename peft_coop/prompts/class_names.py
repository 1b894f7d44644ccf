"""What a list of class names is, and what is none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Unicode's categories of what is not seen by itself: control, format, surrogate and unassigned characters, separators,
# marks on a letter; and letters that are drawn as nothing.
INVISIBLE = ("Cc", "Cf", "Cs", "Cn", "Me", "Mn", "Zl", "Zp", "Zs")
BLANK = "\u115f\u1160\u2800\u3164\uffa0"


def clean_name(name: str) -> str:
    """A class name as it is put into a prompt: underscores replaced by spaces."""
    return name.replace("_", " ").strip()


def check_class_names(class_names: Sequence[str]) -> list[str]:
    """Check a list of class names and return it as a list of `str`.

    Raises:
        TypeError: if it is no list of strings: a single string, a set, a mapping, a table, something else in it.
        ValueError: if it is empty, or a name is or cannot be written as text.
    """
    check_order(class_names)
    names = list(class_names)
    if not names:
        raise ValueError("`class_names` is empty: a classifier needs at least one class name.")
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(
                f"Every class name must be a string, got {name!r} ({type(name).__name__}) at index {index}."
            )
        check_text(name, f"Class name {index}")
        if not is_visible(clean_name(name)):
            raise ValueError(
                f"Class name {index} is empty ({name!r}): every class needs at least one visible character."
            )
    return [str(name) for name in names]


def check_order(class_names: object) -> None:
    """Check that class names come in an order, which is that of the labels.

    Raises:
        TypeError: for a string, and for what has no order (a set) or is read by its keys (a mapping, a table).
    """
    if isinstance(class_names, Mapping):
        raise TypeError(f"`class_names` must be a list of names, got {mapping_advice(class_names)}")
    if hasattr(class_names, "int2str"):  # of `datasets`
        raise TypeError(f"`class_names` must be a list of names, got a {type(class_names).__name__}: pass its `names`.")
    if isinstance(class_names, str | bytes) or not isinstance(class_names, Iterable):
        raise TypeError(f"`class_names` must be a list of names, got {class_names!r}.")
    if isinstance(class_names, set | frozenset):
        raise TypeError(
            f"`class_names` must be a list of names, got a {type(class_names).__name__}, whose order differs from"
            " process to process: label k is the k-th name. Pass a list in their order, such as `sorted(names)`."
        )
    if hasattr(class_names, "columns"):
        raise TypeError(
            f"`class_names` must be a list of names, got a {type(class_names).__name__}: pass one column of it as a"
            " list, such as `list(table['name'])`, in the order of the labels."
        )


def mapping_advice(mapping: Mapping) -> str:
    """What a mapping given as class names is, and how to turn it into a list."""
    places = {str(index) for index in range(len(mapping))}
    if mapping and set(map(str, mapping)) == places:
        key = "str(index)" if all(isinstance(key, str) for key in mapping) else "index"
        return f"an `id2label`: pass `[id2label[{key}] for index in range(len(id2label))]`."
    if mapping and set(map(str, mapping.values())) == places:
        return "a `label2id`: pass `sorted(label2id, key=lambda name: int(label2id[name]))`."
    return f"a {type(mapping).__name__}: pass a list of its names in the order of the labels, label 0 first."


def check_text(text: str, what: str) -> None:
    """Check that a text can be written as UTF-8, as tokenizers and files need it.

    Args:
        text: the text.
        what: the beginning of the error message.

    Raises:
        ValueError: if it holds half of a surrogate pair, as texts read with `errors="surrogateescape"` do.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} is no text: {text!r} holds the lone surrogate {text[error.start]!r}, which comes of bytes that"
            " were read in a wrong encoding. Read it as UTF-8, or leave the character out."
        ) from None


def is_visible(text: str) -> bool:
    """Whether a text holds a character that a reader sees: no control or format character, no space."""
    return any(unicodedata.category(character) not in INVISIBLE and character not in BLANK for character in text)


def check_template(template: Any, name: str, example: str) -> None:
    """Check a text with a place for the class name.

    Raises:
        ValueError: if it has none, or several, or is no text.
    """
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ValueError(
            f"{name} must hold the class name's place, {{}}, once; got {template!r}. An example: {example!r}"
        )
    check_text(template, name)
