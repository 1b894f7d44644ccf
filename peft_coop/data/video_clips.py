"""Clips of videos to train on and to test with: windows of frames, drawn from features that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .epochs import EpochDataset
from .frame_features import FrameRows
from .frame_sampling import draw_frames

if TYPE_CHECKING:
    from datasets import Dataset

# Tells the draws of clips in tests from those in training, which may have the same seed.
OF_TESTS = 2


class VideoClips(EpochDataset):
    """Clips to train on, another one of each video in every epoch.

    They are drawn from the features of all frames, so that an epoch reads no video. Only for what leaves the vision
    tower as it is.

    The Trainer wants `AugmentationCallback` beside it, and a loop of one's own calls `set_epoch` before every epoch. It
    is the same with any number of workers and processes.

    Args:
        dataset: with `image_embeds` of all frames and `label`, as `with_frame_embeds` gives it.
        clip_length: T, frames of a clip.
        seed: of the draws, see `draw_frames`.

    Raises:
        ValueError: if `clip_length` is below 1.

    Reference: Prompting Visual-Language Models for Efficient Video Understanding (arXiv:2112.04478).
    """

    def __init__(self, dataset: Dataset, clip_length: int, seed: int):
        super().__init__()
        if clip_length < 1:
            raise ValueError(f"`clip_length` must be 1 or more, got {clip_length}.")
        self.clip_length, self.seed = clip_length, seed
        self._labels = dataset.with_format(None)["label"][:]
        self._frames = FrameRows(dataset)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image_embeds`, `[T, P]`, not normalised, and `labels` of a video in the present epoch."""
        row = range(len(self))[index]
        frames = self._frames[row]
        generator = np.random.default_rng([self.seed, self.epoch, row])
        self._count(1)
        return {
            "image_embeds": frames[draw_frames(len(frames), self.clip_length, generator)],
            "labels": self._labels[row],
        }


def clips_to_test(
    frames: Sequence[Tensor] | FrameRows, clip_length: int, clip: int, seed: int = 0, rows: range | None = None
) -> Tensor:
    """One clip of each video to test with; the same for everybody who asks.

    Args:
        frames: features `[N, P]` of the frames of B videos.
        clip_length: T, frames of a clip.
        clip: its number, from 0: each is another draw.
        seed: of the draws.
        rows: numbers of the B videos, where they are some of all; None: all.

    Returns:
        `[B, T, P]`.
    """
    rows = range(len(frames)) if rows is None else rows
    return torch.stack([clip_to_test(frames[row], clip_length, clip, row, seed) for row in rows])


def clip_to_test(frames: Tensor, clip_length: int, clip: int, row: int, seed: int = 0) -> Tensor:
    """One clip of a video, see `clips_to_test`.

    Args:
        frames: of the video, `[N, ...]`: their features or pixels.
        clip_length: T.
        clip: its number.
        row: the video's number.
        seed: of the draws.

    Returns:
        `[T, ...]`.
    """
    generator = np.random.default_rng([seed, clip, row, OF_TESTS])
    return frames[draw_frames(len(frames), clip_length, generator)]
