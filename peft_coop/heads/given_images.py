"""Images as a call gives them: pixels, or features that were computed before."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..towers import computing_dtype, image_features, is_vision_frozen, projection_dim, token_embedding


def features_of(
    model: nn.Module,
    pixel_values: Tensor | None,
    image_embeds: Tensor | None,
    prompts: Sequence[Tensor] = (),
    **of_images: Any,
) -> Tensor:
    """Image features `[B, P]`, projected and not normalised: computed, or those that are given.

    Args:
        model: the dual encoder.
        pixel_values: `[B, 3, H, W]`, as its image processor gives them.
        image_embeds: `[B, P]`, instead; normalised or not.
        prompts: of its vision tower, where pixels are given.
        **of_images: what its vision tower takes beside `pixel_values`.

    Raises:
        TypeError: if `image_embeds` is no tensor.
        ValueError: if it has another shape, or there is not exactly one of the two.
    """
    check_one_is_given(pixel_values, image_embeds)
    if image_embeds is not None:
        return given_features(model, image_embeds)
    return image_features(model, cast(Tensor, pixel_values), prompts, **of_images)


def check_one_is_given(pixel_values: Tensor | None, image_embeds: Tensor | None) -> None:
    """Check that images are given in one form.

    Raises:
        ValueError: if there is not exactly one.
    """
    if (pixel_values is None) == (image_embeds is None):
        given = "neither" if pixel_values is None else "both"
        raise ValueError(f"Give either `pixel_values` or `image_embeds` (features computed before), got {given}.")


def given_features(model: nn.Module, image_embeds: Any, *axes: str) -> Tensor:
    """Features that were computed before, `[B, P]`, where the model is and in the dtype that it compares in.

    Args:
        model: the dual encoder.
        image_embeds: the features.
        *axes: names of further axes between B and P, "frames" for example.

    Raises:
        TypeError: if they are no tensor.
        ValueError: if they have another shape.
    """
    if model.training and torch.is_grad_enabled() and not is_vision_frozen(model):
        warnings.warn(
            "The vision tower is trained, and gets no gradient from `image_embeds`, which were computed "
            "before: give `pixel_values`, or freeze it.",
            stacklevel=2,
        )
    width = projection_dim(model)
    shape = ", ".join(("batch", *axes, str(width)))
    if not isinstance(image_embeds, Tensor):
        raise TypeError(
            f"`image_embeds` must be a tensor ({shape}), or what `get_image_features` returns; got "
            f"{type(image_embeds).__name__}."
        )
    if image_embeds.ndim != 2 + len(axes) or image_embeds.shape[-1] != width:
        raise ValueError(f"`image_embeds` must be ({shape}), got {tuple(image_embeds.shape)}.")
    weight = token_embedding(model).weight
    return image_embeds.to(weight.device, computing_dtype(weight))
