"""Numbers that say how good predictions are, all as fractions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# How far probabilities may be off a sum of 1: float16 rounds by less for a thousand classes.
SUM_TOLERANCE = 1e-2


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The share of right predictions.

    Args:
        predictions: `[N]`, the classes predicted for N images, as whole numbers.
        labels: `[N]`, the true ones.

    Raises:
        ValueError: if there is no image, the lengths differ or a value is no whole number.
    """
    predicted, true = _class_pairs(predictions, labels)
    return float((predicted == true).mean())


def macro_accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The mean over classes of each class's accuracy, so that rare classes count as much as common ones.

    Only classes that occur in `labels` count. Arguments and errors are those of `accuracy`.
    """
    predicted, true = _class_pairs(predictions, labels)
    classes, places = np.unique(true, return_inverse=True)
    right = np.bincount(places, weights=predicted == true, minlength=len(classes))
    return float((right / np.bincount(places)).mean())


def top_accuracy(logits: ArrayLike, labels: ArrayLike, count: int) -> float:
    """The share of images whose class is among the best ones; of equal logits the lower class comes first.

    Args:
        logits: `[N, K]`, of N images over K classes.
        labels: `[N]`, each from 0 to K - 1.
        count: how many are the best ones; all, where there are fewer classes.

    Raises:
        ValueError: as `scores`, and if `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"`count` must be 1 or more, got {count}.")
    values, true = check_logits(logits, labels)
    best = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return float((best == true[:, None]).any(axis=1).mean())


def harmonic_mean(base: float, new: float) -> float:
    """H of the accuracies on base and new classes (CoCoOp, arXiv:2203.05557); 0 if one of them is.

    Raises:
        ValueError: if one is negative or no number.
    """
    for name, value in {"base": base, "new": new}.items():
        if not value >= 0:
            raise ValueError(f"`{name}` must be an accuracy of 0 or more, got {value}.")
    return 2 * base * new / (base + new) if base and new else 0.0


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, num_bins: int = 15) -> float:
    """How far the probability of the predicted class is from the share of right predictions.

    The interval from 0 to 1 is cut into bins of equal width, each with its upper end. Every image falls into that of
    its highest probability; what is averaged, over images, is the gap between a bin's accuracy and mean probability.

    Args:
        probabilities: `[N, K]`, of N images over K classes.
        labels: `[N]`, each from 0 to K - 1.
        num_bins: how many bins.

    Raises:
        ValueError: if there is no image, shapes do not fit, a label is no class or a row is no distribution.

    Reference: Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599), equation 3.
    """
    values, true = _rows_and_labels(probabilities, labels, "probabilities")
    _check_distributions(values)
    return reliability_gap(np.clip(values.max(axis=1), 0, 1), values.argmax(axis=1) == true, num_bins)


def reliability_gap(confidence: NDArray, right: NDArray, num_bins: int = 15) -> float:
    """The gap between confidence and the share of right answers in each bin, averaged over answers; see `reliability`.

    Args:
        confidence: `[N]`, from 0 to 1.
        right: `[N]`, whether each answer is right.
        num_bins: how many bins.
    """
    bins = reliability(confidence, right, num_bins)
    return float((bins.images * np.abs(bins.right - bins.confidence)).sum() / len(right))


@dataclass(frozen=True)
class Reliability:
    """How often answers of about one confidence are right, for K bins of equal width from 0 to 1.

    Attributes:
        images: `[K]`, how many fall into each.
        confidence: `[K]`, their mean confidence; 0 where there is no image.
        right: `[K]`, the share of right answers among them; 0 where there is no image.
    """

    images: NDArray
    confidence: NDArray
    right: NDArray


def reliability(confidence: NDArray, right: NDArray, num_bins: int = 15) -> Reliability:
    """Put answers into bins by their confidence; each bin has its upper end.

    Args:
        confidence: `[N]`, from 0 to 1.
        right: `[N]`, whether each answer is right.
        num_bins: how many bins.

    Raises:
        ValueError: if there is to be no bin.
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be 1 or more, got {num_bins}.")
    bins = np.maximum(np.ceil(confidence * num_bins).astype(int) - 1, 0)
    images = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights=each, minlength=num_bins) for each in (confidence, right))
    return Reliability(images, *(each / np.maximum(images, 1) for each in sums))


def scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """Everything that a run reports of a split.

    Args:
        logits: `[N, K]`, of N images over K classes; minus infinity for a class that is out of the question.
        labels: `[N]`, each from 0 to K - 1.

    Returns:
        "accuracy", "macro_accuracy" and "ece" (expected calibration error), as fractions, and "num_examples".

    Raises:
        ValueError: if there is no image, shapes do not fit, a label is no class, a logit is no number or
            plus infinity, or a row has no finite one.
    """
    values, true = check_logits(logits, labels)
    predictions = values.argmax(axis=1)
    return {
        "accuracy": accuracy(predictions, true),
        "macro_accuracy": macro_accuracy(predictions, true),
        "ece": expected_calibration_error(softmax(values), true),
        "num_examples": len(true),
    }


def check_logits(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Logits and labels as arrays, float64 and int64; arguments and errors are those of `scores`."""
    return _rows_and_labels(logits, labels, "logits")


def softmax(logits: NDArray) -> NDArray:
    """Probabilities `[N, K]` of logits `[N, K]`."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _class_pairs(predictions: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    predicted, true = _whole_numbers(predictions, "predictions"), _whole_numbers(labels, "labels")
    if len(predicted) != len(true):
        raise ValueError(f"There must be a label for each prediction, got {len(predicted)} and {len(true)} labels.")
    return predicted, true


def _rows_and_labels(rows: ArrayLike, labels: ArrayLike, name: str) -> tuple[NDArray, NDArray]:
    values, true = np.asarray(rows, dtype=np.float64), _whole_numbers(labels, "labels")
    if values.ndim != 2 or len(values) != len(true):
        raise ValueError(
            f"`{name}` must have a row for each of the {len(true)} labels and a column for each class, "
            f"got the shape {values.shape}."
        )
    allowed, accepted = np.isfinite(values), "finite numbers"
    if name == "logits":
        allowed |= np.isneginf(values) & allowed.any(axis=1, keepdims=True)
        accepted = "finite numbers, or minus infinity beside a finite one in the row"
    if not allowed.all():
        row, column = np.argwhere(~allowed)[0]
        raise ValueError(f"`{name}` must be {accepted}, got {values[row, column]} in row {row}, column {column}.")
    num_classes = values.shape[1]
    outside = true[(true < 0) | (true >= num_classes)]
    if len(outside):
        raise ValueError(
            f"`labels` must be from 0 to {num_classes - 1}, as there are {num_classes} columns; got {outside[0]}."
        )
    return values, true


def _whole_numbers(values: ArrayLike, name: str) -> NDArray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"`{name}` must be a list of classes, one for each image, got the shape {array.shape}.")
    if not len(array):
        raise ValueError(f"`{name}` is empty: there must be at least one image.")
    if array.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must be whole numbers, got {array.tolist()[:3]} of type {array.dtype}.")
    return array.astype(np.int64)


def _check_distributions(probabilities: NDArray) -> None:
    wrong = (probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > SUM_TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"`probabilities` must be 0 or more and sum to 1 in every row (of logits, take the softmax); "
            f"row {row} sums to {probabilities[row].sum():.4g}, its lowest is {probabilities[row].min():.4g}."
        )
