"""A dual encoder's vision side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .families import FAMILIES, find_family, vision_layers
from .mixed_classes import close
from .states_between import RowsAtTheEnd, changing, open_up

IMAGE_INPUTS = {name for family in FAMILIES.values() for name in family.image_inputs}


def image_features(model: nn.Module, pixel_values: Tensor, prompts: Sequence[Tensor] = (), **kwargs: Any) -> Tensor:
    """Image features `[B, P]`, projected and not normalised, by the model's own forward.

    A frozen tower needs no graph, also where gradient checkpointing makes its inputs require gradients.

    Args:
        model: the dual encoder.
        pixel_values: as its image processor gives them.
        prompts: see `vision_prompts`.
        **kwargs: what else its `get_image_features` takes.

    Raises:
        ValueError: if something is missing that it needs.
    """
    family = find_family(model)
    missing = [name for name in family.image_inputs if family.needs_image_inputs and kwargs.get(name) is None]
    if missing:
        raise ValueError(
            f"Images of {type(model).__name__} need `{'`, `'.join(missing)}` beside `pixel_values`, as its image "
            "processor gives them."
        )
    learns = any(each.requires_grad for each in (pixel_values, *prompts))
    own = getattr(type(model), "__base_class__", type(model)).get_image_features
    learns = (learns or not is_vision_frozen(model)) and torch.is_grad_enabled()
    with torch.set_grad_enabled(learns), vision_prompts(model, prompts):
        return own(model, pixel_values=pixel_values, return_dict=True, **kwargs).pooler_output


@contextmanager
def vision_prompts(model: nn.Module, prompts: Sequence[Tensor]) -> Iterator[None]:
    """Put prompts among an image's tokens, for one pass through the vision tower.

    They are appended behind the tokens and their positions, before any norm, and leave behind the last layer.

    Args:
        model: the dual encoder, made ready by `open_vision_tower`.
        prompts: each `[n, W]`, of the tower's width: the first for the embeddings, entry i in its place before layer i;
            behind the last of them, hidden states go on as they are. None for images without prompts.

    Raises:
        ValueError: if there are more of them than layers, or not as many vectors in each.
        RuntimeError: if something stands in the place of an opened module.
    """
    if not prompts:
        yield
        return
    layers = vision_layers(model)
    check_vision_prompts(prompts, len(layers))
    with changing(RowsAtTheEnd(prompts, len(layers))), _checkpointing(layers, model.training):
        yield


def check_vision_prompts(prompts: Sequence[Tensor], n_layers: int) -> None:
    """Check that every prompt has a layer, and takes the place of the one before.

    Raises:
        ValueError: see `vision_prompts`.
    """
    counts = [len(each) for each in prompts]
    if len(counts) > n_layers or len(set(counts)) > 1:
        raise ValueError(
            f"Prompts can stand before each of the {n_layers} layers of this vision tower, with as many vectors before "
            f"one as before another; got {len(counts)} prompts of {counts} vectors."
        )


@contextmanager
def _checkpointing(layers: nn.ModuleList, trains: bool) -> Iterator[None]:
    """Let layers recompute in the backward pass where gradient checkpointing is on, though the tower is frozen.

    Frozen, it is in evaluation mode, and so stays all that is in the layers: nothing is dropped.
    """
    still = [layer for layer in layers if trains and not layer.training]
    for layer in still:
        layer.training = True
    try:
        yield
    finally:
        for layer in still:
            layer.training = False


def open_vision_tower(model: nn.Module) -> None:
    """Make the vision tower ready to read prompts; a no-op if it is.

    Raises:
        ValueError: if it cannot read any.
    """
    open_up([model.get_submodule(find_family(model).vision_embeddings), *vision_layers(model)], first=-1)


def close_vision_tower(model: nn.Module) -> None:
    """Undo `open_vision_tower`; a no-op if it was not done."""
    close(vision_parts(model))


def check_image_inputs(model: nn.Module, given: Collection[str]) -> None:
    """Check what is given beside `pixel_values`: some models take anything and say nothing.

    Raises:
        ValueError: if the model does not know one of these.
    """
    unknown = sorted((IMAGE_INPUTS & set(given)) - set(find_family(model).image_inputs))
    if unknown:
        raise ValueError(f"Images of {type(model).__name__} have no `{'`, no `'.join(unknown)}`.")


def vision_parts(model: nn.Module) -> list[nn.Module]:
    """What an image passes through."""
    return [model.get_submodule(part) for part in find_family(model).image_parts]


def is_vision_frozen(model: nn.Module) -> bool:
    """Whether no weight of the vision side is trained."""
    return not any(weight.requires_grad for part in vision_parts(model) for weight in part.parameters())
