"""What a prompt decides by, chosen with images that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...models import decided_logits as decided
from ..prompt_classifier import PromptClassifier
from ..scores import softmax
from .selective import RiskCoverage, choose_min_probability, detection_auroc, risk_coverage
from .temperature import calibration_scores, fit_temperature

if TYPE_CHECKING:
    from datasets import Dataset


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


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and the images that it was chosen with, before and after.

    Attributes:
        temperature: what logits are divided by.
        min_probability: for an answer; None: any.
        other_names: names of what is none of the classes.
        before: the images at temperature 1, without other names.
        after: as they are decided from now on.
    """

    temperature: float
    min_probability: float | None
    other_names: list[str] | None
    before: Decided
    after: Decided


def decided_logits(logits: ArrayLike, n_cls: int, temperature: float | None = None) -> NDArray:
    """Logits `[N, C]` or `[N, C + 1]` whose softmax is what is decided by, see `peft_coop.models.decided_logits`."""
    return decided(torch.from_numpy(np.asarray(logits, dtype=np.float64)), n_cls, temperature).numpy()


def calibrate(
    classifier: PromptClassifier,
    images: Dataset,
    other_names: Sequence[str] | None = None,
    min_accuracy: float | None = None,
    min_coverage: float | None = None,
) -> Calibration:
    """Fit a temperature to a learned prompt, choose the least probability of an answer, and write both into it.

    Args:
        classifier: the prompt; what it decided by before is replaced.
        images: with `label`, of all its classes if possible, which it has not learned from and is not tested on.
        other_names: names of what is none of the classes, such as "a texture"; their probability is that of "other".
        min_accuracy: of the answers, a fraction: as many images are answered as this allows.
        min_coverage: the share of images to be answered at least. Without either, all are.

    Raises:
        ValueError: if there is no image, the images do not tell a temperature, or no threshold fulfils the wish; the
            classifier is left as it was.
    """
    if not len(images):
        raise ValueError("There is no image to calibrate with: give validation images.")
    names, others = classifier.learned_names, list(other_names or [])
    labels, logits = np.asarray(images["label"]), classifier.logits(images, [*names, *others])
    before = Decided(decided_logits(logits[:, : len(names)], len(names)), len(names), labels)
    temperature = fit_temperature(decided_logits(logits, len(names)) if not others else logits, labels)
    after = Decided(decided_logits(logits, len(names), temperature), len(names), labels)
    min_probability = None
    if min_accuracy is not None or min_coverage is not None:
        min_probability = choose_min_probability(after.confidence, after.right, min_accuracy, min_coverage)
    classifier.model.set_decision(temperature, min_probability, others or None)
    return Calibration(temperature, min_probability, others or None, before, after)


def decide(classifier: PromptClassifier, images: Dataset, labels: Any = None, plain: bool = False) -> Decided:
    """Images as a learned prompt decides them, at its temperature and beside its other names.

    Args:
        classifier: the prompt.
        images: the images; of its own classes.
        labels: `[N]`; None where they are of none of its classes.
        plain: at temperature 1 and without other names instead.
    """
    settings, names = classifier.model.active_peft_config, classifier.learned_names
    others = [] if plain else settings.other_names or []
    logits = classifier.logits(images, [*names, *others])
    values = decided_logits(logits, len(names), None if plain else settings.calibration_temperature)
    return Decided(values, len(names), None if labels is None else np.asarray(labels))


def unknown_detection(known: Decided, unknown: Decided) -> float:
    """How well the best class's probability tells images of the classes from others, see `detection_auroc`."""
    return detection_auroc(known.confidence, unknown.confidence)
