"""The convolution that necks and heads are built of."""

from __future__ import annotations

from torch import Tensor, nn


class ConvBlock(nn.Module):
    """A convolution that keeps the size; with a norm, also a batch norm and a ReLU behind it, and no bias.

    Its weights start as mmcv's: normal, scaled by what the output is connected to.

    Args:
        in_channels: of the map.
        out_channels: of what it becomes.
        kernel_size: 1, 3, 5 …
        norm: whether a batch norm and a ReLU follow.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(out_channels) if norm else None
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, states: Tensor) -> Tensor:
        """`[B, in_channels, h, w]` to `[B, out_channels, h, w]`."""
        states = self.conv(states)
        return states if self.bn is None else self.bn(states).relu()
