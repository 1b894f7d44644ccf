"""What a tree of modules is made of, so that a change of it that failed half-way can be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
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
        self._objects = [(each, type(each), _remember(each)) for each in (*module.modules(), *configs.values())]
        self._trainable = [(weight, weight.requires_grad) for weight in module.parameters()]

    def __getstate__(self) -> dict[str, Any]:
        return {"_objects": [], "_trainable": []}  # a copy of the module was never anything else

    def restore(self) -> None:
        """Make the module what it was."""
        for each, kind, attributes in self._objects:
            object.__setattr__(each, "__class__", kind)
            vars(each).clear()
            for name, (value, content) in attributes.items():
                if content is not None:
                    value.clear()
                    value.update(content) if isinstance(value, dict | set) else value.extend(content)
                vars(each)[name] = value
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


def _remember(thing: Any) -> dict[str, tuple[Any, Any]]:
    """Every attribute, and of collections what they hold now."""
    return {
        name: (value, copy(value) if isinstance(value, dict | set | list) else None)
        for name, value in vars(thing).items()
    }
