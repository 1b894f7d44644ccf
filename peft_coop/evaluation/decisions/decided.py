"""Images under a classifier, and what is decided of them: one class of each, or any number of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..scores import softmax
from ..several_labels import answered_labels, several_scores, sigmoid
from .selective import RiskCoverage, choose_min_probability, risk_coverage
from .temperature import calibration_scores


@dataclass(frozen=True)
class Decided:
    """Some images under a classifier, and what is decided of them. N images, C classes.

    Attributes:
        logits: `[N, C]` or `[N, C + 1]`, with "other" last: their softmax is what is decided by.
        n_cls: C.
        labels: `[N]`, from 0 to C - 1; None for images of no class.
    """

    logits: NDArray
    n_cls: int
    labels: NDArray | None = None

    @property
    def confidence(self) -> NDArray:
        """`[N]`, the probability of the best class."""
        return softmax(self.logits)[:, : self.n_cls].max(axis=1)

    @property
    def true(self) -> NDArray:
        """The labels.

        Raises:
            ValueError: for images of no class.
        """
        if self.labels is None:
            raise ValueError("Images of none of the classes have no right answer.")
        return self.labels

    @property
    def right(self) -> NDArray:
        """`[N]` of bool, whether the best class is the true one.

        Raises:
            ValueError: for images of no class.
        """
        return self.logits[:, : self.n_cls].argmax(axis=1) == self.true

    def risk_coverage(self) -> RiskCoverage:
        """See `risk_coverage`."""
        return risk_coverage(self.confidence, self.right)

    def answered(self, min_probability: float | None) -> NDArray:
        """`[N]` of bool, whether the answer is a class and not "other"."""
        probabilities, confidence = softmax(self.logits), self.confidence
        others = probabilities[:, self.n_cls] if probabilities.shape[1] > self.n_cls else np.zeros(len(confidence))
        return (confidence >= (min_probability or 0.0)) & (others <= confidence)

    def scores(self, min_probability: float | None) -> dict[str, float | None]:
        """What there is to say of known images, as fractions but for "nll" and "brier".

        Args:
            min_probability: of an answer; None: any.

        Returns:
            "ece", "nll" and "brier" as `calibration_scores`, "aurc", "coverage" (the share that is answered), and
            "accuracy" of these answers, which is None where nothing is answered.
        """
        answered = self.answered(min_probability)
        return {
            **calibration_scores(self.logits, self.true),
            "aurc": self.risk_coverage().aurc,
            "coverage": float(answered.mean()),
            "accuracy": float(self.right[answered].mean()) if answered.any() else None,
        }

    def choose_min_probability(self, min_accuracy: float | None, min_coverage: float | None) -> float | None:
        """See `choose_min_probability`; None also where there is no wish.

        Raises:
            ValueError: if no threshold fulfils it.
        """
        if min_accuracy is None and min_coverage is None:
            return None
        return choose_min_probability(self.confidence, self.right, min_accuracy, min_coverage)

    def reliability(self) -> tuple[NDArray, NDArray]:
        """`[N]` probabilities of what is likeliest, "other" included, and of bool whether it is right."""
        probabilities = softmax(self.logits)
        return probabilities.max(axis=1).clip(0, 1), probabilities.argmax(axis=1) == self.true


@dataclass(frozen=True)
class DecidedLabels:
    """Images with any number of labels under a classifier, and what is decided of them. N images, C classes.

    Attributes:
        logits: `[N, C]`; the sigmoid of each is the probability of its class.
        true: `[N, C]` of 0 and 1, the labels.
        class_names: the C classes.
    """

    logits: NDArray
    true: NDArray
    class_names: list[str]

    def reliability(self) -> tuple[NDArray, NDArray]:
        """`[N * C]` probabilities, of every class of every image, and of bool whether the image has it."""
        return sigmoid(self.logits).ravel(), (self.true == 1).ravel()

    def choose_min_probability(self, min_accuracy: float | None, min_coverage: float | None) -> float | None:
        """The least probability of a label, from which so many of the labels that are answered are right.

        Args:
            min_accuracy: the share of right ones, a fraction: as many labels are answered as this allows. None: any.
            min_coverage: None.

        Returns:
            The probability, 0 where every class of every image may be answered; None where there is no wish.

        Raises:
            ValueError: if no threshold fulfils it, or a share of images is asked for.
        """
        if min_coverage is not None:
            raise ValueError(
                "`min_coverage` is a share of images to be answered, and an image with any number of labels is not "
                "held back as a whole: it may rightly have none. `min_accuracy` chooses the probability from which a "
                "label is answered."
            )
        if min_accuracy is None:
            return None
        chosen = choose_min_probability(*self.reliability(), min_accuracy, None, "choices of a class for an image")
        return 0.0 if chosen is None else chosen

    def scores(self, min_probability: float | None) -> dict[str, float | None]:
        """What there is to say of them, as fractions but for "nll" and "brier".

        Args:
            min_probability: of a label that is answered; None: 0.5.

        Returns:
            "ece", "classwise_ece", "nll" and "brier" as `calibration_scores`; "mean_average_precision", "f1_macro" and
            "f1_micro" as `several_scores`; "precision", the share of right ones among the labels that are answered,
            None where none is; "recall", the share of the images' labels that are answered.

        Raises:
            ValueError: if no image has any class.
        """
        measured = several_scores(self.logits, self.true, self.class_names, min_probability)
        answered, has = answered_labels(self.logits, min_probability), self.true == 1
        return {
            **calibration_scores(self.logits, self.true),
            **{name: measured[name] for name in ("mean_average_precision", "f1_macro", "f1_micro")},
            "precision": float(has[answered].mean()) if answered.any() else None,
            "recall": float(answered[has].mean()),
        }
