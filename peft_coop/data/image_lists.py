"""Paths with labels, and the datasets that are made of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class ImageList:
    """Paths and labels, no image read yet.

    Attributes:
        class_names: in the order of the labels.
        splits: by name, such as "train", "val" and "test", each a list of (path, label).
    """

    class_names: list[str]
    splits: dict[str, list[tuple[str, int]]]


def make_dataset(listed: ImageList, split: str) -> Dataset:
    """A split as a dataset with `image` and `label`, whose images are read when they are asked for."""
    from datasets import ClassLabel, Dataset, Features, Image

    paths = [path for path, _ in listed.splits[split]]
    labels = [label for _, label in listed.splits[split]]
    features = Features({"image": Image(), "label": ClassLabel(names=distinct_names(listed.class_names))})
    return Dataset.from_dict({"image": paths, "label": labels}, features=features, split=split)


def distinct_names(class_names: list[str]) -> list[str]:
    """Names for a `ClassLabel`, which takes none twice: ImageNet has "missile" and "sunglasses" for two classes each.

    The first class keeps the name, a later one gets its label behind it.
    """
    seen: Counter[str] = Counter()
    names = []
    for label, name in enumerate(class_names):
        names.append(f"{name} (class {label})" if seen[name] else name)
        seen[name] += 1
    return names
