"""Features of all frames of videos, computed once: clips are drawn from them without reading a video again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..progress import stage, without_datasets_bars
from .features import cached_file, check_reads_alone, file_version, fingerprint_of, tower_features
from .image_bytes import files_of, stored_images
from .preparation import prepare_inputs
from .videos import VIDEO_COLUMN, VideoRows, check_videos

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from PIL.Image import Image as Picture

# How frames are taken: features that were kept under another name are computed again.
FRAMES = "every frame, upright"


def with_frame_embeds(
    dataset: Dataset,
    model: nn.Module,
    image_processor: Any,
    batch_size: int = 64,
    label_column: str | None = "label",
    known: Callable[[int], Tensor | None] = lambda row: None,
) -> Dataset:
    """Turn videos into the features of all their frames, at their own rate.

    The features are kept in `datasets`' cache as those of images are, under a fingerprint of the data, the vision
    tower's weights and the state of adapters in it, and the processor: see `with_image_embeds`. A video is decoded
    frame by frame, and never in memory as a whole.

    Args:
        dataset: with videos, see `peft_coop.data.videos.video_features`, and integer labels.
        model: a dual encoder, wrapped by PEFT or not; its vision tower is used as it is, on its device.
        image_processor: the model's image processor.
        batch_size: frames that go through the tower at once.
        label_column: the labels' column; None where there is none.
        known: the features of the video in a row, `[N, P]`, where they are known already, from the same model.

    Returns:
        A dataset with `image_embeds`, `[N, P]` of the N frames of each video, not normalised, and `label` unless
        `label_column` is None. `FrameRows` reads them as tensors.

    Raises:
        ValueError: if a column is missing or holds no videos, or a video cannot be read; if the model's adapter reads
            images with learned prompts.
    """
    check_reads_alone(model)
    labels = {} if label_column is None else {"label": label_column}
    check_videos(dataset, *labels.values())
    if len(dataset) == 0:
        return dataset.from_dict(
            {"image_embeds": [], **{key: [] for key in labels}}, _result_features(dataset, model, labels)
        )
    stored = dataset.with_format(None)
    videos = VideoRows(stored)

    def embed(batch: dict[str, list], rows: list[int]) -> dict[str, Any]:
        parts = [
            _features_of(videos.frames(row), model, image_processor, batch_size) if frames is None else frames.numpy()
            for row, frames in ((row, known(row)) for row in rows)
        ]
        progress.update(len(rows))
        return {"image_embeds": parts, **{name: batch[column] for name, column in labels.items()}}

    fingerprint = fingerprint_of(stored, model, image_processor, VIDEO_COLUMN, *labels.values(), FRAMES)
    columns = [*labels.values()] or [VIDEO_COLUMN]
    rows = stored.select_columns(columns)
    with without_datasets_bars(), stage("frame features", len(rows), "video", counts=False) as progress:
        return rows.map(
            embed,
            batched=True,
            with_indices=True,
            batch_size=1,
            remove_columns=columns,
            features=_result_features(stored, model, labels),
            writer_batch_size=16,  # videos in memory at once
            new_fingerprint=fingerprint,
            cache_file_name=cached_file(stored, fingerprint),
        )


def _features_of(frames: Iterator[Picture], model: nn.Module, image_processor: Any, batch_size: int) -> np.ndarray:
    """`[N, P]` of the N frames of a video."""
    parts = [tower_features(model, prepare_inputs(some, image_processor)) for some in _batches(frames, batch_size)]
    return torch.cat(parts).numpy()


def _batches(frames: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    left = iter(frames)
    while some := list(islice(left, size)):
        yield some


def _result_features(dataset: Dataset, model: nn.Module, labels: dict[str, str]) -> Features:
    from datasets import Features, Value
    from datasets import Sequence as ListOf

    dtype = "float64" if next(model.parameters()).dtype == torch.float64 else "float32"
    others = {name: dataset.features[column] for name, column in labels.items()}
    return Features({"image_embeds": ListOf(ListOf(Value(dtype))), **others})


class KnownFrames:
    """Where the features of single videos lie that were computed for one model in this process.

    A few-shot experiment draws the same videos in several sets, each of which has features of its own on disk.
    """

    def __init__(self) -> None:
        self._places: dict[bytes, tuple[FrameRows, int]] = {}

    def of(self, dataset: Dataset) -> Callable[[int], Tensor | None]:
        """What gives the features of a dataset's videos that are known, by their rows."""
        versions = _versions(dataset)

        def known(row: int) -> Tensor | None:
            rows, place = self._places.get(versions[row], (None, 0))
            return None if rows is None else rows[place]

        return known

    def add(self, dataset: Dataset, rows: FrameRows) -> None:
        """Remember the features of a dataset's videos."""
        self._places.update({version: (rows, place) for place, version in enumerate(_versions(dataset))})


def _versions(dataset: Dataset) -> list[bytes]:
    """What is cheap to know of each video: its frames, or names, sizes and times of its files."""
    return [
        hashlib.sha256(stored["bytes"] or repr(list(map(file_version, files_of(stored["path"])))).encode()).digest()
        for stored in stored_images(dataset)
    ]


class FrameRows:
    """The features that `with_frame_embeds` gives, by video.

    Args:
        dataset: what it gave.
    """

    def __init__(self, dataset: Dataset):
        self._rows = dataset.select_columns(["image_embeds"]).with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Tensor:
        """`[N, P]` of the N frames of a video, not normalised."""
        frames = (
            self._rows[index]["image_embeds"].combine_chunks().values
        )  # of the one row, a list of P numbers a frame
        return torch.from_numpy(np.array(frames.flatten()).reshape(len(frames), -1))

    def means(self) -> Tensor:
        """The mean over the frames of each of B videos, `[B, P]`."""
        return torch.stack([self[index].mean(0) for index in range(len(self))])
