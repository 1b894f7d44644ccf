"""What was predicted for every image: a file of it, and how often each class was taken for which."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.images import ImageRows
from ..data.videos import VideoRows, has_videos
from .scores import check_logits, softmax

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("image", "truth", "prediction", "probability")
SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True)
class Predictions:
    """The predicted class of N images over C classes.

    Attributes:
        class_names: in the order of the labels.
        truth: `[N]`, the labels.
        predicted: `[N]`, the classes with the highest logits.
        probability: `[N]`, of the predicted class.
    """

    class_names: list[str]
    truth: NDArray
    predicted: NDArray
    probability: NDArray

    @classmethod
    def from_logits(cls, logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> Predictions:
        """Take the highest logit of each row.

        Args:
            logits: `[N, C]`.
            labels: `[N]`, each from 0 to C - 1.
            class_names: the C classes.

        Raises:
            ValueError: as `scores` does, and if there are not as many names as columns.
        """
        values, truth = check_logits(logits, labels)
        if values.shape[1] != len(class_names):
            raise ValueError(
                f"`logits` must have a column for each of the {len(class_names)} classes, got {values.shape}."
            )
        predicted = values.argmax(axis=1)
        probability = np.take_along_axis(softmax(values), predicted[:, None], axis=1)[:, 0]
        return cls(list(class_names), truth, predicted, probability)

    def confusion(self) -> NDArray:
        """`[C, C]`: how many images of the class of the row were taken for the class of the column."""
        size = len(self.class_names)
        return np.bincount(self.truth * size + self.predicted, minlength=size * size).reshape(size, size)

    def per_class(self) -> list[dict[str, Any]]:
        """Of every class its name, `images`, `right`, and `accuracy` as a fraction, which is None without an image."""
        counts = self.confusion()
        return [
            {
                "class": name,
                "images": int(row.sum()),
                "right": int(row[index]),
                "accuracy": float(row[index] / row.sum()) if row.sum() else None,
            }
            for index, (name, row) in enumerate(zip(self.class_names, counts, strict=True))
        ]

    def write(self, path: str | os.PathLike, images: Dataset) -> None:
        """Write a line for every image: its file or row, its true class, the predicted one and the probability of that.

        Args:
            path: a file whose name ends in ".csv" or ".jsonl"; its folder is made if need be.
            images: the N images.

        Raises:
            ValueError: if the name ends otherwise, or there are not N images.
        """
        suffix = check_suffix(path, SUFFIXES)
        if len(images) != len(self.truth):
            raise ValueError(f"There are predictions of {len(self.truth)} images, got {len(images)} images.")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            if suffix == ".csv":
                table = csv.DictWriter(file, FIELDS)
                table.writeheader()
                table.writerows(self._rows(images))
            else:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows(images))

    def _rows(self, images: Dataset) -> Iterator[dict[str, Any]]:
        rows = VideoRows(images) if has_videos(images) else ImageRows(images)
        for index, (truth, predicted) in enumerate(zip(self.truth, self.predicted, strict=True)):
            yield {
                "image": rows.name(index),
                "truth": self.class_names[truth],
                "prediction": self.class_names[predicted],
                "probability": float(self.probability[index]),
            }


def check_suffix(path: str | os.PathLike, accepted: Sequence[str]) -> str:
    """How a file's name ends, in lower case.

    Raises:
        ValueError: if it is none of the endings that are accepted.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in accepted:
        raise ValueError(f"The file's name must end in {' or '.join(accepted)}, got {os.fspath(path)!r}.")
    return suffix
