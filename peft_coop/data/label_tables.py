"""The table of images with any number of labels in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..prompts.alike_names import alike
from .folders import files_below
from .images import check_heif, is_image_name
from .splits import assign_splits
from .table_rows import TableRows, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

TABLE = "labels.csv"
FILE_COLUMNS = ("file", "image", "filename", "file_name", "path")
LABELS_COLUMN, SPLIT_COLUMN = "labels", "split"
SEPARATORS = (";", "|")
YES, NO = ("1", "1.0", "true", "yes"), ("", "0", "0.0", "false", "no")


@dataclass(frozen=True)
class LabelTable:
    """What a table of labels says.

    Attributes:
        class_names: as its columns have them, or sorted where they stand in one.
        splits: "train", "validation" or "test", each a list of (path, row of 0 and 1); "train" alone where it has none.
        notes: what was understood that may not be meant.
        unlisted: images of the folder that it does not name.
    """

    class_names: list[str]
    splits: dict[str, list[tuple[str, list[int]]]]
    notes: list[str]
    unlisted: tuple[str, ...] = ()


def read_label_table(place: Path) -> LabelTable:
    """Read `labels.csv` of a folder, see `read_rows`.

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
    table = read_rows(path, FILE_COLUMNS)
    known = (*FILE_COLUMNS, LABELS_COLUMN, SPLIT_COLUMN)
    special = {name.lower(): name for name in table.columns if name.lower() in known}
    file_column = next((special[name] for name in FILE_COLUMNS if name in special), None)
    if file_column is None or not table.rows:
        raise ValueError(
            f"{path} needs a line for each image and a column {FILE_COLUMNS[0]!r}, it has {len(table.rows)} lines "
            f"below the columns {table.columns}."
        )
    names, labels = _labels(path, table, file_column, special)
    for first, second in alike(sorted(names)):
        raise ValueError(f"{first!r} and {second!r} in {path} read as one class: write them alike.")
    if len(names) < 2:
        raise ValueError(f"{path} has {'a single class' if names else 'no class'}, {names}: there must be two or more.")
    paths = _paths(place, path, file_column, table.rows)
    splits = _splits(path, place, special.get(SPLIT_COLUMN), table.rows, paths)
    listed: dict[str, list[tuple[str, list[int]]]] = {}
    for split, file_path, of_image in zip(splits, paths, labels, strict=True):
        listed.setdefault(split, []).append((file_path, of_image))
    return LabelTable(names, listed, _notes(names, table.delimiter), _unlisted(place, paths))


Rows = Sequence[tuple[int, Mapping[str, str]]]


def _labels(
    path: Path, table: TableRows, file_column: str, special: Mapping[str, str]
) -> tuple[list[str], list[list[int]]]:
    """Class names, and a row of 0 and 1 for each image."""
    labels_column = special.get(LABELS_COLUMN)
    others = [name for name in table.columns if name not in (file_column, labels_column, special.get(SPLIT_COLUMN))]
    if labels_column is None:
        return others, [[_yes_or_no(path, number, name, row[name]) for name in others] for number, row in table.rows]
    if others:
        raise ValueError(f"{path} has a column {labels_column!r} and beside it {others[0]!r}: which has the labels?")
    named = [_names_of(row[labels_column]) for _, row in table.rows]
    names = sorted({name for each in named for name in each})
    for name in names:
        if "," in name and {part.strip() for part in name.split(",")} & set(names):
            told = " or ".join(map(repr, SEPARATORS))
            raise ValueError(f"{name!r} in {path} reads as one class: between labels stands {told}, and no comma.")
    return names, [[int(name in each) for name in names] for each in named]


def _names_of(text: str) -> list[str]:
    for separator in SEPARATORS[1:]:
        text = text.replace(separator, SEPARATORS[0])
    return [name.strip() for name in text.split(SEPARATORS[0]) if name.strip()]


def _yes_or_no(path: Path, number: int, name: str, value: str) -> int:
    text = value.lower()
    if text not in (*YES, *NO):
        raise ValueError(f"Line {number} of {path} must have 0 or 1 for {name!r}, it has {value!r}.")
    return int(text in YES)


def _paths(place: Path, path: Path, file_column: str, rows: Rows) -> list[str]:
    paths: dict[str, int] = {}
    for number, row in rows:
        image = _image_path(place, row[file_column])
        if image is None:
            raise ValueError(f"Line {number} of {path} names {row[file_column]!r}, which is not in {str(place)!r}.")
        if image in paths:
            raise ValueError(f"Lines {paths[image]} and {number} of {path} name one image, {row[file_column]!r}.")
        paths[image] = number
    check_heif(paths)
    return list(paths)


def _image_path(place: Path, name: str) -> str | None:
    """The file that a table names, also with backslashes between folders; None where there is none."""
    tried = (os.path.normpath(place / each) for each in (name, name.replace("\\", "/")))
    return next((each for each in tried if os.path.isfile(each)), None)


def _splits(path: Path, place: Path, split_column: str | None, rows: Rows, paths: Sequence[str]) -> list[str]:
    """The split of each image."""
    if split_column is not None:
        said = [row[split_column] for _, row in rows]
        where = f"In the column {split_column!r} of {path}"
    else:
        said = [_first_folder(path, place, each) for each in paths]
        where = f"In {str(place)!r}"
    assigned = {name: split for split, name in assign_splits(dict.fromkeys(said), where).items()}
    unknown = next((name for name in said if name not in assigned), None)
    if unknown is None:
        return [assigned[name] for name in said]
    if split_column is not None or assigned:
        raise ValueError(f"{where}, {unknown!r} is no split beside {', '.join(map(repr, assigned)) or 'others'}.")
    return ["train"] * len(rows)


def _first_folder(path: Path, place: Path, image: str) -> str:
    relative = Path(os.path.relpath(image, place))
    if relative.parts[0] == os.pardir:
        raise ValueError(
            f"{path} names {image!r}, which is outside of {str(place)!r}, and has no column {SPLIT_COLUMN!r} that says "
            "what it is for: add one, or put the image into the folder."
        )
    return relative.parts[0]


def _unlisted(place: Path, paths: Sequence[str]) -> tuple[str, ...]:
    """The images in the folder that the table does not name."""
    listed = set(paths)
    below = (file for file in files_below(place) if is_image_name(Path(file.name)))
    return tuple(str(file) for file in below if os.path.normpath(file) not in listed)


def _notes(names: Sequence[str], delimiter: str) -> list[str]:
    """What was understood that may not be meant."""
    notes = [] if delimiter == "," else [f"values of {TABLE} stand apart by {delimiter!r}"]
    with_comma = [name for name in names if "," in name]
    if with_comma:
        notes.append(f"names with a comma are one class each, such as {with_comma[0]!r}")
    return notes


def make_labelled_dataset(table: LabelTable, split: str) -> Dataset:
    """A split as a dataset with `image` and `label`, rows of 0 and 1."""
    from datasets import Dataset, Features, Image, Value
    from datasets import Sequence as ListOf

    listed = table.splits[split]
    features = Features({"image": Image(), "label": ListOf(Value("float32"))})
    columns = {"image": [path for path, _ in listed], "label": [[float(each) for each in row] for _, row in listed]}
    return Dataset.from_dict(columns, features=features, split=split)
