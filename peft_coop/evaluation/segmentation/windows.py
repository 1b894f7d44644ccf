"""How images of any size are read by a vision tower that was trained on squares: resized, window by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image as Picture
from PIL.Image import Transpose
from torch import Tensor, nn

from ...data.mask_augmentation import fitted_size
from ...data.preparation import normalise, resampling_of
from ...peft_model.sliding_window import STRIDE, over_windows

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Those of the papers' "multi-scale", over the size of a window."""


@dataclass(frozen=True)
class Windows:
    """How images are read where nothing is trained.

    An image is resized so that its shorter edge is `crop_size` (and the longer one 2,048 at most), and read in square
    windows of that side, whose logits are averaged where they overlap.

    Attributes:
        crop_size: S, in pixels: that of the training; a multiple of the vision tower's patches.
        stride: from one window to the next, in pixels; None: two thirds of S.
        scales: of the image, as factors of that size; the probabilities of several are averaged.
        flip: also mirrored, the probabilities averaged.

    Raises:
        ValueError: if a number is not above 0, the stride is larger than a window, or there is no scale.

    Reference: DenseCLIP (arXiv:2112.01518); mmsegmentation's "slide" mode.
    """

    crop_size: int
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_size < 1:
            raise ValueError(f"`crop_size` must be 1 or more pixels, got {self.crop_size}.")
        if self.stride is not None and not 0 < self.stride <= self.crop_size:
            raise ValueError(
                f"`stride` must be from 1 to the window's {self.crop_size} pixels, so that windows leave nothing out, "
                f"got {self.stride}."
            )
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"`scales` must be one or more numbers above 0, got {self.scales}.")

    @property
    def step(self) -> int:
        """From one window to the next, in pixels."""
        return max(1, int(self.crop_size * STRIDE)) if self.stride is None else self.stride

    def settings(self) -> dict[str, Any]:
        """What tells one reading from another, as JSON; without what is as by default."""
        given: dict[str, Any] = {"crop_size": self.crop_size, "stride": self.stride, "flip_test": self.flip}
        if self.scales != (1.0,):
            given["scales"] = list(self.scales)
        return {name: value for name, value in given.items() if value not in (None, False)}

    @torch.no_grad()
    def probabilities(self, image: Picture, image_processor: Any, model: nn.Module) -> Tensor:
        """How probable each class is for each pixel, `[K, H, W]`, float32, on the device of the logits.

        Args:
            image: in RGB, H by W.
            image_processor: the model's.
            model: gives `logits` `[B, K, h, w]`, on any grid, of `pixel_values` `[B, 3, S, S]`.
        """
        total: Tensor | None = None
        views = [(scale, mirrored) for scale in self.scales for mirrored in ((False, True) if self.flip else (False,))]
        for scale, mirrored in views:
            view = image.transpose(Transpose.FLIP_LEFT_RIGHT) if mirrored else image
            logits = self.logits(view, image_processor, model, scale)
            found = F.interpolate(logits[None], size=image.size[::-1], mode="bilinear", align_corners=False)[0]
            found = found.softmax(0).flip(-1) if mirrored else found.softmax(0)
            total = found if total is None else total + found
        return torch.as_tensor(total) / len(views)

    @torch.no_grad()
    def logits(self, image: Picture, image_processor: Any, model: nn.Module, scale: float = 1.0) -> Tensor:
        """Logits of an image in the size in which it is read, `[K, h, w]`, float32.

        Args:
            image: in RGB.
            image_processor: the model's.
            model: as for `probabilities`.
            scale: of the image, as a factor of the size.
        """
        resized = image.resize(fitted_size(*image.size, self.crop_size, scale), resampling_of(image_processor))
        pixels = normalise([resized], image_processor).to(next(model.parameters()).device)
        return over_windows(model, pixels, self.crop_size, self.step)[0].float()
