"""One temperature for a classifier's logits, and how far its probabilities are from what happens."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..scores import expected_calibration_error, reliability_gap, softmax
from ..several_labels import as_choices, has_rows, sigmoid

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

    several = has_rows(labels)
    images = f"these {len(values):,} choices" if several else f"these images ({len(values):,})"
    if slope(np.log(HIGHEST)) >= 0:
        alike = "makes every class as likely as not" if several else "makes all classes alike"
        raise ValueError(
            f"The logits say nothing of the labels of {images}: no temperature is better than one above all bounds, "
            f"which {alike}. Are labels and classes in one order?"
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
        and classes where it has any number (0 to 1). Where it has any number, every class of every image has a
        probability: "ece" is the gap between that and the share of images that have the class, in bins of all of them
        together, and "classwise_ece" the mean over classes of the same in bins of each class alone.

    Raises:
        ValueError: if shapes or values do not fit.

    Reference: Brier, Verification of forecasts expressed in terms of probability (1950); the calibration error of each
    class: Kull et al. (arXiv:1910.12656), section 2.
    """
    values, true = as_choices(logits, labels)
    probabilities = softmax(values)
    peak = values.max(axis=1, keepdims=True)
    shifted = values - peak
    of_label = np.take_along_axis(shifted, true[:, None], axis=1)[:, 0]
    squares = ((probabilities - np.eye(values.shape[1])[true]) ** 2).sum(axis=1).mean()
    several = has_rows(labels)
    errors = (
        _gaps_of_several(logits, labels, num_bins)
        if several
        else {"ece": expected_calibration_error(probabilities, true, num_bins)}
    )
    return {
        **errors,
        "nll": float((np.log(np.exp(shifted).sum(axis=1)) - of_label).mean()),
        "brier": float(squares / (2 if several else 1)),
    }


def _gaps_of_several(logits: ArrayLike, labels: ArrayLike, num_bins: int) -> dict[str, float]:
    """The calibration errors of `[N, C]` logits and labels of 0 and 1, see `calibration_scores`."""
    probabilities, has = sigmoid(np.asarray(logits, dtype=np.float64)), np.asarray(labels) == 1
    of_classes = [reliability_gap(*column, num_bins) for column in zip(probabilities.T, has.T, strict=True)]
    return {
        "ece": reliability_gap(probabilities.ravel(), has.ravel(), num_bins),
        "classwise_ece": float(np.mean(of_classes)),
    }
