"""What a tree of modules is made of, so that a change of it that failed half-way can be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PretrainedConfig


class Backup:
    """The structure of a module and all that it holds: classes, attributes, configs, what is trainable.

    Weights are not copied: what may fail is checked before one of them is changed.

    Args:
        module: the root.
    """

    def __init__(self, module: nn.Module):
        configs = {id(config): config for each in module.modules() for config in _configs_of(each)}
        objects = (*module.modules(), *configs.values())
        self._objects = [(each, type(each), dict(vars(each)), _contents(each)) for each in objects]
        self._trainable = [(weight, weight.requires_grad) for weight in module.parameters()]

    def __getstate__(self) -> dict[str, Any]:
        return {"_objects": [], "_trainable": []}  # a copy of the module was never anything else

    def restore(self) -> None:
        """Make the module what it was."""
        for each, kind, attributes, contents in self._objects:
            object.__setattr__(each, "__class__", kind)
            vars(each).clear()
            vars(each).update(attributes)
            for collection, content in contents:
                collection.clear()
                collection.extend(content) if isinstance(collection, list) else collection.update(content)
        for weight, requires_grad in self._trainable:
            weight.requires_grad = requires_grad


@contextmanager
def taken_back_on_failure(module: nn.Module) -> Iterator[Backup]:
    """Leave a module as it was if what happens within fails; yields what it was."""
    backup = Backup(module)
    try:
        yield backup
    except BaseException:  # Ctrl-C, too
        backup.restore()
        raise


def _configs_of(module: nn.Module) -> list[PretrainedConfig]:
    return [value for value in vars(module).values() if isinstance(value, PretrainedConfig)]


def _contents(thing: Any) -> list[tuple[Any, tuple]]:
    """The collections among its attributes, and what each holds now; `copy` would take ten times as long."""
    return [
        (value, tuple(value.items() if isinstance(value, dict) else value))
        for value in vars(thing).values()
        if isinstance(value, dict | set | list)
    ]
