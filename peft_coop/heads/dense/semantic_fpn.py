"""The Semantic FPN head: all levels of a pyramid enlarged to the largest one, added, and classified place by place."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .conv_block import ConvBlock


class SemanticFPNHead(nn.Module):
    """Logits of every place of the largest level, from levels that each have half the size of the one before.

    Args:
        in_channels: of every level.
        channels: of what is added.
        n_classes: K.
        n_levels: how many levels there are.
        dropout: the share of whole channels left out before the classifier.

    Reference: Panoptic Feature Pyramid Networks (arXiv:1901.02446), with batch norms, as mmsegmentation has it.
    """

    def __init__(self, in_channels: int, channels: int, n_classes: int, n_levels: int = 4, dropout: float = 0.1):
        super().__init__()
        self.scale_heads = nn.ModuleList([scale_head(in_channels, channels, level) for level in range(n_levels)])
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, n_classes, kernel_size=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits `[B, K, h, w]` from levels `[B, in_channels, ., .]`, the first of which is h by w."""
        enlarged = [head(level) for head, level in zip(self.scale_heads, levels, strict=True)]
        total, size = enlarged[0], enlarged[0].shape[-2:]
        for each in enlarged[1:]:  # of another size only where a level's was odd
            total = total + F.interpolate(each, size=size, mode="bilinear", align_corners=False)
        return self.conv_seg(self.dropout(total))


def scale_head(in_channels: int, channels: int, level: int) -> nn.Sequential:
    """What enlarges one level: a convolution for every time that its size is doubled, and one for the first level."""
    parts: list[nn.Module] = []
    for index in range(max(1, level)):
        parts.append(ConvBlock(in_channels if index == 0 else channels, channels, 3, norm=True))
        if level:
            parts.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*parts)
