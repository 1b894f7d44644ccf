"""How close images and texts are: cosines, and the logits that a family makes of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast

from .families import find_family


def computing_dtype(tensor: Tensor) -> torch.dtype:
    """What similarities and logits of a model with such a tensor are computed in: float64 for float64, else float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def normalize(features: Tensor) -> Tensor:
    """L2-normalise the last axis, in float32 or, where the features are float64, in float64."""
    return F.normalize(features.to(computing_dtype(features)), dim=-1)


def scale_and_bias(model: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a dual encoder makes logits of cosines by: a factor and, in some families, something that is added.

    Args:
        model: the dual encoder.
        like: a tensor of the dtype and on the device that are wanted.
    """
    family = find_family(model)
    bias = None if family.logit_bias is None else getattr(model, family.logit_bias).to(like)
    return family.logit_scale(model, like), bias


def has_bias(model: nn.Module) -> bool:
    """Whether a dual encoder was trained to judge each pair for itself, with a bias (SigLIP)."""
    return find_family(model).logit_bias is not None


def cosine_logits(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Logits `[B, C]` of images `[B, P]` against texts `[C, P]`, or against texts of their own `[B, C, P]`.

    In float32 or float64, also under autocast: the scale is about 100, which would raise bf16's rounding to tenths of a
    logit.

    Args:
        image_embeds: L2-normalised.
        text_embeds: L2-normalised.
        scale: factor of the cosines, see `scale_and_bias`.
        bias: what is added.
    """
    with maybe_autocast(image_embeds.device.type, enabled=False):
        text_embeds = text_embeds.to(image_embeds)
        if text_embeds.ndim == 3:
            cosines = torch.einsum("bp,bcp->bc", image_embeds, text_embeds)
        else:
            cosines = image_embeds @ text_embeds.t()
        logits = scale * cosines
        return logits if bias is None else logits + bias
