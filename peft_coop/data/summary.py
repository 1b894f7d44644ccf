"""What was read from a source of images, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..prompts.alike_names import alike
from .image_bytes import same_images
from .label_values import has_several_labels

if TYPE_CHECKING:
    from datasets import Dataset

# So many names or files are shown of many.
SHOWN = 5
SHOWN_FILES = 3
# Beyond so many images nobody wants to wait for the search of duplicates.
MOST_COMPARED = 200_000


@dataclass(frozen=True)
class LeftOut:
    """Files, folders or splits that are in a source and were not read.

    Attributes:
        reason: why.
        names: of them.
    """

    reason: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"left out, {counted(self.reason, self.names)[0]}"


@dataclass(frozen=True)
class SplitSummary:
    """A part of the images.

    Attributes:
        images: how many.
        classes: how many classes have an image in it.
        fewest: images of the class that has fewest of those that have any; 0 where there is no image.
        most: images of the class that has most.
    """

    images: int
    classes: int
    fewest: int
    most: int


@dataclass(frozen=True)
class DataSummary:
    """What was read from a source.

    Attributes:
        name: of the data.
        class_names: in the order of the labels.
        splits: "train", "val" and "test", counted.
        left_out: what was found and not read.
        notes: what was understood, and what looks wrong: classes without images, names that read alike, images that
            are both in the training and in the test images.
        duplicates: test images whose file is, byte by byte, a training image too, as (test, training); None where
            there are too many images to compare.
        items: what was read.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, SplitSummary]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...] | None

    items: ClassVar[str] = "images"

    def lines(self) -> list[str]:
        """The summary as text: the first line counts, each further one tells of something left out or noticed."""
        counts = ", ".join(f"{split} {_counted(one)}" for split, one in self.splits.items() if one.images)
        names = some(self.class_names, SHOWN)
        first = f"{self.name}: {len(self.class_names):,} classes ({names}); {self.items}: {counts}"
        return [first, *map(str, self.left_out), *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n  ".join(self.lines())


def summarise(
    name: str,
    class_names: Sequence[str],
    splits: Mapping[str, Dataset],
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
    items: str = "images",
) -> DataSummary:
    """Count images by class, and look for what cannot be meant.

    Args:
        name: of the data.
        class_names: in the order of the labels.
        splits: "train", "val" and "test", with `image` or `video`, and `label`.
        left_out: what was found and not read.
        notes: what was understood on the way.
        items: what is counted.
    """
    counts = {split: _counts(images) for split, images in splits.items()}
    duplicates = tested_and_trained_on(splits)
    return DataSummary(
        name,
        tuple(class_names),
        {split: _count(one, len(splits[split])) for split, one in counts.items()},
        tuple(left_out),
        (*notes, *_missing(class_names, counts, items), *names_alike(class_names), *told(duplicates, splits, items)),
        duplicates,
    )


def _counts(images: Dataset) -> Counter[int]:
    """How many images have each class; where images have several, each counts for all of them."""
    labels = images["label"][:]
    if has_several_labels(images):
        return Counter(label for row in labels for label, value in enumerate(row) if value)
    return Counter(labels)


def _count(labels: Counter[int], images: int) -> SplitSummary:
    if not labels:
        return SplitSummary(images, 0, 0, 0)
    return SplitSummary(images, len(labels), min(labels.values()), max(labels.values()))


def _counted(split: SplitSummary) -> str:
    spread = f"{split.fewest:,}" if split.fewest == split.most else f"{split.fewest:,} to {split.most:,}"
    return f"{split.images:,} ({spread} a class)"


def _missing(class_names: Sequence[str], counts: Mapping[str, Counter[int]], items: str) -> list[str]:
    """Classes without an image, or video, in a split that has some."""
    notes = []
    for split, labels in counts.items():
        missing = [name for label, name in enumerate(class_names) if label not in labels]
        if labels and missing:
            notes.append(f"without {split} {items}: {len(missing):,} of the classes ({some(missing, SHOWN)})")
    return notes


def names_alike(names: Sequence[str], what: str = "class names") -> list[str]:
    """A note of names that read as one."""
    repeated = [f"{name!r} and {name!r}" for name, count in Counter(names).items() if count > 1]
    pairs = [*repeated, *(f"{first!r} and {second!r}" for first, second in alike(names))]
    return [f"{what} that read as one: {some(pairs, SHOWN)}"] if pairs else []


def tested_and_trained_on(splits: Mapping[str, Dataset]) -> tuple[tuple[str, str], ...] | None:
    """Test images whose file is, byte by byte, a training image too; None where there are too many to compare."""
    if sum(map(len, splits.values())) > MOST_COMPARED:
        return None
    return tuple(same_images(splits["test"], splits["train"]))


def told(
    duplicates: Sequence[tuple[str, str]] | None, splits: Mapping[str, Dataset], items: str = "images"
) -> list[str]:
    """A note of the images that `tested_and_trained_on` has found."""
    if duplicates is None:
        return [f"more than {MOST_COMPARED:,} {items}: not compared for test {items} that are trained on"]
    if not duplicates:
        return []
    test, train = duplicates[0]
    return [
        f"{len(duplicates):,} of {len(splits['test']):,} test {items} are training {items} too, byte by byte, such as "
        f"{test} and {train}"
    ]


def counted(what: str, names: Sequence[str]) -> list[str]:
    """A line that counts what is wrong with some files, and names the first; none where there are none."""
    return [f"{what}: {len(names):,} ({some(names, SHOWN_FILES)})"] if names else []


def some(names: Sequence[str], most: int) -> str:
    """The first of some names."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
