"""Numbers that say how good predictions are where an image has any number of classes, all as fractions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .scores import check_logits

# The probability from which a class is answered, unless another was chosen.
LEAST = 0.5


def several_scores(
    logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], min_probability: float | None = None
) -> dict[str, Any]:
    """Everything that is reported of images with any number of classes.

    Args:
        logits: `[N, C]`, of N images over C classes; their sigmoid is the probability.
        labels: `[N, C]` of 0 and 1.
        class_names: the C classes.
        min_probability: of a class that is answered; None: 0.5.

    Returns:
        "mean_average_precision": the mean over classes of the area under precision over recall, as scikit-learn has it;
        "average_precision": of each class by its name; "without_positives": the classes that no image has, which
        are left out of the means; "f1_macro": the mean over classes of F1 of what is answered; "f1_micro": F1 over all
        images and classes; "num_examples".

    Raises:
        ValueError: if shapes do not fit, a value is none, or no image has any class.
    """
    from sklearn.metrics import average_precision_score, f1_score

    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    as_choices(values, true)  # checks them
    if values.shape[1] != len(class_names) or not len(values):
        raise ValueError(
            f"`logits` must have a row for each image and a column for each of the {len(class_names)} classes, got "
            f"{values.shape}."
        )
    has_images = true.sum(axis=0) > 0
    if not has_images.any():
        raise ValueError("No image has any class: there is nothing to measure.")
    precisions = {
        name: float(average_precision_score(true[:, column], values[:, column])) if has_images[column] else None
        for column, name in enumerate(class_names)
    }
    answered = answered_labels(values, min_probability)
    measured = true[:, has_images].astype(int), answered[:, has_images].astype(int)
    return {
        "mean_average_precision": float(np.mean([each for each in precisions.values() if each is not None])),
        "average_precision": precisions,
        "without_positives": [name for name, each in zip(class_names, has_images, strict=True) if not each],
        "f1_macro": float(f1_score(*measured, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(*measured, average="micro", zero_division=0)),
        "num_examples": len(values),
    }


def format_average_precision(scores: dict[str, Any]) -> str:
    """Every class with its average precision in percent, the worst first."""
    rows = sorted(scores["average_precision"].items(), key=lambda row: (row[1] is None, row[1]))
    width = max(len(name) for name, _ in rows)
    told = {name: "no image" if each is None else f"{100 * each:.1f}%" for name, each in rows}
    lines = [f"  {name:<{width}}  {each:>17}" for name, each in told.items()]
    return "\n".join([f"  {'class':<{width}}  average precision", *lines])


def answered_labels(logits: NDArray, min_probability: float | None = None) -> NDArray:
    """`[N, C]` of bool, the classes that are answered for each image.

    Args:
        logits: `[N, C]`.
        min_probability: of a class that is answered; None: 0.5.
    """
    return sigmoid(logits) >= (LEAST if min_probability is None else min_probability)


def sigmoid(logits: NDArray) -> NDArray:
    """Probabilities of logits, each for itself."""
    return 0.5 * (1 + np.tanh(logits / 2))


def as_choices(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Logits `[M, K]` and labels `[M]` of choices of one thing out of K.

    Where an image has any number of classes, every class of every image is a choice between no and yes, whose logits
    are 0 and the class's: `[N * C, 2]`.

    Raises:
        ValueError: if shapes or values do not fit.
    """
    if not has_rows(labels):
        return check_logits(logits, labels)
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if values.shape != true.shape:
        raise ValueError(f"`labels` of several classes must be {values.shape}, as `logits` are, got {true.shape}.")
    if not np.isin(true, (0, 1)).all():
        raise ValueError(f"`labels` of several classes must be 0 or 1, got {true[~np.isin(true, (0, 1))][0]}.")
    wrong = np.isnan(values) | np.isposinf(values)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(f"`logits` must be finite numbers, got {values[row, column]} in row {row}, column {column}.")
    return check_logits(np.stack([np.zeros(values.size), values.ravel()], axis=1), true.ravel().astype(np.int64))


def has_rows(labels: ArrayLike) -> bool:
    """Whether labels are rows of 0 and 1, a column for each class."""
    return np.ndim(labels) == 2
