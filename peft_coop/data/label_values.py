"""The labels of a dataset as plain numbers: one for each image, or a row of 0 and 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def has_several_labels(images: Dataset) -> bool:
    """Whether each image has a row of 0 and 1, a column for each class, and not the number of its class."""
    from datasets import ClassLabel, Value

    label = images.features.get("label")
    return label is not None and not isinstance(label, ClassLabel | Value)


def label_values(images: Dataset, column: str = "label") -> list[Any]:
    """The labels as plain whole numbers, or rows of them."""
    labels = images.with_format(None)[column][:]
    return [[int(each) for each in label] if isinstance(label, list) else int(label) for label in labels]
