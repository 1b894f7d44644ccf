"""Training pictures of images with masks: resized, cut, mirrored and distorted, the mask alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture
from PIL.Image import Resampling

from .epochs import EpochDataset
from .masks import MaskRows, MaskValues
from .preparation import normalise, resampling_of

if TYPE_CHECKING:
    from datasets import Dataset

LONG_EDGE = 2048  # no image is larger before the random factor
RATIO = (0.5, 2.0)  # the random factor of the size
MOST_OF_ONE_CLASS = 0.75
TRIES = 10
# Of the photometric distortion, each with a chance of a half.
BRIGHTNESS = 32.0  # added or taken away, of 255
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 0.1  # of the circle, either way


def fitted_size(width: int, height: int, short_edge: int, factor: float = 1.0) -> tuple[int, int]:
    """Width and height of an image resized: the shorter edge `short_edge`, the longer one up to 2,048; times `factor`.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        short_edge: in pixels.
        factor: of both edges.

    Reference: mmsegmentation's resizing to (2048, S), which keeps the ratio of the edges.
    """
    scale = factor * min(LONG_EDGE / max(width, height), short_edge / min(width, height))
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def crop_corner(
    labels: np.ndarray, crop_size: int, ignore_index: int, generator: np.random.Generator
) -> tuple[int, int]:
    """Draw a square part that no single class fills by three quarters or more; the last of eleven draws, if none is.

    Args:
        labels: `[H, W]`.
        crop_size: height and width of the part, in pixels; of a smaller image it is all.
        ignore_index: of pixels of no class, which do not count.
        generator: of the draws.

    Returns:
        Left and upper edge, in pixels.
    """
    high, wide = labels.shape
    for _ in range(TRIES):
        left, upper = _corner(wide, high, crop_size, generator)
        part = labels[upper : upper + crop_size, left : left + crop_size]
        counts = np.unique(part[part != ignore_index], return_counts=True)[1]
        if len(counts) > 1 and counts.max() < MOST_OF_ONE_CLASS * counts.sum():
            return left, upper
    return _corner(wide, high, crop_size, generator)


def _corner(wide: int, high: int, crop_size: int, generator: np.random.Generator) -> tuple[int, int]:
    upper, left = (int(generator.integers(max(0, room - crop_size) + 1)) for room in (high, wide))
    return left, upper


def distorted(image: Picture, generator: np.random.Generator) -> Picture:
    """Change brightness, contrast, saturation and hue, each with a chance of a half.

    Args:
        image: in RGB.
        generator: of the draws.
    """
    pixels = np.asarray(image).astype(np.float64)
    if generator.random() < 0.5:
        pixels = _whole(pixels + generator.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast_first = generator.random() < 0.5
    contrast = generator.uniform(*CONTRAST) if generator.random() < 0.5 else 1.0
    if contrast_first:
        pixels = _whole(pixels * contrast)
    saturation = generator.uniform(*SATURATION) if generator.random() < 0.5 else 1.0
    hue = generator.uniform(-HUE, HUE) if generator.random() < 0.5 else 0.0
    if (saturation, hue) != (1.0, 0.0):
        values = np.asarray(Image.fromarray(pixels.astype(np.uint8)).convert("HSV")).astype(np.float64)
        values[..., 0] = (values[..., 0] + round(256 * hue)) % 256
        values[..., 1] = _whole(values[..., 1] * saturation)
        pixels = np.asarray(Image.fromarray(values.astype(np.uint8), "HSV").convert("RGB")).astype(np.float64)
    if not contrast_first:
        pixels = _whole(pixels * contrast)
    return Image.fromarray(pixels.astype(np.uint8))


def _whole(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).round()


class RandomScene:
    """Turns an image and its mask into what is trained on: resized, cut, mirrored, distorted, normalised, filled up.

    Args:
        image_processor: the model's; gives the filter, the rescaling and the normalisation.
        crop_size: S, height and width in pixels.
        seed: of the draws.
        flip: mirror half of the images.
        distort: change brightness, contrast, saturation and hue.

    Reference: DenseCLIP (arXiv:2112.01518), with the settings of mmsegmentation for ADE20K.
    """

    def __init__(self, image_processor: Any, crop_size: int, seed: int, flip: bool = True, distort: bool = True):
        self.image_processor = image_processor
        self.crop_size = crop_size
        self.seed = seed
        self.flip = flip
        self.distort = distort

    def __call__(
        self, image: Picture, labels: np.ndarray, ignore_index: int, index: int, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a view; the same one for the same seed, epoch and index.

        Args:
            image: in RGB.
            labels: `[H, W]`, of its size.
            ignore_index: of pixels of no class.
            index: of the image in its dataset.
            epoch: of the draw.

        Returns:
            `pixel_values`, `[3, S, S]`, 0 where the image does not reach, and `labels`, `[S, S]`, `ignore_index` there.
        """
        generator = np.random.default_rng([self.seed, epoch, index])
        size = fitted_size(*image.size, self.crop_size, generator.uniform(*RATIO))
        image = image.resize(size, resampling_of(self.image_processor))
        labels = np.asarray(Image.fromarray(labels).resize(size, Resampling.NEAREST))
        left, upper = crop_corner(labels, self.crop_size, ignore_index, generator)
        labels = labels[upper : upper + self.crop_size, left : left + self.crop_size]
        high, wide = labels.shape
        image = image.crop((left, upper, left + wide, upper + high))
        if self.flip and generator.random() < 0.5:
            image, labels = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels[:, ::-1]
        if self.distort:
            image = distorted(image, generator)
        pixel_values = torch.zeros(3, self.crop_size, self.crop_size)
        pixel_values[:, :high, :wide] = normalise([image], self.image_processor)[0]
        filled = torch.full((self.crop_size, self.crop_size), ignore_index, dtype=torch.long)
        filled[:high, :wide] = torch.from_numpy(labels.astype(np.int64))
        return pixel_values, filled


class AugmentedMasks(EpochDataset):
    """Images with masks to train on, each drawn anew in every epoch; the same for a seed with any number of workers.

    As `AugmentedImages`, it is told the epoch by the Trainer's data loader or an `AugmentationCallback`; in a loop of
    one's own, call `set_epoch` before every epoch. An item has `pixel_values`, `[3, S, S]`, and `labels`, `[S, S]`.

    Args:
        dataset: with columns `image` and `mask`.
        values: what the masks' values mean.
        image_processor: the model's; gives the filter, the rescaling and the normalisation.
        crop_size: S, height and width in pixels: a multiple of the vision tower's patches.
        seed: of the draws.
        flip: mirror half of the images.
        distort: change brightness, contrast, saturation and hue.

    Raises:
        ValueError: if a column is missing or holds no images, or `crop_size` is below 1; from indexing, if an image or
            a mask cannot be read.

    Reference: DenseCLIP (arXiv:2112.01518), with the settings of mmsegmentation for ADE20K.
    """

    def __init__(
        self,
        dataset: Dataset,
        values: MaskValues,
        image_processor: Any,
        crop_size: int,
        seed: int,
        flip: bool = True,
        distort: bool = True,
    ):
        super().__init__()
        if crop_size < 1:
            raise ValueError(f"`crop_size` must be 1 or more pixels, got {crop_size}.")
        self._rows = MaskRows(dataset, values)
        self._view = RandomScene(image_processor, crop_size, seed, flip, distort)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, labels = self._rows[index]
        pixel_values, labels_of_view = self._view(image, labels, self._rows.values.ignore_index, index, self.epoch)
        self._count(1)
        return {"pixel_values": pixel_values, "labels": labels_of_view}
