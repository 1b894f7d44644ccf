"""Where images and videos come from: one argument for folders, the Hub, the papers' datasets and the demo's tasks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..demo import load_motion_task, load_task
from ..progress import without_datasets_bars
from .coop_layout import load_coop
from .folders import CLASS_LAYOUT, VIDEO_LAYOUT, FolderReading, Layout, read_folder
from .image_data import DEFAULT_TEMPLATE, ImageData
from .image_lists import make_dataset
from .images import ImageRows, is_image_name, leave_out_unreadable
from .label_tables import TABLE, make_labelled_dataset, read_label_table
from .splits import assign_splits
from .summary import LeftOut
from .video_data import VIDEO_TEMPLATE, VideoData
from .videos import VideoRows, make_videos

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

TEST_SHARE = 0.2
# Kinds of sources that `load_compositions` reads.
OF_PAIRS = ("pairs", "czsl")
# The kind that `load_masks` reads.
OF_MASKS = "masks"
# The demo's task of videos.
OF_VIDEOS = "motion"
# The demo's tasks whose pictures are something else when they are mirrored.
NEVER_FLIPPED = ("digits", OF_VIDEOS)
# Which column to take where several have the type.
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


@dataclass
class _Splits:
    """The splits of a source, and what there is to tell of how they were read."""

    splits: Mapping[str, Dataset]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    items: str = "images"


def load_data(source: str, seed: int = 1, skip_corrupt: bool = False) -> ImageData:
    """Load images, or videos.

    Where there is a test split, a validation split is for validation; without one it is the test. Where there is
    neither, a fifth of each class is. The other images are to train on; none where the source has only a test split.
    What was read, left out and understood is in the result's `summary`; docs/data.md has the rules.

    Args:
        source: one of

            - `demo:digits` or `demo:shapes`; `demo:colours`, whose images have several labels;
            - `folder:PATH`, with `train/CLASS/IMAGE` and `test/CLASS/IMAGE`, perhaps `val/CLASS/IMAGE`, or only
              `CLASS/IMAGE`; or with `labels.csv` for images of several labels, see `read_label_table`; also what
              `save_to_disk` of `datasets` has written;
            - `hub:NAME`, a dataset of the Hub or a folder that `datasets.load_dataset` reads;
            - `coop:NAME@DATA`, such as `coop:oxford_pets@DATA`: one of `COOP_LAYOUTS` in a folder DATA that is laid
              out as the original implementation's;
            - `videos:PATH`, as `folder:PATH` with videos in place of images, each a file or a folder of frames;
            - `demo:motion`, drawn videos of moving shapes.
        seed: of the draw of test images, where there is no test split.
        skip_corrupt: read every image now, and leave out those that cannot be read, with a warning that counts them.

    Returns:
        Images; of the last two `VideoData`.

    Raises:
        ValueError: if the source is of no such kind, does not exist, has no images or videos with class labels, or may
            be understood in more than one way.
        FileNotFoundError: if a file that the layout needs is missing.
    """
    kind, _, place = source.partition(":")
    if kind in OF_PAIRS or source == "demo:compositions":
        raise ValueError(
            f"{source!r} has images of pairs of attribute and object, not of classes: `load_compositions` reads "
            "them, and `peft-coop benchmark composition` learns from them."
        )
    if kind == OF_MASKS or source == "demo:scenes":
        raise ValueError(
            f"{source!r} has images with a class for each pixel: `load_masks` reads them, and of the methods "
            "DenseCLIP learns from them (--method dense_clip)."
        )
    if kind == "demo":
        data = _from_task(place)
    elif kind == "coop":
        data = _from_coop(source, place)
    elif kind in ("folder", "hub") and place:
        table = Path(place).expanduser() / TABLE
        if kind == "folder" and table.is_file():
            data = _from_label_table(source, table.parent, seed)
        else:
            data = _from_splits(source, _splits(source, kind, place, skip_corrupt), seed)
    elif kind == "videos" and place:
        data = _from_videos(source, place, seed)
    else:
        raise ValueError(
            "Data is one of demo:digits, demo:shapes, folder:PATH, hub:NAME and coop:NAME@DATA, or of videos "
            f"videos:PATH and demo:motion; got {source!r}."
        )
    if not skip_corrupt:
        return data
    rows = VideoRows if isinstance(data, VideoData) else ImageRows
    (train, val, test), skipped = leave_out_unreadable([data.train, data.val, data.test], rows, data.items)
    return replace(data, train=train, val=val, test=test, skipped=tuple(skipped))


def _from_task(name: str) -> ImageData:
    of_videos = name == OF_VIDEOS
    task = load_motion_task() if of_videos else load_task(name)
    val = getattr(task, "val", None)
    parts = {"train": task.train, "val": _none_of(task.test) if val is None else val, "test": task.test}
    kind = VideoData if of_videos else ImageData
    return kind(name, task.class_names, task.zero_shot_template, **parts, flip=name not in NEVER_FLIPPED)


def _from_label_table(source: str, place: Path, seed: int) -> ImageData:
    """Images of several labels; where there is no test split, a fifth is drawn for it."""
    try:
        table = read_label_table(place)
    except ValueError as error:
        raise ValueError(f"{source!r} cannot be read: {error}") from error
    notes = [*table.notes, f"an image may have several labels, which {TABLE} has"]
    splits = {split: make_labelled_dataset(table, split) for split in table.splits}
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes.append("no test images: those of validation are the test")
    if "test" not in splits:
        if len(splits["train"]) < 2:
            raise ValueError(f"{source!r} has a single image, and no other to test on.")
        halves = splits["train"].train_test_split(TEST_SHARE, seed=seed)
        splits |= {"train": halves["train"], "test": halves["test"]}
        notes.append(f"no test images: a fifth was drawn for the test (seed {seed})")
    nothing = _none_of(splits["test"])
    train, val, test = (splits.get(split, nothing) for split in ("train", "validation", "test"))
    name = os.path.basename(os.path.abspath(place))
    left_out = (LeftOut(f"not named in {TABLE}", table.unlisted),) if table.unlisted else ()
    return ImageData(name, table.class_names, DEFAULT_TEMPLATE, train, val, test, left_out=left_out, notes=tuple(notes))


def _from_coop(source: str, place: str) -> ImageData:
    name, _, root = place.partition("@")
    if not root:
        raise ValueError(f"Name dataset and folder as in coop:oxford_pets@DATA, got {source!r}.")
    return load_coop(name, root)


def _splits(source: str, kind: str, place: str, skip_corrupt: bool) -> _Splits:
    if kind == "folder":
        place = _folder(source, place)
    if any(os.path.isfile(os.path.join(place, name)) for name in ("dataset_dict.json", "state.json")):
        return _Splits(_saved(source, place))
    if kind == "hub":
        return _of_hub(source, place)
    reading = _read_folder(source, place, CLASS_LAYOUT, skip_corrupt)
    splits = {split: make_dataset(reading.listed, split) for split in reading.listed.splits}
    return _Splits(splits, reading.left_out, reading.notes)


def _folder(source: str, place: str) -> str:
    place = os.path.expanduser(place)
    if not os.path.isdir(place):
        raise ValueError(f"There is no folder {place!r} (from {source!r}).")
    return place


def _read_folder(source: str, place: str, layout: Layout, keep_unreadable: bool) -> FolderReading:
    try:
        return read_folder(Path(place), keep_unreadable, layout)
    except ValueError as error:
        raise ValueError(f"{source!r} cannot be read: {error}") from error


def _from_videos(source: str, place: str, seed: int) -> VideoData:
    reading = _read_folder(source, _folder(source, place), VIDEO_LAYOUT, keep_unreadable=True)
    splits = {split: make_videos(reading.listed, split) for split in reading.listed.splits}
    read = _Splits(splits, reading.left_out, reading.notes, "videos")
    return VideoData(**_fields(source, *_train_val_test(source, splits, seed, read), read))


def _of_hub(source: str, place: str) -> _Splits:
    from datasets import load_dataset

    try:
        with without_datasets_bars() if os.path.isdir(place) else nullcontext():  # "Downloading data" of a folder
            splits = load_dataset(place)
    except ImportError:
        raise
    except Exception as error:  # a script, no data, metadata that do not fit: nearly everything
        reason = str(error.__cause__ or error) or type(error).__name__
        raise ValueError(f"{source!r} cannot be read: {reason}{_see_folder(place)}") from error
    images, rows = _count_images(Path(place)), sum(map(len, splits.values()))
    if images <= rows:
        return _Splits(splits)
    note = f"`datasets` has read {rows:,} of {images:,} images in the folder.{_see_folder(place)}"
    return _Splits(splits, notes=[note])


def _see_folder(place: str) -> str:
    return f" Where folders are the classes, folder:{place} reads them." if os.path.isdir(place) else ""


def _count_images(place: Path) -> int:
    """Images below a folder of this machine; none of a dataset of the Hub."""
    return sum(is_image_name(Path(name)) for _, _, files in os.walk(place, followlinks=False) for name in files)


def _saved(source: str, place: str) -> DatasetDict:
    from datasets import Dataset, DatasetDict, load_from_disk

    try:
        saved = load_from_disk(place)
        splits = DatasetDict({"train": saved}) if isinstance(saved, Dataset) else saved
        if not splits:
            raise ValueError("it lists no split.")
    except Exception as error:  # damaged descriptions end in KeyError, StopIteration, ArrowInvalid and others
        reason = str(error) or type(error).__name__
        raise ValueError(f"{source!r} cannot be read as a saved dataset: {reason}") from error
    return splits


def _from_splits(source: str, read: _Splits, seed: int) -> ImageData:
    image_column, label_column = _columns(source, next(iter(read.splits.values())), read.notes)
    labelled = {
        name: _image_and_label(split, image_column, label_column)
        for name, split in read.splits.items()
        if _has_labels(split, label_column)
    }
    if not labelled:
        raise ValueError(f"{source!r} has no split whose images all have a label, only {sorted(read.splits)}.")
    unlabelled = [name for name in read.splits if name not in labelled]
    if unlabelled:
        read.left_out.append(LeftOut("splits whose labels are held back", tuple(unlabelled)))
    return ImageData(**_fields(source, *_train_val_test(source, labelled, seed, read), read))


def _fields(source: str, train: Dataset, val: Dataset, test: Dataset, read: _Splits) -> dict[str, Any]:
    """Those of `ImageData`."""
    names = test.features["label"].names
    if len(names) < 2:
        raise ValueError(f"{source!r} has a single class, {names}: there must be two or more.")
    return {
        "name": os.path.basename(os.path.abspath(source.partition(":")[2])),
        "class_names": names,
        "zero_shot_template": DEFAULT_TEMPLATE if read.items == "images" else VIDEO_TEMPLATE,
        "train": train,
        "val": val,
        "test": test,
        "left_out": tuple(read.left_out),
        "notes": tuple(read.notes),
    }


def _train_val_test(
    source: str, splits: dict[str, Dataset], seed: int, read: _Splits
) -> tuple[Dataset, Dataset, Dataset]:
    assigned, items = assign_splits(splits, repr(source)), read.items
    others = [name for name in splits if name not in assigned.values()]
    if "train" not in assigned and len(others) == 1:
        assigned["train"] = others.pop()
        read.notes.append(f"train {items} are those of the split {assigned['train']!r}")
    if others and "train" not in assigned:
        raise ValueError(f"{source!r} has the splits {', '.join(map(repr, splits))}: none is called train.")
    if others:
        read.left_out.append(LeftOut("splits of no known name", tuple(others)))
    if "test" not in assigned and "validation" in assigned:
        assigned["test"] = assigned.pop("validation")
        read.notes.append(f"no test {items}: those of {assigned['test']!r} are the test")
    parts = {part: splits[name] for part, name in assigned.items()}
    if "test" not in parts:
        parts["train"], parts["test"] = _halves(source, parts["train"], seed, items)
        read.notes.append(f"no test {items}: a fifth of each class was drawn for the test (seed {seed})")
    nothing = _none_of(parts["test"])
    return parts.get("train", nothing), parts.get("validation", nothing), parts["test"]


def _halves(source: str, images: Dataset, seed: int, items: str) -> tuple[Dataset, Dataset]:
    """Images or videos to train on, and a fifth of each class to test on."""
    try:
        halves = images.train_test_split(TEST_SHARE, seed=seed, stratify_by_column="label")
    except ValueError as error:
        counts = Counter(images["label"])
        raise ValueError(
            f"{source!r} has no test split, and too few {items} to keep a fifth of each class for testing: "
            f"{sum(counts.values())} in {len(counts)} classes, {min(counts.values())} in the smallest. Add {items}, or "
            "a test split."
        ) from error
    return halves["train"], halves["test"]


def _columns(source: str, dataset: Dataset, notes: list[str]) -> tuple[str, str]:
    """The columns of images and of class labels; where there are several of a kind, the one taken is noted."""
    from datasets import ClassLabel, Image

    images, labels = (
        [name for name, type_ in dataset.features.items() if isinstance(type_, kind)] for kind in (Image, ClassLabel)
    )
    if not images or not labels:
        raise ValueError(
            f"{source!r} needs a column of images and one of class labels, it has "
            f"{ {name: type(type_).__name__ for name, type_ in dataset.features.items()} }. Where folders are the "
            "classes, folder:PATH reads them."
        )
    taken = _preferred(images, IMAGE_COLUMNS), _preferred(labels, LABEL_COLUMNS)
    for column, others, what in zip(taken, (images, labels), ("images", "labels"), strict=True):
        if len(others) > 1:
            notes.append(f"{what} are those of the column {column!r}, of {', '.join(map(repr, others))}")
    return taken


def _preferred(columns: Sequence[str], names: Sequence[str]) -> str:
    return next((name for name in names if name in columns), columns[0])


def _has_labels(split: Dataset, label_column: str) -> bool:
    """Whether no label is held back: the Hub's test splits for competitions have -1 or none."""
    labels = split.unique(label_column)
    return len(labels) > 0 and all(label is not None and label >= 0 for label in labels)


def _image_and_label(split: Dataset, image_column: str, label_column: str) -> Dataset:
    names = {image_column: "image", label_column: "label"}
    renamed = {old: new for old, new in names.items() if old != new}
    return split.select_columns(list(names)).rename_columns(renamed)


def _none_of(dataset: Dataset) -> Dataset:
    """No image, but the same columns."""
    return dataset.select([])
