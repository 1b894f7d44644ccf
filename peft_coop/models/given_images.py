"""Images as a call gives them: pixels, or features that were computed before."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..towers import computing_dtype, image_features, is_vision_frozen, normalize, projection_dim, token_embedding


def embed_images(
    model: nn.Module,
    pixel_values: Tensor | None,
    image_embeds: Tensor | None,
    prompts: Sequence[Tensor] = (),
    **of_images: Any,
) -> Tensor:
    """Image features `[B, P]`, L2-normalised: computed, or those that are given.

    Args:
        model: the dual encoder.
        pixel_values: as its image processor gives them.
        image_embeds: `[B, P]`, instead; normalised or not.
        prompts: of its vision tower, where pixels are given.
        **of_images: what its vision tower takes beside `pixel_values`.

    Raises:
        TypeError: if `image_embeds` is no tensor.
        ValueError: if it has another shape, or there is not exactly one of the two.
    """
    if (pixel_values is None) == (image_embeds is None):
        given = "neither" if pixel_values is None else "both"
        raise ValueError(f"Give either `pixel_values` or `image_embeds` (features computed before), got {given}.")
    if image_embeds is not None:
        if model.training and torch.is_grad_enabled() and not is_vision_frozen(model):
            warnings.warn(
                "The vision tower is trained, and gets no gradient from `image_embeds`, which were computed "
                "before: give `pixel_values`, or freeze it.",
                stacklevel=2,
            )
        width = projection_dim(model)
        if not isinstance(image_embeds, Tensor):
            raise TypeError(
                f"`image_embeds` must be a tensor (batch, {width}), or what `get_image_features` returns; got "
                f"{type(image_embeds).__name__}."
            )
        if image_embeds.ndim != 2 or image_embeds.shape[1] != width:
            raise ValueError(f"`image_embeds` must be (batch, {width}), got {tuple(image_embeds.shape)}.")
        weight = token_embedding(model).weight
        return normalize(image_embeds.to(weight.device, computing_dtype(weight)))
    return normalize(image_features(model, cast(Tensor, pixel_values), prompts, **of_images))
