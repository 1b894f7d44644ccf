"""Videos as rows of a dataset: files, folders of frames, or frames that the dataset holds itself."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .image_lists import ImageList, distinct_names
from .images import UnreadableImageError, is_image_name, read_image
from .video_files import VideoHeader, count_frames, read_frames, read_header

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from PIL.Image import Image as Picture

VIDEO_COLUMN = "video"


class UnreadableVideoError(UnreadableImageError):
    """A video whose file is missing, is no video, or is damaged; or a folder of frames with such an image."""


def video_features(class_names: Sequence[str]) -> Features:
    """The columns of a dataset of videos: `video`, with `path` and `frames`, and `label`.

    A video is a file or a folder of frames, at `path`; or it is `frames`, each the bytes of an image file, and `path`
    may be None.

    Args:
        class_names: in the order of the labels.
    """
    from datasets import ClassLabel, Features, Value
    from datasets import Sequence as ListOf

    video = {"path": Value("string"), "frames": ListOf(Value("binary"))}
    return Features({VIDEO_COLUMN: video, "label": ClassLabel(names=distinct_names(list(class_names)))})


def make_videos(listed: ImageList, split: str) -> Dataset:
    """A split as a dataset with `video` and `label`, whose videos are read when they are asked for."""
    from datasets import Dataset

    videos = [{"path": path, "frames": []} for path, _ in listed.splits[split]]
    labels = [label for _, label in listed.splits[split]]
    columns = {VIDEO_COLUMN: videos, "label": labels}
    return Dataset.from_dict(columns, features=video_features(listed.class_names), split=split)


def has_videos(dataset: Dataset) -> bool:
    """Whether the rows of a dataset are videos."""
    feature = dataset.features.get(VIDEO_COLUMN)
    return isinstance(feature, dict) and feature.keys() == {"path", "frames"}


def check_videos(dataset: Dataset, *others: str) -> None:
    """Refuse a dataset whose rows are no videos, or that has not these columns.

    Raises:
        ValueError: if there is no column `video` as `video_features` describes it, or another one is missing.
    """
    if not has_videos(dataset):
        raise ValueError(
            f"The dataset must have a column {VIDEO_COLUMN!r} with `path` and `frames`, as `load_data` gives it of "
            f"videos:PATH; got {dict(dataset.features)}."
        )
    missing = [column for column in others if column not in dataset.column_names]
    if missing:
        raise ValueError(f"The dataset has no column {missing[0]!r}, only {dataset.column_names}.")


class VideoRows:
    """The videos of a dataset by row, read when they are asked for.

    Args:
        dataset: with videos.

    Raises:
        ValueError: if it has none; from reading, an `UnreadableVideoError`.
    """

    def __init__(self, dataset: Dataset):
        check_videos(dataset)
        self._rows = dataset.with_format(None).select_columns([VIDEO_COLUMN])

    def __len__(self) -> int:
        return len(self._rows)

    def frames(self, index: int) -> Iterator[Picture]:
        """The frames of a video in RGB, one after the other, at least one."""
        return read_video(self._rows[index][VIDEO_COLUMN], index, self._rows.split)

    def header(self, index: int) -> VideoHeader:
        """Frames and rate of a video, as far as that is known before it is decoded."""
        return header_of(self._rows[index][VIDEO_COLUMN], index, self._rows.split)

    def name(self, index: int) -> str:
        """The video's file or folder, or its row where it has none of its own."""
        return _video_name(self._rows[index][VIDEO_COLUMN], index, self._rows.split)

    def check(self, index: int) -> None:
        """Read a video to its end."""
        for _ in self.frames(index):
            pass


def read_video(stored: dict[str, Any], index: int = 0, split: str | None = None) -> Iterator[Picture]:
    """Decode a video, one frame after the other.

    Args:
        stored: `path` and `frames`, as a dataset keeps them.
        index: of its row, for the error.
        split: of the dataset, for the error.

    Yields:
        The frames in RGB, at least one.

    Raises:
        UnreadableVideoError: if the file is missing, is no video, or is damaged; names it.
    """
    try:
        if stored["frames"]:
            for frame, content in enumerate(stored["frames"]):
                yield read_image({"path": None, "bytes": content}, frame, "the video")
        elif os.path.isdir(str(stored["path"])):
            for file in frame_files(stored["path"]):
                yield read_image({"path": file, "bytes": None})
        else:
            yield from read_frames(str(stored["path"]))
    except ValueError as error:
        raise _unreadable(stored, index, split, error) from error


def num_frames_of(stored: dict[str, Any]) -> int:
    """How many frames a video has; those of a file are decoded for it, those of a folder are not.

    Raises:
        UnreadableVideoError: if that cannot be told.
    """
    try:
        if stored["frames"]:
            return len(stored["frames"])
        return len(frame_files(stored["path"])) if os.path.isdir(stored["path"]) else count_frames(stored["path"])
    except ValueError as error:
        raise _unreadable(stored, 0, None, error) from error


def header_of(stored: dict[str, Any], index: int = 0, split: str | None = None) -> VideoHeader:
    """Frames and rate of a video, as far as that is known before it is decoded; folders of frames have no rate.

    Raises:
        UnreadableVideoError: if not even that can be read.
    """
    if not stored["frames"] and not os.path.isdir(str(stored["path"])):
        try:
            return read_header(str(stored["path"]))
        except ValueError as error:
            raise _unreadable(stored, index, split, error) from error
    return VideoHeader(num_frames_of(stored), None)


def frame_files(folder: str | Path) -> list[str]:
    """The images in a folder of frames, in the order of the numbers in their names: frame_2 before frame_10.

    Raises:
        ValueError: if there is none, or two are of one number.
    """
    names = [entry.name for entry in os.scandir(folder) if is_image_name(Path(entry.name)) and entry.is_file()]
    if not names:
        raise ValueError("there is no image in the folder.")
    ordered = sorted(names, key=lambda name: (_numbers(name), name))
    for first, second in itertools.pairwise(ordered):
        if _numbers(first) == _numbers(second):
            raise ValueError(f"{first!r} and {second!r} are both the same frame by the numbers in their names.")
    return [str(Path(folder) / name) for name in ordered]


def _numbers(name: str) -> list[tuple[int, str]]:
    """A file's name without its suffix as texts and numbers, which compare as such."""
    parts = re.split(r"([0-9]+)", Path(name).stem)
    return [(int(part), "") if place % 2 else (-1, part.lower()) for place, part in enumerate(parts)]


def _unreadable(stored: dict[str, Any], index: int, split: str | None, error: ValueError) -> UnreadableVideoError:
    return UnreadableVideoError(f"The video {_video_name(stored, index, split)} cannot be read: {error}")


def _video_name(stored: dict[str, Any], index: int, split: str | None) -> str:
    return stored["path"] or f"row {index} of {split or 'the dataset'}"
