"""Modules of a tower that are given further behaviour by changing their class, and get their own back.

A class is changed and no hook is put in: where a layer is computed again in the backward pass (gradient checkpointing),
transformers before 5.23 runs hooks a second time, when what they put in is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from torch import nn


def mix_in(module: nn.Module, mixin: type) -> None:
    """Put a class in front of a module's own; a no-op where it is there."""
    if not isinstance(module, mixin):
        module.__class__ = _mixed_class(cast(Any, type(module)), mixin)


def close(modules: Sequence[nn.Module]) -> None:
    """Undo `mix_in` in some modules and all that they hold; what was mixed in names its attributes in `given`."""
    for each in (each for module in modules for each in module.modules()):
        own, mixins = _parts(type(each))
        for name in (name for mixin in mixins for name in mixin.given):
            vars(each).pop(name, None)
        if mixins:
            each.__class__ = own


def _parts(kind: Any) -> tuple[Any, list[Any]]:
    """A module's own class, and what was mixed in, the first first."""
    mixins: list[Any] = []
    while "__own_class__" in vars(kind):
        mixins.insert(0, kind.__mixin__)
        kind = kind.__own_class__
    return kind, mixins


@cache
def _mixed_class(own: Any, mixin: Any) -> type[nn.Module]:
    """The subclass of both; it keeps the name of the module's own, by which transformers and FSDP find it."""

    def __reduce_ex__(self: Any, protocol: Any) -> tuple:
        plain, mixins = _parts(type(self))
        _, arguments, *rest = plain.__reduce_ex__(self, protocol)
        return (new_mixed_module, (plain, tuple(mixins), *arguments[1:]), *rest)

    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    body = {**names, "__reduce_ex__": __reduce_ex__, "__own_class__": own, "__mixin__": mixin}
    return type(own.__name__, (mixin, own), body)


def new_mixed_module(own: Any, mixins: tuple[Any, ...], *arguments: Any) -> nn.Module:
    """Make an empty module of the class of all, for pickle to fill."""
    for mixin in mixins:
        own = _mixed_class(own, mixin)
    return own.__new__(own, *arguments)
