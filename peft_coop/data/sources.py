"""Where images come from: one argument for a folder, a dataset of the Hub, and the demo's tasks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..demo import load_task

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

DEFAULT_TEMPLATE = "a photo of a {}."
TEST_SPLITS = ("test", "validation", "valid", "val")
TEST_SHARE = 0.2


@dataclass(frozen=True)
class ImageData:
    """Images with labels, to train on and to test on.

    Attributes:
        name: for tables and titles.
        class_names: in the order of the labels.
        zero_shot_template: the prompt without learning.
        train: columns `image` and `label` (`ClassLabel`).
        test: the same columns.
    """

    name: str
    class_names: list[str]
    zero_shot_template: str
    train: Dataset
    test: Dataset


def load_data(source: str, seed: int = 1) -> ImageData:
    """Load images.

    Args:
        source: `demo:digits` or `demo:shapes`; `folder:PATH`, with `train/CLASS/IMAGE` and `test/CLASS/IMAGE`, or only
            `CLASS/IMAGE`; `hub:NAME`, a dataset of the Hub or a folder that `datasets.load_dataset` reads.
        seed: of the draw of test images, a fifth of each class, where there is no test split.

    Raises:
        ValueError: if the source is of no such kind, does not exist, or has no images with class labels.
    """
    kind, _, place = source.partition(":")
    if kind == "demo":
        task = load_task(place)
        return ImageData(task.name, task.class_names, task.zero_shot_template, task.train, task.test)
    from datasets import load_dataset

    if kind == "folder" and not os.path.isdir(place):
        raise ValueError(f"There is no folder {place!r} (from {source!r}).")
    if kind == "folder":
        return _from_splits(source, load_dataset("imagefolder", data_dir=place), seed)
    if kind == "hub" and place:
        return _from_splits(source, load_dataset(place), seed)
    raise ValueError(f"Data is one of demo:digits, demo:shapes, folder:PATH and hub:NAME, got {source!r}.")


def _from_splits(source: str, splits: DatasetDict, seed: int) -> ImageData:
    from datasets import ClassLabel, Image

    train = splits["train"] if "train" in splits else next(iter(splits.values()))
    columns = {
        kind: [name for name, type_ in train.features.items() if isinstance(type_, kind)]
        for kind in (Image, ClassLabel)
    }
    if not columns[Image] or not columns[ClassLabel]:
        raise ValueError(
            f"{source!r} needs a column of images and one of class labels, it has "
            f"{ {name: type(type_).__name__ for name, type_ in train.features.items()} }."
        )
    names = {columns[Image][0]: "image", columns[ClassLabel][0]: "label"}
    test_name = next((name for name in TEST_SPLITS if name in splits), None)
    if test_name is None:
        halves = train.train_test_split(TEST_SHARE, seed=seed, stratify_by_column=columns[ClassLabel][0])
        train, test = halves["train"], halves["test"]
    else:
        test = splits[test_name]
    train, test = (
        part.select_columns(list(names)).rename_columns({old: new for old, new in names.items() if old != new})
        for part in (train, test)
    )
    name = os.path.basename(source.partition(":")[2].rstrip("/"))
    return ImageData(name, train.features["label"].names, DEFAULT_TEMPLATE, train, test)
