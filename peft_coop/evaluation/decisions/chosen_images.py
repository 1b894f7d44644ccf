"""Which images a learned prompt may be calibrated with, and which show none of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...data import ImageData, draw_indices, has_several_labels, label_values
from ...data.columns import with_column
from ..protocol_runs import Pool

if TYPE_CHECKING:
    from datasets import Dataset


def how_drawn(data: ImageData, num_shots: int | None, seed: int) -> dict[str, Any]:
    """What tells later which images a prompt has learned from, as JSON.

    Args:
        data: what they were drawn from.
        num_shots: images per class; None for all.
        seed: of the draw.
    """
    return {"shots": num_shots, "seed": seed, "pool": Pool.of(data).fingerprint}


def validation_images(data: ImageData, drawn: Mapping[str, Any] | None) -> tuple[Dataset, str]:
    """Images that a prompt has neither learned from nor is tested on.

    Args:
        data: its validation images are taken if it has any, otherwise the training images that were not drawn.
        drawn: how those were drawn that it has learned from, see `how_drawn`; None where that is not known.

    Returns:
        The images, and what they are, in words.

    Raises:
        ValueError: if there are none, or it is not known which.
    """
    if len(data.val):
        return data.val, "validation images"
    way_out = "Test images are never taken. Give data with validation images."
    if drawn is None:
        raise ValueError(
            f"{data.name} has no validation images, and nothing beside the adapter says which of the training images "
            f"it has learned from. {way_out}"
        )
    if drawn.get("pool") != Pool.of(data).fingerprint:
        raise ValueError(
            f"{data.name} has no validation images, and the adapter has not learned from these training images: which "
            f"of them it has seen is not known. {way_out}"
        )
    if drawn["shots"] is None:
        raise ValueError(f"{data.name} has no validation images, and the adapter has seen all training ones. {way_out}")
    seen = set(draw_indices(data, drawn["shots"], drawn["seed"])[0])
    rest = [index for index in range(len(data.train)) if index not in seen]
    if not rest:
        raise ValueError(
            f"{data.name} has no validation images, and {drawn['shots']} shots were all of its training images. "
            f"{way_out}"
        )
    return data.train.select(
        rest
    ), f"training images that were not drawn ({drawn['shots']} shots, seed {drawn['seed']})"


@dataclass(frozen=True)
class KnownAndUnknown:
    """Images by whether a prompt has their classes.

    Attributes:
        known: those of its classes, labelled in its order.
        unknown: the others, with the data's labels.
    """

    known: Dataset
    unknown: Dataset


def by_known_classes(images: Dataset, data_names: Sequence[str], own_names: Sequence[str]) -> KnownAndUnknown:
    """Part images by whether their class is one of a prompt's, by its name.

    Args:
        images: with `label`.
        data_names: the data's classes, in the order of these labels.
        own_names: the prompt's classes.

    Returns:
        The images. Where they have any number of labels all are known, by the labels that are among the prompt's.

    Raises:
        ValueError: if no class is of both, or a name that is twice in one of the lists does not tell which it is; if
            images with any number of labels do not say whether they show a class of the prompt's.
    """
    from datasets import ClassLabel

    if list(data_names) == list(own_names):
        return KnownAndUnknown(images, images.select([]))
    for names in (data_names, own_names):
        twice = next((name for name in names if list(names).count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"Two classes are called {twice!r}: which of the adapter's is meant is not known.")
    if has_several_labels(images):
        return KnownAndUnknown(_of_own_labels(images, data_names, own_names), images.select([]))
    place = {name: index for index, name in enumerate(own_names)}
    labels = [place.get(data_names[label], -1) for label in images["label"]]
    if not set(data_names) & set(own_names):
        raise ValueError(
            f"None of the adapter's classes ({own_names[0]!r}, …) is among the data's ({data_names[0]!r}, …)."
        )
    known = images.select([row for row, label in enumerate(labels) if label >= 0])
    unknown = images.select([row for row, label in enumerate(labels) if label < 0])
    own = [label for label in labels if label >= 0]
    return KnownAndUnknown(with_column(known, "label", own, ClassLabel(names=list(own_names))), unknown)


def _of_own_labels(images: Dataset, data_names: Sequence[str], own_names: Sequence[str]) -> Dataset:
    """Images with any number of labels, by a prompt's classes in their order."""
    missing = [name for name in own_names if name not in data_names]
    if missing:
        raise ValueError(
            f"{len(missing):,} of the adapter's {len(own_names):,} classes are no labels of the data's, such as "
            f"{missing[0]!r}: which images show it is not known. The data have {', '.join(map(repr, data_names[:5]))}"
            f"{', …' if len(data_names) > 5 else ''}."
        )
    columns = [list(data_names).index(name) for name in own_names]
    labels = [[float(row[column]) for column in columns] for row in label_values(images)]
    return with_column(images, "label", labels, images.features["label"])
