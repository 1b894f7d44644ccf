"""Where images come from: one argument for folders, datasets of the Hub, the papers' datasets and the demo's tasks."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..demo import load_task
from .coop_layout import load_coop
from .image_data import DEFAULT_TEMPLATE, ImageData
from .images import is_image_name, leave_out_unreadable

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

VAL_SPLITS = ("validation", "valid", "val")
TEST_SPLITS = ("test", *VAL_SPLITS)
SPLIT_FOLDERS = ("train", *TEST_SPLITS)
TEST_SHARE = 0.2
# Which column to take where several have the type.
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def load_data(source: str, seed: int = 1, skip_corrupt: bool = False) -> ImageData:
    """Load images.

    Where there is a test split, a validation split is for validation; without one it is the test. Where there is
    neither, a fifth of each class is. The other images are to train on; none where the source has only a test split.

    Args:
        source: one of

            - `demo:digits` or `demo:shapes`;
            - `folder:PATH`, with `train/CLASS/IMAGE` and `test/CLASS/IMAGE`, perhaps `val/CLASS/IMAGE`, or only
              `CLASS/IMAGE`; hidden files are left out; also what `save_to_disk` of `datasets` has written;
            - `hub:NAME`, a dataset of the Hub or a folder that `datasets.load_dataset` reads;
            - `coop:NAME@DATA`, such as `coop:oxford_pets@DATA`: one of `COOP_LAYOUTS` in a folder DATA that is laid
              out as the original implementation's.
        seed: of the draw of test images, where there is no test split.
        skip_corrupt: read every image now, and leave out those that cannot be read, with a warning that counts them.

    Raises:
        ValueError: if the source is of no such kind, does not exist, or has no images with class labels.
        FileNotFoundError: if a file that the layout needs is missing.
    """
    kind, _, place = source.partition(":")
    if kind == "demo":
        data = _from_task(place)
    elif kind == "coop":
        data = _from_coop(source, place)
    elif kind in ("folder", "hub") and place:
        data = _from_splits(source, _splits(source, kind, place), seed)
    else:
        raise ValueError(
            f"Data is one of demo:digits, demo:shapes, folder:PATH, hub:NAME and coop:NAME@DATA, got {source!r}."
        )
    if not skip_corrupt:
        return data
    (train, val, test), skipped = leave_out_unreadable([data.train, data.val, data.test])
    return replace(data, train=train, val=val, test=test, skipped=tuple(skipped))


def _from_task(name: str) -> ImageData:
    task = load_task(name)
    parts = {"train": task.train, "val": _none_of(task.test), "test": task.test}
    return ImageData(name, task.class_names, task.zero_shot_template, **parts, flip=name != "digits")


def _from_coop(source: str, place: str) -> ImageData:
    name, _, root = place.partition("@")
    if not root:
        raise ValueError(f"Name dataset and folder as in coop:oxford_pets@DATA, got {source!r}.")
    return load_coop(name, root)


def _splits(source: str, kind: str, place: str) -> DatasetDict:
    from datasets import load_dataset
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DatasetGenerationError

    if kind == "folder" and not os.path.isdir(place):
        raise ValueError(f"There is no folder {place!r} (from {source!r}).")
    if any(os.path.isfile(os.path.join(place, name)) for name in ("dataset_dict.json", "state.json")):
        return _saved(source, place)
    try:
        if kind == "hub":
            return load_dataset(place)
        files = {name: _pattern(source, folder) for name, folder in _split_folders(Path(place)).items()}
        return load_dataset("imagefolder", data_files=files, drop_labels=False)
    # RuntimeError: a folder with a script, which datasets no longer runs.
    except (DatasetGenerationError, EmptyDatasetError, RuntimeError, ValueError) as error:
        raise ValueError(f"{source!r} cannot be read: {error.__cause__ or error}") from error


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


def _split_folders(place: Path) -> dict[str, Path]:
    folders = {name: place / name for name in SPLIT_FOLDERS if (place / name).is_dir()}
    return folders or {"train": place}


def _pattern(source: str, folder: Path) -> str:
    """All files below a folder of classes.

    Given in place of the folder: `datasets` would look for splits in the names of classes and images.
    """
    files = [file for file in folder.rglob("*") if is_image_name(file.relative_to(folder))]
    if not files:
        raise ValueError(f"there is no image in {str(folder)!r}.")
    outside = next((file for file in files if file.parent == folder), None)
    if outside is not None:
        raise ValueError(
            f"images must be in folders named after their class, {str(outside)!r} is not. The folders "
            f"{', '.join(SPLIT_FOLDERS)} are splits, not classes."
        )
    special = next(
        (f for f in files if any(part.startswith("__") for part in f.relative_to(folder).parent.parts)), None
    )
    if special is not None:
        raise ValueError(f"`datasets` leaves out folders whose names begin with '__', rename that of {str(special)!r}.")
    return os.path.join(glob.escape(str(folder.absolute())), "**")


def _from_splits(source: str, splits: DatasetDict, seed: int) -> ImageData:
    image_column, label_column = _columns(source, next(iter(splits.values())))
    labelled = {
        name: _image_and_label(split, image_column, label_column)
        for name, split in splits.items()
        if _has_labels(split, label_column)
    }
    if not labelled:
        raise ValueError(f"{source!r} has no split whose images all have a label, only {sorted(splits)}.")
    try:
        train, val, test = _train_val_test(labelled, seed)
    except ValueError as error:  # from the stratified draw
        counts = Counter(next(iter(labelled.values()))["label"])
        raise ValueError(
            f"{source!r} has no test split, and too few images to keep a fifth of each class for testing: "
            f"{sum(counts.values())} in {len(counts)} classes, {min(counts.values())} in the smallest. Add images, or "
            "a test split."
        ) from error
    name = os.path.basename(os.path.abspath(source.partition(":")[2]))
    return ImageData(name, test.features["label"].names, DEFAULT_TEMPLATE, train, val, test)


def _train_val_test(splits: dict[str, Dataset], seed: int) -> tuple[Dataset, Dataset, Dataset]:
    test_name = next((name for name in TEST_SPLITS if name in splits), None)
    val_name = next((name for name in VAL_SPLITS if name in splits and name != test_name), None)
    others = [name for name in splits if name not in (test_name, val_name)]
    train_name = "train" if "train" in others else next(iter(others), None)
    if test_name is not None:
        test = splits[test_name]
        train = splits[train_name] if train_name else _none_of(test)
    else:
        halves = splits[str(train_name)].train_test_split(TEST_SHARE, seed=seed, stratify_by_column="label")
        train, test = halves["train"], halves["test"]
    return train, splits[val_name] if val_name else _none_of(test), test


def _columns(source: str, dataset: Dataset) -> tuple[str, str]:
    """The columns of images and of class labels."""
    from datasets import ClassLabel, Image

    images, labels = (
        [name for name, type_ in dataset.features.items() if isinstance(type_, kind)] for kind in (Image, ClassLabel)
    )
    if not images or not labels:
        raise ValueError(
            f"{source!r} needs a column of images and one of class labels, it has "
            f"{ {name: type(type_).__name__ for name, type_ in dataset.features.items()} }."
        )
    return _preferred(images, IMAGE_COLUMNS), _preferred(labels, LABEL_COLUMNS)


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
