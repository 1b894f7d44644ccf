"""Numbers that say how good predicted classes of pixels are, all as fractions; counted image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

IGNORED = 255


class PixelCounts:
    """How often pixels of each class were predicted as which, over all images that were added.

    Intersections and unions are pooled over the images, as in the papers: an image in which a class is small counts as
    little for it as it has pixels.

    Args:
        num_classes: K, 1 or more.
        ignore_index: what stands for "no class" in the references; these pixels do not count.

    Attributes:
        table: `[K, K]`, int64: row r, column c counts pixels of class r that were predicted as c.

    Raises:
        ValueError: if `num_classes` is below 1.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORED):
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be 1 or more, got {num_classes}.")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.table: NDArray[np.int64] = np.zeros((num_classes, num_classes), dtype=np.int64)

    def add(self, predictions: ArrayLike, references: ArrayLike, pixels: ArrayLike | None = None) -> None:
        """Count pixels, of one image or of several.

        Args:
            predictions: classes from 0 to K - 1, of any shape.
            references: the true ones, of the same shape, or `ignore_index`.
            pixels: how many pixels each of these stands for; None: one.

        Raises:
            ValueError: if the shapes differ, or a value is of no class; then nothing is counted.
        """
        predicted, true = (np.asarray(each) for each in (predictions, references))
        check_maps(predicted, true)
        counts = None if pixels is None else np.asarray(pixels)[true != self.ignore_index]
        predicted, true = predicted[true != self.ignore_index], true[true != self.ignore_index]
        for name, values in {"predictions": predicted, "references": true}.items():
            foreign = (values < 0) | (values >= self.num_classes)
            if foreign.any():
                raise ValueError(
                    f"`{name}` must be from 0 to {self.num_classes - 1}"
                    f"{f' or {self.ignore_index}' if name == 'references' else ''}, got {values[foreign][0]}."
                )
        codes = true.astype(np.int64) * self.num_classes + predicted.astype(np.int64)
        found = np.bincount(codes, counts, minlength=self.table.size)
        self.table += np.rint(found).astype(np.int64).reshape(self.table.shape)

    def scores(self) -> dict[str, Any]:
        """The scores of all pixels so far.

        Returns:
            "mean_iou": the mean over classes of intersection over union; "mean_accuracy": of the share of a class's
            pixels that are right; "overall_accuracy": the share of all pixels that are right; "per_category_iou" and
            "per_category_accuracy": of each class. A class that neither is there nor was predicted has no
            intersection over union (NaN), one that is not there no accuracy; the means are over the others.

        Raises:
            ValueError: if there was no pixel with a class.
        """
        if not self.table.any():
            raise ValueError("There is no pixel with a class.")
        right, true, predicted = np.diagonal(self.table), self.table.sum(axis=1), self.table.sum(axis=0)
        iou, accuracy = (_shares(right, whole) for whole in (true + predicted - right, true))
        return {
            "mean_iou": float(np.nanmean(iou)),
            "mean_accuracy": float(np.nanmean(accuracy)),
            "overall_accuracy": float(right.sum() / true.sum()),
            "per_category_iou": iou.tolist(),
            "per_category_accuracy": accuracy.tolist(),
        }


class TrainerPixelMetrics:
    """The scores of pixels as the Trainer's `compute_metrics`, with `batch_eval_metrics=True` batch by batch.

    Give `predicted_classes` as `preprocess_logits_for_metrics`, so that logits are not kept.

    Args:
        num_classes: K.
        ignore_index: what stands for "no class" in the labels.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORED):
        self._counts = PixelCounts(num_classes, ignore_index)

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Count the pixels of a batch, or of all images.

        Args:
            prediction: with `predictions` and `label_ids`, both `[B, H, W]`.
            compute_result: whether this is the last batch.

        Returns:
            "mean_iou", "mean_accuracy" and "overall_accuracy"; nothing before the last batch.

        Raises:
            ValueError: as `PixelCounts.add` and `PixelCounts.scores`.
        """
        predictions, labels = (torch.as_tensor(each).cpu() for each in (prediction.predictions, prediction.label_ids))
        self._counts.add(predictions.numpy(), labels.numpy())
        if not compute_result:
            return {}
        scores = self._counts.scores()
        self._counts = PixelCounts(self._counts.num_classes, self._counts.ignore_index)
        return {name: value for name, value in scores.items() if isinstance(value, float)}


def predicted_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """The class of each pixel, `[B, H, W]`, of logits enlarged to the size of the labels.

    Args:
        logits: `[B, K, h, w]`.
        labels: `[B, H, W]`.
    """
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False).argmax(1)


def check_maps(predictions: NDArray, references: NDArray) -> None:
    """Refuse maps of classes that do not belong together.

    Raises:
        ValueError: if the shapes differ, or values are no whole numbers.
    """
    if predictions.shape != references.shape:
        raise ValueError(
            f"Predictions and references must have one shape, got {predictions.shape} and {references.shape}: resize "
            "the logits to the size of the mask first."
        )
    for name, values in {"predictions": predictions, "references": references}.items():
        if values.dtype.kind not in "iu":
            raise ValueError(f"`{name}` must be whole numbers, got {values.dtype}; of logits, take the largest.")


def _shares(parts: NDArray, wholes: NDArray) -> NDArray[np.float64]:
    """NaN where there is nothing."""
    return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)
