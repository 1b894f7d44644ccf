"""Maps of a plain ViT, all of one size, made into a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

N_LEVELS = 4


class Pyramid(nn.Module):
    """Four levels from four maps of a ViT: twice enlarged, once enlarged, as it is, and once reduced.

    With patches of 16 pixels these have strides of 4, 8, 16 and 32. Each map is normalised over all its channels and
    places first. The batch norm is torch's, which `nn.SyncBatchNorm.convert_sync_batchnorm` makes one over processes.

    Shapes: B images, W channels, h and w places of the ViT's patches.

    Args:
        width: W.

    Reference: DenseCLIP (arXiv:2112.01518).
    """

    def __init__(self, width: int):
        super().__init__()
        self.fpn1 = nn.Sequential(
            nn.GroupNorm(1, width), enlarged(width), nn.BatchNorm2d(width), nn.GELU(), enlarged(width)
        )
        self.fpn2 = nn.Sequential(nn.GroupNorm(1, width), enlarged(width))
        self.fpn3 = nn.GroupNorm(1, width)
        self.fpn4 = nn.Sequential(nn.GroupNorm(1, width), nn.MaxPool2d(2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Make the levels.

        Args:
            maps: four, each `[B, W, h, w]`.

        Returns:
            `[B, W, 4h, 4w]`, `[B, W, 2h, 2w]`, `[B, W, h, w]` and `[B, W, h//2, w//2]`.

        Raises:
            ValueError: if there are not four maps, or the last one is too small to be reduced.
        """
        if len(maps) != N_LEVELS or min(maps[-1].shape[-2:]) < 2:
            raise ValueError(
                f"A pyramid needs {N_LEVELS} maps of 2 x 2 places or more, got {len(maps)} of the shapes "
                f"{[tuple(each.shape) for each in maps]}."
            )
        levels = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        # The backward pass of torch's group norm has crashed on a CPU for maps whose channels come last.
        return [level(each.contiguous()) for level, each in zip(levels, maps, strict=True)]


def enlarged(width: int) -> nn.ConvTranspose2d:
    """A learned enlargement to twice the height and width."""
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
