"""Images with any number of labels: how many have each, and which of them a few-shot experiment takes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .label_values import has_several_labels, label_values

if TYPE_CHECKING:
    from datasets import Dataset


def label_counts(images: Dataset, n_cls: int) -> NDArray:
    """`[C]`, how many images have each class."""
    labels = label_values(images)
    if has_several_labels(images):
        return np.array(labels, dtype=np.int64).reshape(-1, n_cls).sum(axis=0)
    return np.bincount(np.array(labels, dtype=np.int64), minlength=n_cls)


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
