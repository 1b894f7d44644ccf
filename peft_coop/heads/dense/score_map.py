"""How close every place of an image is to every class."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.utils.generic import maybe_autocast

from ...towers import normalize


def score_map(places: Tensor, texts: Tensor) -> Tensor:
    """Cosine similarities `[B, K, h, w]`, without any scale, in float32 or float64.

    Args:
        places: `[B, P, h, w]`, projected features of an image's places, normalised or not.
        texts: `[B, K, P]`, or `[K, P]` for all images, normalised or not.

    Reference: DenseCLIP (arXiv:2112.01518).
    """
    with maybe_autocast(places.device.type, enabled=False):
        places, texts = normalize(places.movedim(1, -1)), normalize(texts).expand(places.shape[0], -1, -1)
        return torch.einsum("bhwp,bkp->bkhw", places, texts.to(places))
