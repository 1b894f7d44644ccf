"""What every source of images of compositions gives: each shows an object with an attribute, an old car for example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

Pair = tuple[str, str]
PAIR_TEMPLATE = "a photo of {attribute} {object}"


@dataclass(frozen=True)
class CompositionData:
    """Images of pairs of an attribute and an object, some of the pairs never seen in training.

    Attributes:
        name: for tables and titles.
        attributes: the A words of the attributes, "old" for example, sorted.
        objects: the O words of the objects, "car" for example, sorted.
        train_pairs: (attribute, object) of the training images, in the order of the source's list.
        val_pairs: those of the validation images, seen and unseen in training; empty where there are none.
        test_pairs: those of the test images, likewise.
        train: columns `image`, `attribute` and `object` (both `ClassLabel`, with the names above in their order).
        val: the same columns; no image where the source has none for validation.
        test: the same columns.
        template: the prompt without learning.
        flip: whether training may mirror the images.
        skipped: the images that were left out since they cannot be read, or are of no listed pair.
        notes: what was understood of the source that may not be meant.
    """

    name: str
    attributes: list[str]
    objects: list[str]
    train_pairs: list[Pair]
    val_pairs: list[Pair]
    test_pairs: list[Pair]
    train: Dataset
    val: Dataset
    test: Dataset
    template: str = PAIR_TEMPLATE
    flip: bool = True
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def closed_world(self, split: str = "test") -> list[Pair]:
        """The candidates of the closed world: the pairs of a split and those of training, sorted.

        Args:
            split: "val" or "test".
        """
        pairs = {"val": self.val_pairs, "test": self.test_pairs}[split]
        return sorted({*self.train_pairs, *pairs})

    def open_world(self) -> list[Pair]:
        """The candidates of the open world: every attribute with every object, the object changing fastest."""
        return [(attribute, each) for attribute in self.attributes for each in self.objects]
