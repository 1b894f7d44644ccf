"""Which images a few-shot experiment trains on, and which classes are base and which new."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..prompts import check_class_names
from .columns import with_column

if TYPE_CHECKING:
    from datasets import Dataset

# The original validates on so many images per class at most.
MAX_VAL_SHOTS = 4


def few_shot_indices(
    train_labels: Sequence[int], val_labels: Sequence[int], num_shots: int, seed: int
) -> tuple[list[int], list[int]]:
    """Draw the images that the original implementation draws for a seed, if it lists them in this order.

    It does with a `split_zhou_*.json` and with FGVC Aircraft's files. ImageNet's it lists as its file system does, so
    that only its own lists tell which it drew (`draw_indices`).

    Python's generator is seeded once; the classes are visited in the order in which they first appear, each giving a
    sample of its images, or all where it has fewer; the validation images follow.

    Args:
        train_labels: the label of every training image.
        val_labels: the label of every validation image; may be empty.
        num_shots: training images per class; the validation set gets as many, but 4 at most.
        seed: of Python's generator.

    Returns:
        Indices into the training and into the validation images, in the original's order.

    Raises:
        ValueError: if `num_shots` is not 1 or more.
    """
    if num_shots < 1:
        raise ValueError(f"`num_shots` must be 1 or more, got {num_shots}.")
    generator = random.Random(seed)
    train = _sample_per_class(train_labels, num_shots, generator)
    return train, _sample_per_class(val_labels, min(num_shots, MAX_VAL_SHOTS), generator)


def _sample_per_class(labels: Sequence[int], count: int, generator: random.Random) -> list[int]:
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    chosen = (items if len(items) < count else generator.sample(items, count) for items in by_class.values())
    return [index for items in chosen for index in items]


def base_and_new_names(class_names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split classes as CoCoOp (arXiv:2203.05557) does: the first half, rounded up, is base, the rest new.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    names = check_class_names(class_names)
    if len(names) < 2:
        raise ValueError(f"A split into base and new classes needs two classes or more, got {names}.")
    half = (len(names) + 1) // 2
    return names[:half], names[half:]


def select_classes(dataset: Dataset, first: int, count: int, label_column: str = "label") -> Dataset:
    """Keep the images of classes `first … first + count - 1`, relabelled from 0.

    Args:
        dataset: with a `ClassLabel` column.
        first: the first label to keep.
        count: how many labels to keep.
        label_column: the column's name.
    """
    from datasets import ClassLabel

    labels = dataset[label_column]
    kept = dataset.select([index for index, label in enumerate(labels) if first <= label < first + count])
    names = dataset.features[label_column].names[first : first + count]
    relabelled = [label - first for label in kept[label_column]]
    return with_column(kept, label_column, relabelled, ClassLabel(names=names))
