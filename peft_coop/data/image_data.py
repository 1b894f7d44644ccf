"""What every source of images gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from .original_pickles import OriginalLists
from .summary import DataSummary, LeftOut, summarise

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class ImageData:
    """Images with labels, to train on, to choose by and to test on.

    Attributes:
        name: for tables and titles.
        class_names: in the order of the labels. Two classes may have one name, as in ImageNet; the features' names,
            which must differ, then tell them apart by a number.
        zero_shot_template: the prompt without learning.
        train: columns `image` and `label` (`ClassLabel`); no image where the source is for testing only.
        val: the same columns; no image where the source has none for validation.
        test: the same columns.
        flip: whether training may mirror the images; a mirrored digit is another thing.
        skipped: the images that were left out since they cannot be read.
        left_out: what else was found and not taken for an image of a class, by the reason.
        notes: what was understood of the source that may not be meant, such as which images are the test.
        original_lists: where the original implementation may have kept its draws.
        items: what they are, for messages.
    """

    name: str
    class_names: list[str]
    zero_shot_template: str
    train: Dataset
    val: Dataset
    test: Dataset
    flip: bool = True
    skipped: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    original_lists: OriginalLists | None = None

    items: ClassVar[str] = "images"

    @cached_property
    def summary(self) -> DataSummary:
        """What these images are, counted: classes, images per split, what was left out, and what looks wrong.

        It looks for files that are both in the training and in the test images, which takes some seconds where there
        are many.
        """
        left_out = self.left_out
        if self.skipped:
            left_out = (*left_out, LeftOut("cannot be read", self.skipped))
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return summarise(self.name, self.class_names, splits, left_out, self.notes)
