"""The learnable vectors themselves: how they start, and how CoCoOp shifts them by an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CTX_STD = 0.02


def gaussian_context(*shape: int) -> Tensor:
    """Context vectors drawn from a Gaussian with mean 0 and standard deviation 0.02."""
    return torch.empty(*shape).normal_(std=CTX_STD)


def shift_by_image(
    ctx: Tensor, image_embeds: Tensor, linear1: Callable[[Tensor], Tensor], linear2: Callable[[Tensor], Tensor]
) -> Tensor:
    """Add what the Meta-Net sees in each image to every context vector.

    Shapes: B images, M context vectors (C*M when class-specific), D text width, P projection width.

    Args:
        ctx: `[M, D]`.
        image_embeds: `[B, P]`, L2-normalised, as the original feeds its Meta-Net.
        linear1: P to the bottleneck.
        linear2: the bottleneck to D.

    Returns:
        `[B, M, D]`.

    Reference: CoCoOp (arXiv:2203.05557); the added vector is the paper's pi.
    """
    meta_token = linear2(torch.relu(linear1(image_embeds)))  # [B, D]
    return ctx + meta_token[:, None]
