"""One temperature for a classifier's logits, and how far its probabilities are from what happens."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..scores import check_logits, expected_calibration_error, softmax

# Temperatures beyond these say that the images do not tell one.
LOWEST, HIGHEST = 1e-3, 1e3


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that makes the labels likeliest: the lowest mean of -log softmax(logits / T)[label].

    In 1 / T that mean is convex, so that there is one lowest place; it is found as the root of the derivative.

    Args:
        logits: `[N, C]`, of N images over C classes, which the classifier has not learned from.
        labels: `[N]`, each from 0 to C - 1; or `[N, C]` of 0 and 1 where an image has any number of classes. Each
            class's probability is sigmoid(logits / T) then, and the mean is over images and classes.

    Returns:
        T: above 1 where the classifier is surer than it should be.

    Raises:
        ValueError: if shapes or values do not fit, there is a single class, or no temperature is the best one: all
            images are right, or the logits say nothing of the labels.

    Reference: Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599), section 4.2.
    """
    from scipy.optimize import brentq

    values, true = as_choices(logits, labels)
    if values.shape[1] < 2:
        raise ValueError("There is a single class, whose probability is 1 at any temperature: give two or more.")
    own = values[np.arange(len(true)), true]
    if not np.isfinite(own).all():
        raise ValueError(f"The logit of the true class is minus infinity in row {int(np.isinf(own).argmax())}.")
    finite = np.where(np.isfinite(values), values, 0.0)  # whose probability is 0 at any temperature

    def slope(log_temperature: float) -> float:
        """The derivative of the mean by 1 / T."""
        probabilities = softmax(values / np.exp(log_temperature))
        return float(((probabilities * finite).sum(axis=1) - own).mean())

    images = f"these images ({len(values):,})" if not has_several_labels(labels) else f"these {len(values):,} choices"
    if slope(np.log(HIGHEST)) >= 0:
        raise ValueError(
            f"The logits say nothing of the labels of {images}: no temperature is better than one above all bounds, "
            "which makes all classes alike. Are labels and classes in one order?"
        )
    if slope(np.log(LOWEST)) <= 0:
        raise ValueError(
            f"All answers for {images} are right: the lower the temperature, the better it fits, and none is the best. "
            "Give more images, or harder ones."
        )
    return float(np.exp(brentq(slope, np.log(LOWEST), np.log(HIGHEST), xtol=1e-12)))


def calibration_scores(logits: ArrayLike, labels: ArrayLike, num_bins: int = 15) -> dict[str, float]:
    """How far probabilities are from what happens, each the better the lower.

    Args:
        logits: `[N, C]`, divided by the temperature.
        labels: `[N]` or `[N, C]`, as for `fit_temperature`.
        num_bins: of the calibration error.

    Returns:
        "ece", the expected calibration error as a fraction; "nll", the mean of -log p(label) in nats; "brier", the
        mean of (p - y)², summed over the classes of an image where it has one class (0 to 2), and averaged over images
        and classes where it has any number (0 to 1).

    Raises:
        ValueError: if shapes or values do not fit.

    Reference: Brier, Verification of forecasts expressed in terms of probability (1950).
    """
    values, true = as_choices(logits, labels)
    probabilities = softmax(values)
    peak = values.max(axis=1, keepdims=True)
    shifted = values - peak
    of_label = np.take_along_axis(shifted, true[:, None], axis=1)[:, 0]
    squares = ((probabilities - np.eye(values.shape[1])[true]) ** 2).sum(axis=1).mean()
    return {
        "ece": expected_calibration_error(probabilities, true, num_bins),
        "nll": float((np.log(np.exp(shifted).sum(axis=1)) - of_label).mean()),
        "brier": float(squares / (2 if has_several_labels(labels) else 1)),
    }


def as_choices(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Logits `[M, K]` and labels `[M]` of choices of one thing out of K.

    Where an image has any number of classes, every class of every image is a choice between no and yes, whose logits
    are 0 and the class's: `[N * C, 2]`.

    Raises:
        ValueError: if shapes or values do not fit.
    """
    if not has_several_labels(labels):
        return check_logits(logits, labels)
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if values.shape != true.shape:
        raise ValueError(f"`labels` of several classes must be {values.shape}, as `logits` are, got {true.shape}.")
    if not np.isin(true, (0, 1)).all():
        raise ValueError(f"`labels` of several classes must be 0 or 1, got {true[~np.isin(true, (0, 1))][0]}.")
    return check_logits(np.stack([np.zeros(values.size), values.ravel()], axis=1), true.ravel().astype(np.int64))


def has_several_labels(labels: ArrayLike) -> bool:
    """Whether labels are rows of 0 and 1, a column for each class."""
    return np.ndim(labels) == 2
