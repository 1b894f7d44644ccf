"""What is learned from images with masks, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch import Tensor, nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from ...data import MaskValues
from ..compared_methods import LabelledImages, Learned
from ..frozen_clip import FrozenCLIP
from .windows import Windows


@dataclass(frozen=True)
class MaskedImages(LabelledImages):
    """What a method learns from, where each pixel has a class: `train` and `val` have columns `image` and `mask`.

    Attributes:
        values: what the masks' values mean.
        flip: whether training may mirror the images.
    """

    values: MaskValues = field(default_factory=lambda: MaskValues(1))
    flip: bool = True

    @property
    def amount(self) -> str:
        """See `LabelledImages.amount`."""
        return f"{len(self.train):,} images"

    @property
    def shots_used(self) -> tuple[int, int]:
        """The number of training images, twice: they are not of one class each."""
        return len(self.train), len(self.train)


class Segmenter(Learned):
    """What says of each pixel which class it is.

    Args:
        model: gives `logits` `[B, K, h, w]`, on any grid, of `pixel_values` `[B, 3, S, S]`; in evaluation mode.
        clip: whose image processor prepares the images.
        windows: how they are read.
        class_names: of the K classes.

    Attributes:
        example: an image and its labels, whose score maps are drawn where it is saved; None for no picture.
    """

    example: tuple[Picture, np.ndarray] | None = None

    def __init__(self, model: Any, clip: FrozenCLIP, windows: Windows, class_names: Sequence[str]):
        self.model = model
        self.clip = clip
        self.windows = windows
        self.class_names = list(class_names)

    def probabilities(self, image: Picture) -> Tensor:
        """How probable each class is for each pixel of an image, `[K, H, W]`.

        Args:
            image: in RGB, H by W pixels.

        Raises:
            ValueError: if one is not finite.
        """
        found = self.windows.probabilities(image, self.clip.processor.image_processor, self.model)
        if not torch.isfinite(found).all():
            raise ValueError("The model's probabilities are not all finite: it has weights that are no numbers.")
        return found

    def score_maps(self, image: Picture) -> np.ndarray:
        """How close each place of an image is to each class, `[K, h, w]`, cosines, in the size in which it is read.

        Raises:
            ValueError: if the model compares no places with classes.
        """
        return self.windows.logits(image, self.clip.processor.image_processor, ScoreMaps(self.model)).cpu().numpy()

    def segment(self, image: Picture) -> np.ndarray:
        """The class of each pixel of an image, `[H, W]`, int64."""
        return self.probabilities(image).argmax(0).cpu().numpy()


class ScoreMaps(nn.Module):
    """A model whose logits are another one's score maps.

    Args:
        model: the other one.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, pixel_values: Tensor) -> SemanticSegmenterOutput:
        """Score maps `[B, K, h, w]`.

        Raises:
            ValueError: if the model has none.
        """
        found = getattr(self.model(pixel_values=pixel_values), "score_map", None)
        if found is None:
            raise ValueError(f"{type(self.model).__name__} has no score map: it compares no places with classes.")
        return SemanticSegmenterOutput(logits=found)
