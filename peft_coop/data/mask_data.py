"""What every source of images with masks gives: each pixel has a class, or none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .image_data import DEFAULT_TEMPLATE
from .mask_summary import MaskSummary, summarise_masks
from .masks import MaskValues
from .summary import LeftOut

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class MaskData:
    """Images with masks, to train on, to choose by and to test on.

    Attributes:
        name: for tables and titles.
        class_names: of the K classes, in the order of the labels.
        values: what the values in the masks' files mean.
        train: columns `image` and `mask`, both of the type `datasets.Image`; `MaskRows` reads them.
        val: the same columns; no image where the source has none for validation.
        test: the same columns.
        zero_shot_template: the prompt without learning.
        flip: whether training may mirror the images.
        skipped: the images that were left out since they or their masks cannot be read.
        left_out: what else was found and not taken, by the reason: images without a mask, for example.
        notes: what was understood of the source that may not be meant.
    """

    name: str
    class_names: list[str]
    values: MaskValues
    train: Dataset
    val: Dataset
    test: Dataset
    zero_shot_template: str = DEFAULT_TEMPLATE
    flip: bool = True
    skipped: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def summary(self) -> MaskSummary:
        """What these images and masks are, counted: pixels of each class, those of none, and what looks wrong.

        Masks are read for it, up to 2,000 of each split.

        Raises:
            UnreadableImageError: if a mask is missing or damaged, of another size than its image, or has values of no
                class; names it.
        """
        left_out = self.left_out
        if self.skipped:
            left_out = (*left_out, LeftOut("cannot be read, or their masks cannot", self.skipped))
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return summarise_masks(self.name, self.class_names, self.values, splits, left_out, self.notes)
