"""What was read from a source of images with masks, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..progress import stage
from .masks import MaskRows, MaskValues
from .summary import SHOWN, LeftOut, names_alike, some, tested_and_trained_on, told

if TYPE_CHECKING:
    from datasets import Dataset

# So many masks of a split are read for the summary.
MOST_COUNTED = 2_000


@dataclass(frozen=True)
class MaskSplitSummary:
    """A part of the images with masks.

    Attributes:
        images: how many.
        counted: how many masks were read for the numbers that follow.
        pixels: of each class, in the order of the labels.
        ignored: pixels of no class.
        with_class: how many of the masks show each class.
        turned: images that are turned or mirrored by their EXIF data.
        smallest: height and width of the smallest mask.
        largest: of the largest.
    """

    images: int
    counted: int
    pixels: tuple[int, ...]
    ignored: int
    with_class: tuple[int, ...]
    turned: int
    smallest: tuple[int, int]
    largest: tuple[int, int]

    @property
    def shares(self) -> list[float]:
        """The share of each class among the pixels that have one; 0 where there are none."""
        total = sum(self.pixels)
        return [count / total if total else 0.0 for count in self.pixels]

    @property
    def ignored_share(self) -> float:
        """The share of pixels that have no class."""
        total = sum(self.pixels) + self.ignored
        return self.ignored / total if total else 0.0


@dataclass(frozen=True)
class MaskSummary:
    """What was read from a source of images with masks.

    Attributes:
        name: of the data.
        class_names: in the order of the labels.
        splits: "train", "val" and "test", counted.
        left_out: what was found and not read.
        notes: what was understood, and what looks wrong: classes that no mask shows, masks that show nothing, names
            that read alike, images that are both in the training and in the test images.
        duplicates: test images whose file is, byte by byte, a training image too, as (test, training); None where
            there are too many images to compare.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, MaskSplitSummary]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...] | None

    def lines(self) -> list[str]:
        """The summary as text: images, then the pixels of each split, then what was left out or noticed."""
        parts = {split: one for split, one in self.splits.items() if one.images}
        counts = ", ".join(f"{split} {one.images:,}" for split, one in parts.items())
        names = some(self.class_names, SHOWN)
        first = f"{self.name}: {len(self.class_names):,} classes of pixels ({names}); images: {counts}"
        pixels = [f"{split}: {_described(one, self.class_names)}" for split, one in parts.items()]
        return [first, *pixels, *map(str, self.left_out), *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n  ".join(self.lines())


def summarise_masks(
    name: str,
    class_names: Sequence[str],
    values: MaskValues,
    splits: Mapping[str, Dataset],
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
) -> MaskSummary:
    """Count pixels by class, and look for what cannot be meant.

    Args:
        name: of the data.
        class_names: in the order of the labels.
        values: what the values in the masks' files mean.
        splits: "train", "val" and "test", with `image` and `mask`.
        left_out: what was found and not read.
        notes: what was understood on the way.

    Raises:
        UnreadableImageError: if a mask is missing or damaged, of another size than its image, or has values of no
            class.
    """
    rows = {split: MaskRows(images, values) for split, images in splits.items()}
    chosen = {split: counted_rows(len(one)) for split, one in rows.items()}
    with stage("reading masks", sum(map(len, chosen.values())), "mask") as progress:
        counts, empty = {}, []
        for split, one in rows.items():
            counts[split], without = _count(one, chosen[split], progress)
            empty += without
    duplicates = tested_and_trained_on(splits)
    found = [
        *_partly_counted(counts),
        *_missing(class_names, counts),
        *([f"masks in which no pixel has a class: {len(empty):,} ({some(empty, SHOWN)})"] if empty else []),
        *_turned(counts),
        *names_alike(class_names),
        *told(duplicates, splits),
    ]
    return MaskSummary(name, tuple(class_names), counts, tuple(left_out), (*notes, *found), duplicates)


def counted_rows(images: int, most: int = MOST_COUNTED) -> list[int]:
    """Which rows of a split are read for its summary: all, or some that are spread evenly."""
    return list(range(images)) if images <= most else np.linspace(0, images - 1, most).astype(int).tolist()


def _count(rows: MaskRows, chosen: Sequence[int], progress: Any) -> tuple[MaskSplitSummary, list[str]]:
    """The pixels of some masks, and the names of those in which none has a class."""
    pixels, shown = np.zeros((2, rows.values.num_classes), dtype=np.int64)
    ignored = turned = 0
    sizes, empty = [], []
    for index in chosen:
        labels, is_turned = rows.checked(index)
        valid = labels[labels != rows.values.ignore_index]
        found = np.bincount(valid, minlength=len(pixels))
        pixels, shown = pixels + found, shown + (found > 0)
        ignored, turned = ignored + labels.size - valid.size, turned + is_turned
        sizes.append(labels.shape)
        if not valid.size:
            empty.append(rows.mask_name(index))
        progress.update()
    by_area = sorted(sizes, key=lambda size: size[0] * size[1]) or [(0, 0)]
    counted = (tuple(pixels.tolist()), ignored, tuple(shown.tolist()), turned)
    smallest, largest = ((size[0], size[1]) for size in (by_area[0], by_area[-1]))
    return MaskSplitSummary(len(rows), len(chosen), *counted, smallest, largest), empty


def _described(split: MaskSplitSummary, names: Sequence[str]) -> str:
    """Sizes, and the classes with the most and the fewest pixels."""
    order = sorted(range(len(names)), key=lambda index: -split.pixels[index])
    shares = split.shares
    said = [f"{names[index]} {100 * shares[index]:.1f}%" for index in order]
    if len(said) > SHOWN + 1:
        said = [*said[:SHOWN], "…", said[-1]]
    high, wide = zip(split.smallest, split.largest, strict=True)
    size = f"{wide[0]} x {high[0]}" + (f" to {wide[1]} x {high[1]}" if split.smallest != split.largest else "")
    return f"{size} pixels; {', '.join(said)}; {100 * split.ignored_share:.1f}% of all pixels have no class"


def _partly_counted(counts: Mapping[str, MaskSplitSummary]) -> list[str]:
    return [
        f"{split}: {one.counted:,} of {one.images:,} masks were read for these numbers"
        for split, one in counts.items()
        if one.counted < one.images
    ]


def _missing(class_names: Sequence[str], counts: Mapping[str, MaskSplitSummary]) -> list[str]:
    """Classes that no mask of a split shows."""
    notes = []
    for split, one in counts.items():
        missing = [name for name, count in zip(class_names, one.pixels, strict=True) if not count]
        if one.images and missing:
            notes.append(f"without a pixel in {split}: {len(missing):,} of the classes ({some(missing, SHOWN)})")
    return notes


def _turned(counts: Mapping[str, MaskSplitSummary]) -> list[str]:
    turned = sum(one.turned for one in counts.values())
    what = "images that their EXIF data turn or mirror: their masks are taken for masks of the turned picture"
    return [f"{turned:,} {what}"] if turned else []
