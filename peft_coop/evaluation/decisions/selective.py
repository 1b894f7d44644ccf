"""Answers of which the least sure ones are held back: coverage against accuracy, and a threshold between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class RiskCoverage:
    """What is right of the surest answers, for every share of images that can be answered.

    Images of one confidence are answered together or not at all, so that there are as many places as there are
    confidences.

    Attributes:
        min_probability: `[K]`, falling: images at least so sure are answered.
        coverage: `[K]`, the share of images that are answered.
        accuracy: `[K]`, the share of right ones among these.
        aurc: area under 1 - accuracy over coverage: the mean, over images in the order of their confidence, of the
            share of wrong answers among those at least as sure.
    """

    min_probability: NDArray
    coverage: NDArray
    accuracy: NDArray
    aurc: float


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> RiskCoverage:
    """Coverage and accuracy for every threshold.

    Args:
        confidence: `[N]`, the probability of the answer, or anything else that is higher for surer ones.
        right: `[N]` of bool, whether the answer is right.

    Raises:
        ValueError: if there is no image, lengths differ, or a confidence is no number.

    Reference: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks (arXiv:1705.08500); AURC:
    arXiv:1805.08206.
    """
    values, hits = _confidence_and_right(confidence, right)
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], hits[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # of the images of one confidence
    answered = last + 1
    accuracy = np.cumsum(hits)[last] / answered
    images = np.diff(answered, prepend=0)
    aurc = float(((1 - accuracy) * images).sum() / len(values))
    return RiskCoverage(values[last], answered / len(values), accuracy, aurc)


def choose_min_probability(
    confidence: ArrayLike,
    right: ArrayLike,
    min_accuracy: float | None = None,
    min_coverage: float | None = None,
    items: str = "images",
) -> float | None:
    """The least probability for an answer, by images that the classifier has not learned from.

    It lies in the middle between the least sure image that is answered and the surest one that is not, so that
    rounding does not move an image over it.

    Args:
        confidence: `[N]`, the probability of the answer.
        right: `[N]` of bool, whether the answer is right.
        min_accuracy: of the answers, a fraction: as many images are answered as this allows.
        min_coverage: the share of images to be answered at least: the surest ones, and no more than that needs.
        items: what is answered, for errors.

    Returns:
        The probability; None where all images may be answered.

    Raises:
        ValueError: if there is not exactly one wish, it is no fraction above 0, or no threshold fulfils it.
    """
    curve = risk_coverage(confidence, right)
    if (min_accuracy is None) == (min_coverage is None):
        raise ValueError("Give either `min_accuracy` or `min_coverage`.")
    name, wish = ("min_accuracy", min_accuracy) if min_coverage is None else ("min_coverage", min_coverage)
    if not 0 < float(wish or 0) <= 1:
        raise ValueError(f"`{name}` must be a fraction above 0 and at most 1, such as 0.95, got {wish}.")
    if min_coverage is not None:
        place = int(np.argmax(curve.coverage >= min_coverage))
    else:
        reached = np.flatnonzero(curve.accuracy >= min_accuracy)
        if not len(reached):
            best = int(curve.accuracy.argmax())
            raise ValueError(
                f"No threshold makes {min_accuracy:.1%} of the answers right: at best {curve.accuracy[best]:.1%} are, "
                f"of the {curve.coverage[best]:.1%} of {items} that are answered from a probability of "
                f"{curve.min_probability[best]:.3f} on."
            )
        place = int(reached[-1])
    if place == len(curve.coverage) - 1:
        return None
    return float(curve.min_probability[place : place + 2].mean())


def detection_auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """How well a confidence tells images of the classes from others: the area under the ROC curve.

    It is the probability that an image of the classes is the surer of two, one of each kind; half of it for ties.

    Args:
        known: `[N]`, confidences of images of the classes.
        unknown: `[M]`, of images of none of them.

    Raises:
        ValueError: if there is none of a kind, or a confidence is no number.
    """
    from scipy.stats import rankdata

    first, second = _finite(known, "known"), _finite(unknown, "unknown")
    ranks = rankdata(np.concatenate([first, second]))[: len(first)]
    return float((ranks.sum() - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))


def _confidence_and_right(confidence: ArrayLike, right: ArrayLike) -> tuple[NDArray, NDArray]:
    values, hits = _finite(confidence, "confidence"), np.asarray(right)
    if hits.dtype != np.bool_ or hits.shape != values.shape:
        raise ValueError(
            f"`right` must say True or False of each of the {len(values)} images, got {hits.dtype} of shape "
            f"{hits.shape}."
        )
    return values, hits


def _finite(confidence: ArrayLike, name: str) -> NDArray:
    values = np.asarray(confidence, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"`{name}` must be a list with a number for each image, got the shape {values.shape}.")
    if not np.isfinite(values).all():
        place = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"`{name}` must be finite numbers, got {values[place]} at index {place}.")
    return values
