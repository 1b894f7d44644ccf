"""What every source of images of compositions gives: each shows an object with an attribute, an old car for example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .columns import with_column
from .composition_summary import CompositionSummary, summarise_compositions
from .summary import LeftOut

if TYPE_CHECKING:
    from datasets import Dataset

Pair = tuple[str, str]
PAIR_TEMPLATE = "a photo of {attribute} {object}"
"""The hand-written prompt of a pair, where its data have no other."""
# So many pairs are named in an error.
NAMED_PAIRS = 3


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
        skipped: the images that were left out since they are missing or cannot be read.
        left_out: what else was found and not taken for an image of a pair, by the reason.
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
    left_out: tuple[LeftOut, ...] = ()
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

    @cached_property
    def summary(self) -> CompositionSummary:
        """What these images are, counted: words, pairs seen and unseen, images, what was left out and looks wrong.

        It looks for files that are both in the training and in the test images, which takes some seconds where there
        are many.
        """
        left_out = self.left_out
        if self.skipped:
            left_out = (*left_out, LeftOut("missing, or cannot be read", self.skipped))
        pairs = {"train": self.train_pairs, "val": self.val_pairs, "test": self.test_pairs}
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return summarise_compositions(self.name, self.attributes, self.objects, pairs, splits, left_out, self.notes)


def pair_names(pairs: Sequence[Pair]) -> list[str]:
    """Pairs as class names, "old car" for example, with the words as they are: for methods that know names only.

    Raises:
        ValueError: if two pairs have one name, as ("dark", "red car") and ("dark red", "car") do.
    """
    named: dict[str, Pair] = {}
    for pair in pairs:
        other = named.setdefault(" ".join(pair), pair)
        if tuple(other) != tuple(pair):
            raise ValueError(f"The pairs {tuple(other)} and {tuple(pair)} have one name, {' '.join(pair)!r}.")
    return [" ".join(pair) for pair in pairs]


def with_pair_labels(dataset: Dataset, pairs: Sequence[Pair]) -> Dataset:
    """Say which of some candidates each image shows.

    Args:
        dataset: with `attribute` and `object`, both `ClassLabel`: images, or their features.
        pairs: the M candidates.

    Returns:
        The dataset with a column `label`, from 0 to M - 1, in the place of one that it may have.

    Raises:
        ValueError: if a candidate is there twice, the dataset has no such columns, an image has no attribute or
            object, or it shows none of the candidates; names the pairs.
    """
    from datasets import Value

    labels = {tuple(pair): label for label, pair in enumerate(pairs)}
    if len(labels) < len(pairs):
        twice = next(pair for label, pair in enumerate(pairs) if labels[tuple(pair)] != label)
        raise ValueError(f"The candidates must differ, {tuple(twice)} is there twice.")
    shown = _shown_pairs(dataset)
    foreign = sorted({pair for pair in shown if pair not in labels})
    if foreign:
        more = ", …" if len(foreign) > NAMED_PAIRS else ""
        raise ValueError(
            f"{len(foreign):,} of the pairs that the images show are not among the {len(labels):,} candidates: "
            f"{', '.join(map(str, foreign[:NAMED_PAIRS]))}{more}. Give all pairs, or take these images out."
        )
    return with_column(dataset, "label", [labels[pair] for pair in shown], Value("int64"))


def _shown_pairs(dataset: Dataset) -> list[Pair]:
    """The pair of each image."""
    from datasets import ClassLabel

    words: list[list[str]] = []
    for column in ("attribute", "object"):
        feature = dataset.features.get(column)
        if not isinstance(feature, ClassLabel):
            raise ValueError(f"The column {column!r} must be there and be of the type ClassLabel, got {feature!r}.")
        labels = dataset.with_format(None)[column][:]
        unknown = next((row for row, label in enumerate(labels) if label is None or label < 0), None)
        if unknown is not None:
            raise ValueError(f"Row {unknown} has no {column}: it is {labels[unknown]}.")
        words.append([feature.names[label] for label in labels])
    return list(zip(*words, strict=True))
