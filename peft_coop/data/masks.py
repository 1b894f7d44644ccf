"""Masks: what the values in their files mean, and images with their masks read one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL.Image import Image as Picture

from .class_lists import Colour
from .images import (
    ImageRows,
    UnreadableImageError,
    check_columns,
    image_name,
    naming_what_is_unreadable,
    opened,
    undecoded,
)

if TYPE_CHECKING:
    from datasets import Dataset

MASK_COLUMN = "mask"
# What stands for "no class" in masks of 8 bits, and in those of 16 bits where 255 is a class.
IGNORED, IGNORED_OF_MANY = 255, 65535
# Modes of Pillow in which a pixel is a number.
NUMBERS = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
# So many values are named in an error.
NAMED_VALUES = 5


def has_masks(dataset: Dataset) -> bool:
    """Whether the rows of a dataset are images with masks."""
    return MASK_COLUMN in dataset.column_names


@dataclass(frozen=True)
class MaskValues:
    """What the values in mask files mean.

    Attributes:
        num_classes: K.
        reduce_labels: 0 is no class, and the classes are 1 to K, as in ADE20K; otherwise they are 0 to K - 1.
        colours: the number of the class, from 0, by its colour, for masks that are pictures in colour.
    """

    num_classes: int
    reduce_labels: bool = False
    colours: Mapping[Colour, int] = field(default_factory=dict)

    @property
    def ignore_index(self) -> int:
        """What stands for "no class", in the files and in labels: 255, or 65535 of more than 255 classes."""
        return IGNORED if self.num_classes <= IGNORED else IGNORED_OF_MANY

    def labels(self, mask: Picture) -> np.ndarray:
        """The class of each pixel, `[H, W]`, int32: 0 to K - 1, or `ignore_index`.

        Args:
            mask: as Pillow opens it. With a palette its numbers count, not its colours; in grey or with as much red as
                green as blue, its brightness; in colour, `colours`.

        Raises:
            ValueError: if it is in colour and there are no `colours`, or a value or colour is of no class; names them.
        """
        if mask.format == "JPEG":
            raise ValueError("a JPEG does not keep the values of a mask: save masks as PNG.")
        if mask.mode not in NUMBERS:
            values = self._of_picture(mask)
        else:
            values = np.asarray(mask).astype(np.int32)
        return self._in_range(values)

    def _of_picture(self, mask: Picture) -> np.ndarray:
        """The values of a mask that has several channels.

        Raises:
            ValueError: if it is transparent, or its colours are not known.
        """
        if mask.mode not in ("RGB", "RGBA", "LA", "PA"):
            raise ValueError(
                f"a mask must be grey, have a palette, or be in colour, it is of Pillow's mode {mask.mode}."
            )
        if mask.mode != "RGB" and np.asarray(mask.getchannel("A")).min() < 255:
            raise ValueError("it is transparent in places: a mask says of each pixel which class it is.")
        pixels = np.asarray(mask.convert("RGB")).astype(np.int32)
        if self.colours:
            return self._of_colours(pixels)
        if (pixels == pixels[..., :1]).all():
            return pixels[..., 0]
        raise ValueError(
            "it is in colour, and which colour is which class is not said: give the names of the classes as JSON, "
            'a list of {"name": "wall", "color": [120, 120, 120]}, or save the numbers of the classes.'
        )

    def _of_colours(self, pixels: np.ndarray) -> np.ndarray:
        codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
        found, places = np.unique(codes, return_inverse=True)
        known = {(red << 16) | (green << 8) | blue: index for (red, green, blue), index in self.colours.items()}
        foreign = [code for code in found.tolist() if code not in known and code != 0]
        if foreign:
            named = ", ".join(str([code >> 16, code >> 8 & 255, code & 255]) for code in foreign[:NAMED_VALUES])
            raise ValueError(f"it has {len(foreign):,} colours that are of no class, such as {named}.")
        ignored, shift = self.ignore_index, int(self.reduce_labels)
        values = np.array([known[code] + shift if code in known else ignored for code in found.tolist()], np.int32)
        return values[places].reshape(codes.shape)

    def _in_range(self, values: np.ndarray) -> np.ndarray:
        """Labels of values.

        Raises:
            ValueError: if one is of no class.
        """
        labels = values - int(self.reduce_labels)
        ignored = values == self.ignore_index
        if self.reduce_labels:
            ignored |= values == 0
        foreign = (labels < 0) | (labels >= self.num_classes)
        if (foreign & ~ignored).any():
            raise ValueError(self._told(np.unique(values[foreign & ~ignored]).tolist()))
        labels[ignored] = self.ignore_index
        return labels

    def _told(self, foreign: list[int]) -> str:
        """What is wrong with values of no class."""
        first = int(self.reduce_labels)
        hint = ""
        if foreign == [self.num_classes] and not self.reduce_labels:
            hint = " Where 0 is no class and the classes count from 1, ask for reduced labels (--reduce-labels)."
        more = ", …" if len(foreign) > NAMED_VALUES else ""
        return (
            f"it has the values {', '.join(map(str, foreign[:NAMED_VALUES]))}{more}, which are of no class: "
            f"{self.num_classes} classes have {first} to {self.num_classes - 1 + first}, and {self.ignore_index}"
            f"{' and 0 are' if self.reduce_labels else ' is'} for none.{hint}"
        )


class MaskRows:
    """Images and their masks by row, read when they are asked for.

    Args:
        dataset: with columns `image` and `mask`, both of the type `datasets.Image`.
        values: what the masks' values mean.

    Raises:
        ValueError: if there are no such columns; from indexing, an `UnreadableImageError`.
    """

    def __init__(self, dataset: Dataset, values: MaskValues):
        check_columns(dataset, MASK_COLUMN)
        self.values = values
        self._images = ImageRows(dataset)
        self._masks = undecoded(dataset, MASK_COLUMN).select_columns([MASK_COLUMN])

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: int) -> tuple[Picture, np.ndarray]:
        """An image in RGB and its labels `[H, W]`, int32, of the same height and width."""
        image, labels = self._images[index], self.labels(index)
        self._check_size(index, image.size, labels)
        return image, labels

    def check(self, index: int) -> None:
        """Read an image and its mask."""
        self[index]

    def image(self, index: int) -> Picture:
        """An image alone."""
        return self._images[index]

    def labels(self, index: int) -> np.ndarray:
        """The class of each pixel, see `MaskValues.labels`.

        Raises:
            UnreadableImageError: if the mask is missing or damaged, or has values of no class.
        """
        stored, split = self._masks[index][MASK_COLUMN], self._masks.split
        with naming_what_is_unreadable(stored, index, split, "mask"), opened(stored) as mask:
            mask.load()
            return self.values.labels(mask)

    def checked(self, index: int) -> tuple[np.ndarray, bool]:
        """The labels, and whether the image is turned by its EXIF data; of the image the size alone is looked at.

        Raises:
            UnreadableImageError: if one of the two cannot be read, or they are of different sizes.
        """
        size, turned = self._images.size(index)
        labels = self.labels(index)
        self._check_size(index, size, labels)
        return labels, turned

    def name(self, index: int) -> str:
        """The image's file, or its row where it comes from no file of its own."""
        return self._images.name(index)

    def mask_name(self, index: int) -> str:
        """The mask's file, or its row."""
        return image_name(self._masks[index][MASK_COLUMN], index, self._masks.split)

    def _check_size(self, index: int, size: tuple[int, int], labels: np.ndarray) -> None:
        if size != labels.shape[::-1]:
            high, wide = labels.shape
            turned = (
                ", turned as its EXIF data say" if size[::-1] == (wide, high) and self._images.size(index)[1] else ""
            )
            raise UnreadableImageError(
                f"The mask {self.mask_name(index)} is of {wide} x {high} pixels, its image {self.name(index)} of "
                f"{size[0]} x {size[1]}{turned}: a mask has the size of its image."
            )
