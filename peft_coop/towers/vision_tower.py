"""A dual encoder's vision side."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from .families import FAMILIES, find_family

IMAGE_INPUTS = {name for family in FAMILIES.values() for name in family.image_inputs}


def image_features(model: nn.Module, pixel_values: Tensor, **kwargs: Any) -> Tensor:
    """Image features `[B, P]`, projected and not normalised, by the model's own forward.

    A frozen tower needs no graph, also where gradient checkpointing makes its inputs require gradients.

    Args:
        model: the dual encoder.
        pixel_values: as its image processor gives them.
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
    trains = pixel_values.requires_grad or not is_vision_frozen(model)
    with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
        return model.get_image_features(pixel_values=pixel_values, return_dict=True, **kwargs).pooler_output


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
