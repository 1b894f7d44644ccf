"""The papers' training pictures: a random part of each image, resized and perhaps mirrored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL.Image import Image as Picture
from PIL.Image import Resampling, Transpose

from .epochs import EpochDataset
from .images import ImageRows, check_columns
from .preparation import normalise

if TYPE_CHECKING:
    from datasets import Dataset

SCALE = (0.08, 1.0)  # share of the image's area
RATIO = (3 / 4, 4 / 3)  # width over height
TRIES = 10


def crop_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a part of an image: an area uniformly from `SCALE`, a ratio log-uniformly from `RATIO`, then a place.

    After ten draws that do not fit, it is the largest central part whose ratio is allowed.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        generator: of the draws.

    Returns:
        Left, upper, right and lower edge in pixels, as `PIL.Image.Image.crop` takes them.
    """
    for _ in range(TRIES):
        area = width * height * generator.uniform(*SCALE)
        ratio = math.exp(generator.uniform(*np.log(RATIO)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, upper = (int(generator.integers(room + 1)) for room in (width - wide, height - high))
            return left, upper, left + wide, upper + high
    wide, high = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, upper = (width - wide) // 2, (height - high) // 2
    return left, upper, left + wide, upper + high


class RandomView:
    """Turns an image into what the vision tower trains on: random resized crop, flip, the processor's normalisation.

    Args:
        image_processor: the model's; gives the size, the rescaling and the normalisation.
        seed: of the draws.
        flip: mirror half of the images. Not for those that mean something else mirrored, such as digits.

    Raises:
        ValueError: if the processor's size cannot be told.

    Reference: CoOp (arXiv:2109.01134), section 4.1.
    """

    def __init__(self, image_processor: Any, seed: int, flip: bool = True):
        self.image_processor = image_processor
        self.seed = seed
        self.flip = flip
        self.size = _output_size(image_processor)

    def __call__(self, image: Picture, index: int, epoch: int) -> torch.Tensor:
        """Draw a view; the same one for the same seed, epoch and index.

        Args:
            image: in RGB.
            index: of the image in its dataset.
            epoch: of the draw.

        Returns:
            `pixel_values`, `[3, H, W]`.
        """
        generator = np.random.default_rng([self.seed, epoch, index])
        view = image.crop(crop_box(*image.size, generator)).resize(self.size, Resampling.BICUBIC)
        if self.flip and generator.random() < 0.5:
            view = view.transpose(Transpose.FLIP_LEFT_RIGHT)
        return normalise([view], self.image_processor)[0]


def _output_size(image_processor: Any) -> tuple[int, int]:
    """Width and height of the pictures that a processor makes."""
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    size = dict(size or {})
    if "height" in size and "width" in size:
        return size["width"], size["height"]
    if "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    raise ValueError(f"The image processor's size needs height and width, or shortest_edge, got {size}.")


class AugmentedImages(EpochDataset):
    """Images to train on, each drawn anew in every epoch; the same for a seed with any number of workers.

    The Trainer's data loader tells the epoch, except where it resumes within one or runs in several processes:
    `AugmentationCallback` does so always. In a loop of one's own, call `set_epoch` before every epoch.

    Args:
        dataset: with images and integer labels.
        image_processor: the model's; gives the size, the rescaling and the normalisation.
        seed: of the draws.
        flip: mirror half of the images. Not for those that mean something else mirrored, such as digits.
        image_column: the images' column.
        label_column: the labels' column.

    Raises:
        ValueError: if a column is missing or holds no images; from indexing, if an image cannot be read.

    Reference: CoOp (arXiv:2109.01134), section 4.1.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_processor: Any,
        seed: int,
        flip: bool = True,
        image_column: str = "image",
        label_column: str = "label",
    ):
        super().__init__()
        check_columns(dataset, image_column, label_column)
        self._images = ImageRows(dataset, image_column)
        self._labels = dataset.with_format(None)[label_column][:]
        self._view = RandomView(image_processor, seed, flip)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixel_values = self._view(self._images[index], index, self.epoch)
        self._count(1)
        return {"pixel_values": pixel_values, "labels": self._labels[index]}
