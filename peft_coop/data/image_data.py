"""What every source of images gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """

    name: str
    class_names: list[str]
    zero_shot_template: str
    train: Dataset
    val: Dataset
    test: Dataset
    flip: bool = True
    skipped: tuple[str, ...] = ()
