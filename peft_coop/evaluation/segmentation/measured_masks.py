"""What segmentation is measured on: images and the classes of their pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image as Picture

from ...data import MaskRows, MaskValues
from ...progress import stage
from ..protocol_runs import Fingerprint, Measured, ScorerOf
from ..segmentation_scores import PixelCounts
from .segmenters import Segmenter

if TYPE_CHECKING:
    from datasets import Dataset

# So many images are looked at for one to show.
LOOKED_AT = 200
METRICS = ("mean_iou", "mean_accuracy", "overall_accuracy")


@dataclass(frozen=True)
class MeasuredMasks(Measured):
    """Images with masks.

    Attributes:
        images: with columns `image` and `mask`.
        values: what the masks' values mean.
        class_names: in the order of the labels.
    """

    images: Dataset
    values: MaskValues
    class_names: list[str]

    def measure(self, classifier: Any, scorer_of: ScorerOf) -> dict[str, Any]:
        """See `pixel_scores`; `classifier` is a `Segmenter`, which is given an image to show its score maps of."""
        found = pixel_scores(classifier, self.images, self.values)
        classifier.example = most_varied(self.images, self.values)
        return found

    def identity(self, fingerprint: Fingerprint) -> list[Any]:
        """See `Measured.identity`."""
        colours = sorted([*colour, index] for colour, index in self.values.colours.items())
        return [fingerprint(self.images, self.class_names), self.values.reduce_labels, colours]


def most_varied(images: Dataset, values: MaskValues) -> tuple[Picture, np.ndarray]:
    """Of the first images the one that shows most classes, in RGB, and its labels `[H, W]`.

    Args:
        images: with columns `image` and `mask`.
        values: what the masks' values mean.
    """
    rows = MaskRows(images, values)
    return rows[max(range(min(len(rows), LOOKED_AT)), key=lambda row: len(np.unique(rows.labels(row))))]


def pixel_scores(segmenter: Segmenter, images: Dataset, values: MaskValues) -> dict[str, Any]:
    """How well the pixels of images are classified, as JSON.

    Args:
        segmenter: what was learned, for the classes of the masks.
        images: with columns `image` and `mask`.
        values: what the masks' values mean.

    Returns:
        "mean_iou", "mean_accuracy" and "overall_accuracy", pooled over all images, as fractions; "per_category_iou",
        None of a class that neither is there nor was predicted; and "num_examples".

    Raises:
        UnreadableImageError: if an image or a mask cannot be read, or they do not fit.
        ValueError: if no pixel has a class.
    """
    counts = PixelCounts(values.num_classes, values.ignore_index)
    rows = MaskRows(images, values)
    with stage("segmenting", len(rows), "image") as progress:
        for index in range(len(rows)):
            image, labels = rows[index]
            counts.add(segmenter.segment(image), labels)
            progress.update()
    scores = counts.scores()
    per_class = [None if math.isnan(value) else value for value in scores["per_category_iou"]]
    return {**{name: scores[name] for name in METRICS}, "per_category_iou": per_class, "num_examples": len(rows)}
