"""What was read from a source of images of pairs, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .summary import SHOWN, LeftOut, names_alike, some, tested_and_trained_on, told

if TYPE_CHECKING:
    from datasets import Dataset

    from .composition_data import Pair


@dataclass(frozen=True)
class PairSplitSummary:
    """A part of the images of pairs.

    Attributes:
        pairs: how many pairs the source lists for it.
        unseen_pairs: how many of these are none of training.
        without_images: those of its pairs of which no image is there.
        images: how many.
        unseen_images: how many of these show a pair that is none of training.
    """

    pairs: int
    unseen_pairs: int
    without_images: tuple[Pair, ...]
    images: int
    unseen_images: int


@dataclass(frozen=True)
class CompositionSummary:
    """What was read from a source of images of pairs.

    Attributes:
        name: of the data.
        attributes: the words of the attributes.
        objects: the words of the objects.
        splits: "train", "val" and "test", counted.
        left_out: what was found and not read.
        notes: what was understood, and what looks wrong: pairs without images, words that no training pair has, words
            that read alike, images that are both in the training and in the test images.
        duplicates: test images whose file is, byte by byte, a training image too, as (test, training); None where
            there are too many images to compare.
    """

    name: str
    attributes: tuple[str, ...]
    objects: tuple[str, ...]
    splits: dict[str, PairSplitSummary]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...] | None

    def lines(self) -> list[str]:
        """The summary as text: words, pairs and images counted, then a line for each thing left out or noticed."""
        words = (
            f"{self.name}: {len(self.attributes):,} attributes ({some(self.attributes, SHOWN)}), "
            f"{len(self.objects):,} objects ({some(self.objects, SHOWN)})"
        )
        parts = {split: one for split, one in self.splits.items() if one.pairs or one.images}
        pairs = ", ".join(f"{split} {_counted(one.pairs, one.unseen_pairs, split)}" for split, one in parts.items())
        images = ", ".join(f"{split} {_counted(one.images, one.unseen_images, split)}" for split, one in parts.items())
        return [words, f"pairs: {pairs}; images: {images}", *map(str, self.left_out), *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n  ".join(self.lines())


def summarise_compositions(
    name: str,
    attributes: Sequence[str],
    objects: Sequence[str],
    pairs: Mapping[str, Sequence[Pair]],
    splits: Mapping[str, Dataset],
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
) -> CompositionSummary:
    """Count words, pairs and images, and look for what cannot be meant.

    Args:
        name: of the data.
        attributes: the words of the attributes, in the order of the labels.
        objects: the words of the objects, likewise.
        pairs: of "train", "val" and "test", as the source lists them.
        splits: "train", "val" and "test", with `image`, `attribute` and `object`.
        left_out: what was found and not read.
        notes: what was understood on the way.
    """
    seen = set(pairs["train"])
    shown = {split: _shown(images, attributes, objects) for split, images in splits.items()}
    counts = {split: _count(pairs[split], one, seen) for split, one in shown.items()}
    duplicates = tested_and_trained_on(splits)
    found = [
        *_without_images(counts),
        *_untrained("attributes", attributes, {attribute for attribute, _ in seen}),
        *_untrained("objects", objects, {thing for _, thing in seen}),
        *names_alike(attributes, "attributes"),
        *names_alike(objects, "objects"),
        *_one_sided(counts["test"]),
        *told(duplicates, splits),
    ]
    return CompositionSummary(
        name, tuple(attributes), tuple(objects), counts, tuple(left_out), (*notes, *found), duplicates
    )


def _shown(images: Dataset, attributes: Sequence[str], objects: Sequence[str]) -> list[Pair]:
    """The pair of each image."""
    columns = (images[column] for column in ("attribute", "object"))
    return [(attributes[first], objects[second]) for first, second in zip(*columns, strict=True)]


def _count(pairs: Sequence[Pair], shown: Sequence[Pair], seen: set[Pair]) -> PairSplitSummary:
    with_images = set(shown)
    return PairSplitSummary(
        pairs=len(pairs),
        unseen_pairs=sum(pair not in seen for pair in pairs),
        without_images=tuple(pair for pair in pairs if pair not in with_images),
        images=len(shown),
        unseen_images=sum(pair not in seen for pair in shown),
    )


def _counted(count: int, unseen: int, split: str) -> str:
    return f"{count:,}" if split == "train" else f"{count:,} ({unseen:,} unseen)"


def _without_images(counts: Mapping[str, PairSplitSummary]) -> list[str]:
    return [
        f"without {split} images: {len(one.without_images):,} of its pairs "
        f"({some([' '.join(pair) for pair in one.without_images], SHOWN)})"
        for split, one in counts.items()
        if one.without_images
    ]


def _untrained(what: str, words: Sequence[str], trained: set[str]) -> list[str]:
    missing = [word for word in words if word not in trained]
    return [f"{what} that no training pair has: {len(missing):,} ({some(missing, SHOWN)})"] if missing else []


def _one_sided(test: PairSplitSummary) -> list[str]:
    """Where one of the two accuracies that are weighed against each other has no image."""
    if test.images and test.unseen_images in (0, test.images):
        return [f"no test image is of {'an unseen' if test.unseen_images == 0 else 'a seen'} pair"]
    return []
