"""Images and videos compared by their bytes: which are the same, and what tells one set of them from another."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import image_name, undecoded
from .label_values import label_values
from .videos import VIDEO_COLUMN, frame_files, has_videos

if TYPE_CHECKING:
    from datasets import Dataset

# Rows that are in memory at once.
ROWS = 256
# Bytes from the middle of a file that tell most files of one length apart.
GLANCE = 4096


def images_fingerprint(dataset: Dataset, class_names: Sequence[str] = (), image_column: str = "image") -> str:
    """What tells images or videos, their order, labels or masks, and class names from others, wherever they lie.

    Every image's bytes are read, where they are and how they are called does not count.

    Args:
        dataset: with images, or videos in a column `video`, and `label` or `mask`.
        class_names: in the order of the labels.
        image_column: the images' column.
    """
    has_masks = "mask" in dataset.column_names
    labels = "masks" if has_masks else label_values(dataset)
    digest = hashlib.sha256(json.dumps([list(class_names), labels]).encode())
    for column in (image_column, "mask") if has_masks else (image_column,):
        for stored in stored_images(dataset, column):
            digest.update(_digest(stored) or str(stored["path"]).encode())  # an address, or a file that is missing
    return digest.hexdigest()[:16]


def same_images(first: Dataset, second: Dataset) -> Iterator[tuple[str, str]]:
    """Images of `first` that are in `second` too, byte by byte; the names of both.

    Only files of equal length are read, and only those that are equal in the middle are read whole.
    """
    pair = (first, second)
    keys: list[dict[int, Any]] = [dict(enumerate(_lengths(dataset))) for dataset in pair]
    rows = _shared_rows(keys)
    for key in (_glance, _digest):
        keys = [
            {row: key(stored) for row, stored in zip(one, stored_images(dataset.select(one)), strict=True)}
            for dataset, one in zip(pair, rows, strict=True)
        ]
        rows = _shared_rows(keys)
    names = [
        {
            row: image_name(stored, row, dataset.split)
            for row, stored in zip(one, stored_images(dataset.select(one)), strict=True)
        }
        for dataset, one in zip(pair, rows, strict=True)
    ]
    row_of = {keys[1][row]: row for row in reversed(rows[1])}
    for row in rows[0]:
        yield names[0][row], names[1][row_of[keys[0][row]]]


def stored_images(dataset: Dataset, image_column: str = "image") -> Iterator[dict[str, Any]]:
    """`path` and `bytes` of every image or video, as a dataset keeps them; a path may be that of a folder of frames."""
    if has_videos(dataset):
        yield from _stored_videos(dataset)
        return
    for batch in undecoded(dataset, image_column).select_columns([image_column]).iter(ROWS):
        yield from batch[image_column]


def _stored_videos(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for batch in dataset.with_format(None).select_columns([VIDEO_COLUMN]).iter(ROWS):
        for video in batch[VIDEO_COLUMN]:
            yield {"path": video["path"], "bytes": b"".join(video["frames"]) if video["frames"] else None}


def paths_of(dataset: Dataset, image_column: str = "image") -> Iterator[str | None]:
    """The files of the images, or of the videos and their frames, that a dataset does not hold itself."""
    for length, path in _lengths_and_paths(dataset, image_column):
        if length is None:
            yield from files_of(path)


def _shared_rows(keys: Sequence[dict[int, Any]]) -> list[list[int]]:
    shared = set(keys[0].values()) & set(keys[1].values()) - {None}
    return [[row for row, key in one.items() if key in shared] for one in keys]


def _lengths(dataset: Dataset) -> Iterator[int | None]:
    """Bytes of every image; None of one that is not there."""
    for length, path in _lengths_and_paths(dataset, "image"):
        yield length if length is not None else _file_length(path)


def _lengths_and_paths(dataset: Dataset, image_column: str) -> Iterator[tuple[int | None, str | None]]:
    """Bytes of every image that the dataset holds itself, and its path; the images are not read for it."""
    if has_videos(dataset):
        yield from ((stored["bytes"] and len(stored["bytes"]), stored["path"]) for stored in _stored_videos(dataset))
        return
    from pyarrow import compute

    for batch in undecoded(dataset, image_column).select_columns([image_column]).with_format("arrow").iter(ROWS):
        images = batch[image_column].combine_chunks()
        lengths = compute.binary_length(compute.struct_field(images, "bytes")).to_pylist()
        yield from zip(lengths, compute.struct_field(images, "path").to_pylist(), strict=True)


def files_of(path: str | None) -> list[str | None]:
    """A file, or the frames in a folder, in their order; a folder itself where its frames have none."""
    if path is None or not os.path.isdir(path):
        return [path]
    try:
        return list(frame_files(path))
    except ValueError:
        return [path]


def _file_length(path: str | None) -> int | None:
    try:
        return sum(os.stat(str(file)).st_size for file in files_of(path))
    except OSError:
        return None


def _glance(stored: dict[str, Any]) -> bytes | None:
    """Some bytes from the middle."""
    if stored["bytes"] is not None:
        middle = len(stored["bytes"]) // 2
        return stored["bytes"][middle : middle + GLANCE]
    files = files_of(stored["path"])
    try:
        with open(str(files[len(files) // 2]), "rb") as file:
            file.seek(os.fstat(file.fileno()).st_size // 2)
            return file.read(GLANCE)
    except OSError:
        return None


def _digest(stored: dict[str, Any]) -> bytes | None:
    if stored["bytes"] is not None:
        return hashlib.sha256(stored["bytes"]).digest()
    digest = hashlib.sha256()
    try:
        for file in files_of(stored["path"]):
            digest.update(Path(str(file)).read_bytes())
    except OSError:
        return None
    return digest.digest()
