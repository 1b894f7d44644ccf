"""Images with any number of labels: their table in a folder, and which of them a few-shot experiment takes."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .alike_names import alike
from .images import check_heif
from .label_values import has_several_labels, label_values
from .splits import assign_splits

if TYPE_CHECKING:
    from datasets import Dataset

TABLE = "labels.csv"
FILE_COLUMNS = ("file", "image", "filename", "file_name", "path")
LABELS_COLUMN, SPLIT_COLUMN = "labels", "split"
SEPARATORS = (";", "|")
YES, NO = ("1", "1.0", "true", "yes"), ("", "0", "0.0", "false", "no")


def label_counts(images: Dataset, n_cls: int) -> NDArray:
    """`[C]`, how many images have each class."""
    labels = label_values(images)
    if has_several_labels(images):
        return np.array(labels, dtype=np.int64).reshape(-1, n_cls).sum(axis=0)
    return np.bincount(np.array(labels, dtype=np.int64), minlength=n_cls)


@dataclass(frozen=True)
class LabelTable:
    """What a table of labels says.

    Attributes:
        class_names: as its columns have them, or sorted where they stand in one.
        splits: "train", "validation" or "test", each a list of (path, row of 0 and 1); "train" alone where it has none.
        notes: what was understood that may not be meant.
    """

    class_names: list[str]
    splits: dict[str, list[tuple[str, list[int]]]]
    notes: list[str]


def read_label_table(place: Path) -> LabelTable:
    """Read `labels.csv` of a folder.

    A column `file` (or `image`, `filename`, `file_name`, `path`) names the images, from the folder on. Their labels are
    in a column `labels`, with ";" or "|" between them and empty for none; or there is a column for each class, with 1
    or 0. A column `split` says "train", "val" or "test"; without it, the first folder of the image's path does where
    all are such names.

    Args:
        place: the folder.

    Raises:
        ValueError: if a column is missing, an image is not there or twice, or a value is none; names the line.
    """
    path = place / TABLE
    with open(path, encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        columns = list(table.fieldnames or [])
        rows = [(table.line_num, row) for row in table]
    file_column = next((name for name in FILE_COLUMNS if name in columns), None)
    if file_column is None or not rows:
        raise ValueError(f"{path} needs a line for each image and a column {FILE_COLUMNS[0]!r}, it has {columns}.")
    for number, row in rows:
        if None in row or None in row.values():
            raise ValueError(f"Line {number} of {path} has not as many values as the first line has columns.")
    names, labels = _labels(path, columns, file_column, rows)
    for first, second in alike(sorted(names)):
        raise ValueError(f"{first!r} and {second!r} in {path} read as one class: write them alike.")
    if len(names) < 2:
        raise ValueError(f"{path} has a single class, {names}: there must be two or more.")
    paths = _paths(place, path, file_column, rows)
    splits, notes = _splits(path, place, columns, rows, paths)
    listed: dict[str, list[tuple[str, list[int]]]] = {}
    for split, file_path, of_image in zip(splits, paths, labels, strict=True):
        listed.setdefault(split, []).append((file_path, of_image))
    return LabelTable(names, listed, notes)


Rows = Sequence[tuple[int, Mapping[str, str]]]


def _labels(path: Path, columns: Sequence[str], file_column: str, rows: Rows) -> tuple[list[str], list[list[int]]]:
    """Class names, and a row of 0 and 1 for each image."""
    if LABELS_COLUMN not in columns:
        names = [name for name in columns if name not in (file_column, SPLIT_COLUMN)]
        return names, [[_yes_or_no(path, number, name, row[name]) for name in names] for number, row in rows]
    others = [name for name in columns if name not in (file_column, LABELS_COLUMN, SPLIT_COLUMN)]
    if others:
        raise ValueError(f"{path} has a column {LABELS_COLUMN!r} and beside it {others[0]!r}: which has the labels?")
    named = [_names_of(row[LABELS_COLUMN]) for _, row in rows]
    names = sorted({name for each in named for name in each})
    return names, [[int(name in each) for name in names] for each in named]


def _names_of(text: str) -> list[str]:
    for separator in SEPARATORS[1:]:
        text = text.replace(separator, SEPARATORS[0])
    return [name.strip() for name in text.split(SEPARATORS[0]) if name.strip()]


def _yes_or_no(path: Path, number: int, name: str, value: str) -> int:
    text = value.strip().lower()
    if text not in (*YES, *NO):
        raise ValueError(f"Line {number} of {path} must have 0 or 1 for {name!r}, it has {value!r}.")
    return int(text in YES)


def _paths(place: Path, path: Path, file_column: str, rows: Rows) -> list[str]:
    paths: dict[str, int] = {}
    for number, row in rows:
        image = place / row[file_column].strip()
        if not image.is_file():
            raise ValueError(f"Line {number} of {path} names {row[file_column]!r}, which is not in {str(place)!r}.")
        if str(image) in paths:
            raise ValueError(f"Lines {paths[str(image)]} and {number} of {path} name one image, {row[file_column]!r}.")
        paths[str(image)] = number
    check_heif(paths)
    return list(paths)


def _splits(
    path: Path, place: Path, columns: Sequence[str], rows: Rows, paths: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The split of each image, and what was understood of them."""
    if SPLIT_COLUMN in columns:
        said = [row[SPLIT_COLUMN].strip() for _, row in rows]
        where = f"In the column {SPLIT_COLUMN!r} of {path}"
    else:
        said = [Path(each).relative_to(place).parts[0] for each in paths]
        where = f"In {str(place)!r}"
    assigned = {name: split for split, name in assign_splits(dict.fromkeys(said), where).items()}
    unknown = next((name for name in said if name not in assigned), None)
    if unknown is None:
        return [assigned[name] for name in said], []
    if SPLIT_COLUMN in columns or assigned:
        raise ValueError(f"{where}, {unknown!r} is no split beside {', '.join(map(repr, assigned)) or 'others'}.")
    return ["train"] * len(rows), []


def make_labelled_dataset(table: LabelTable, split: str) -> Dataset:
    """A split as a dataset with `image` and `label`, rows of 0 and 1."""
    from datasets import Dataset, Features, Image, Value
    from datasets import Sequence as ListOf

    listed = table.splits[split]
    features = Features({"image": Image(), "label": ListOf(Value("float32"))})
    columns = {"image": [path for path, _ in listed], "label": [[float(each) for each in row] for _, row in listed]}
    return Dataset.from_dict(columns, features=features, split=split)


def several_few_shot_indices(
    train_labels: Sequence[Sequence[int]], val_labels: Sequence[Sequence[int]], num_shots: int, seed: int, most_val: int
) -> tuple[list[int], list[int]]:
    """Draw images so that every class is on `num_shots` of them, or on all that have it.

    The classes are visited from the rarest on; an image that is drawn for one counts for every class that it has, so
    that common classes may be on more.

    Args:
        train_labels: a row of 0 and 1 for every training image.
        val_labels: likewise of the validation images; may be empty.
        num_shots: training images per class; the validation set gets as many, but `most_val` at most.
        seed: of Python's generator.
        most_val: see `num_shots`.

    Returns:
        Indices into the training and into the validation images, rising.
    """
    generator = random.Random(seed)
    parts = ((train_labels, num_shots), (val_labels, min(num_shots, most_val)))
    train, val = (_draw(np.array(labels), shots, generator) if len(labels) else [] for labels, shots in parts)
    return train, val


def _draw(labels: NDArray, num_shots: int, generator: random.Random) -> list[int]:
    chosen: set[int] = set()
    for column in np.argsort(labels.sum(axis=0), kind="stable"):
        having = np.flatnonzero(labels[:, column]).tolist()
        missing = num_shots - len(chosen.intersection(having))
        free = [row for row in having if row not in chosen]
        if missing > 0:
            chosen.update(free if len(free) <= missing else generator.sample(free, missing))
    return sorted(chosen)
