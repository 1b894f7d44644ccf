"""Stochastic depth: training steps in which some images pass by some parts of some layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from .mixed_classes import mix_in

# What a layer adds to its input, by the names that ViTs of CLIP's kind have for it.
BRANCHES = ("self_attn", "mlp")
# What each thread draws and scales at the moment.
_now = threading.local()


@contextmanager
def stochastic_depth(layers: Sequence[nn.Module], rate: float) -> Iterator[None]:
    """Leave out what layers add to an image's states, for single images, and scale what is left up.

    The share grows evenly from 0 in the first layer to `rate` in the last one. Layers that are not in training add all.
    Where a layer is computed again in the backward pass, the same is left out.

    Args:
        layers: of a vision tower, each with the parts of `BRANCHES`.
        rate: of the last layer, from 0 to below 1.

    Reference: Deep Networks with Stochastic Depth (arXiv:1603.09382).
    """
    if not rate or not any(layer.training for layer in layers):
        yield
        return
    if not all(isinstance(layer, DroppingLayer) for layer in layers):
        _open(layers)
    rates = [rate * index / max(1, len(layers) - 1) for index in range(len(layers))]
    before = getattr(_now, "rates", None)
    _now.rates = {id(layer): each for layer, each in zip(layers, rates, strict=True)}
    try:
        yield
    finally:
        _now.rates = before


@torch.compiler.disable  # classes are changed once, and no tensors of the call
def _open(layers: Sequence[nn.Module]) -> None:
    for layer in layers:
        mix_in(layer, DroppingLayer)
        for name in BRANCHES:
            mix_in(layer.get_submodule(name), ScaledBranch)


def drawn(states: Tensor, rate: float) -> Tensor:
    """What an image's part is multiplied by, `[B, 1, 1]`: 0 with a probability of `rate`, or more than 1."""
    return states.new_empty(len(states), 1, 1).bernoulli_(1 - rate).div_(1 - rate)


class DroppingLayer:
    """Mixed into a layer: draws what is left out where it is called, and holds to it where it is computed again."""

    given = ()

    def __call__(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the layer."""
        rate = (getattr(_now, "rates", None) or {}).get(id(self), 0.0)
        if rate and cast(nn.Module, self).training:
            kwargs["kept"] = [drawn(states, rate) for _ in BRANCHES]
        return cast(Any, super()).__call__(states, *args, **kwargs)

    def forward(self, *args: Any, kept: Sequence[Tensor] | None = None, **kwargs: Any) -> Tensor:
        """The layer's own, with what its parts add multiplied by what was drawn."""
        own = cast(Any, super()).forward
        if kept is None:
            return own(*args, **kwargs)
        before = getattr(_now, "factors", None)
        parts = [cast(nn.Module, self).get_submodule(name) for name in BRANCHES]
        _now.factors = {id(part): factor for part, factor in zip(parts, kept, strict=True)}
        try:
            return own(*args, **kwargs)
        finally:
            _now.factors = before


class ScaledBranch:
    """Mixed into what a layer adds to its input: it is multiplied by what was drawn."""

    given = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the part; of several outputs the first is what is added."""
        output = cast(Any, super()).__call__(*args, **kwargs)
        factor = (getattr(_now, "factors", None) or {}).get(id(self))
        if factor is None:
            return output
        if isinstance(output, tuple):
            return (output[0] * factor.to(output[0]), *output[1:])
        return output * factor.to(output)
