"""The neck of a pyramid: every level learns from those above it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .conv_block import ConvBlock


class FPN(nn.Module):
    """Levels of any widths to as many of one width: each is added, enlarged, to the next larger one.

    Args:
        in_channels: of the levels, the largest map first.
        channels: of every level then.

    Reference: Feature Pyramid Networks (arXiv:1612.03144), without norms, as DenseCLIP (arXiv:2112.01518) has them.
    """

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        self.lateral_convs = nn.ModuleList([ConvBlock(width, channels, 1) for width in in_channels])
        self.fpn_convs = nn.ModuleList([ConvBlock(channels, channels, 3) for _ in in_channels])

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels `[B, in_channels[i], ., .]` to `[B, channels, ., .]`, each of its own size."""
        laterals = [conv(level) for conv, level in zip(self.lateral_convs, levels, strict=True)]
        for index in range(len(laterals) - 1, 0, -1):
            size = laterals[index - 1].shape[-2:]
            laterals[index - 1] = laterals[index - 1] + F.interpolate(laterals[index], size=size, mode="nearest")
        return [conv(level) for conv, level in zip(self.fpn_convs, laterals, strict=True)]
