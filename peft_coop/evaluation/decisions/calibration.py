"""What a prompt decides by, chosen with images that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...data import has_several_labels, label_values
from ...models import decided_logits as decided
from ..prompt_classifier import PromptClassifier
from ..several_labels import has_rows
from .decided import Decided, DecidedLabels
from .selective import detection_auroc
from .temperature import fit_temperature

if TYPE_CHECKING:
    from datasets import Dataset

# Why a prompt cannot be measured with labels of the other kind, by whether it has several labels per image.
OTHER_KIND = {
    True: "The prompt judges each class for itself, and these images have one class each, which does not say that they "
    "show none of the others: give images with several labels, as a folder's `labels.csv` names them.",
    False: "These images have several labels each, and the prompt was trained for one: its probabilities are shares of "
    'one answer. Train one for several, with `problem_type="multi_label_classification"`.',
}


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and the images that it was chosen with, before and after.

    Attributes:
        temperature: what logits are divided by.
        min_probability: for an answer; None: any, and of several labels 0.5.
        other_names: names of what is none of the classes.
        before: the images at temperature 1, without other names.
        after: as they are decided from now on.
    """

    temperature: float
    min_probability: float | None
    other_names: list[str] | None
    before: Decided | DecidedLabels
    after: Decided | DecidedLabels


def decided_logits(logits: ArrayLike, n_cls: int, temperature: float | None = None) -> NDArray:
    """Logits whose softmax is what is decided by: at a temperature, and those of other names as one.

    Args:
        logits: `[N, C + O]`, of C classes and O other names.
        n_cls: C.
        temperature: what they are divided by; None: 1.

    Returns:
        `[N, C]`, or `[N, C + 1]` with "other" last where there are other names; float64.
    """
    return decided(torch.from_numpy(np.asarray(logits, dtype=np.float64)), n_cls, temperature).numpy()


def calibrate(
    classifier: PromptClassifier,
    images: Dataset,
    other_names: Sequence[str] | None = None,
    min_accuracy: float | None = None,
    min_coverage: float | None = None,
) -> Calibration:
    """Fit a temperature to a learned prompt, choose the least probability of an answer, and write both into it.

    Of a prompt with several labels per image the temperature is that of the sigmoids, and what has the least
    probability is a label.

    Args:
        classifier: the prompt; what it decided by before is replaced.
        images: with `label`, of all its classes if possible, which it has not learned from and is not tested on.
        other_names: names of what is none of the classes, such as "a texture"; their probability is that of "other".
            Not with several labels.
        min_accuracy: of the answers, a fraction: as many images are answered as this allows; of several labels, as many
            labels.
        min_coverage: the share of images to be answered at least; not with several labels. Without either, all are.

    Raises:
        ValueError: if there is no image, their labels are not of the prompt's kind, the images do not tell a
            temperature, or no threshold fulfils the wish; the classifier is left as it was.
    """
    if not len(images):
        raise ValueError("There is no image to calibrate with: give validation images.")
    names, others = classifier.learned_names, list(other_names or [])
    settings = classifier.model.active_peft_config
    if has_several_labels(images) != settings.has_several_labels:
        raise ValueError(OTHER_KIND[settings.has_several_labels])
    settings.check_answers(None, others or None)
    labels, logits = np.asarray(label_values(images)), classifier.logits(images, [*names, *others])
    if settings.has_several_labels and not labels.any():
        raise ValueError(
            f"None of the {len(labels):,} images to calibrate with has any of the {len(names):,} classes: give some "
            "that have."
        )
    before = _decided(logits[:, : len(names)], names, labels)
    temperature = fit_temperature(decided_logits(logits, len(names)) if not others else logits, labels)
    after = _decided(logits, names, labels, temperature)
    min_probability = after.choose_min_probability(min_accuracy, min_coverage)
    classifier.model.set_decision(temperature, min_probability, others or None)
    return Calibration(temperature, min_probability, others or None, before, after)


def decide(
    classifier: PromptClassifier, images: Dataset, labels: Any = None, plain: bool = False
) -> Decided | DecidedLabels:
    """Images as a learned prompt decides them, at its temperature and beside its other names.

    Args:
        classifier: the prompt.
        images: the images; of its own classes.
        labels: `[N]`, or `[N, C]` of 0 and 1 where the prompt has several labels per image; None where they are of
            none of its classes.
        plain: at temperature 1 and without other names instead.

    Raises:
        ValueError: if the labels are not of the prompt's kind.
    """
    settings, names = classifier.model.active_peft_config, classifier.learned_names
    if labels is not None and has_rows(labels) != settings.has_several_labels:
        raise ValueError(OTHER_KIND[settings.has_several_labels])
    others = [] if plain else settings.other_names or []
    logits = classifier.logits(images, [*names, *others])
    return _decided(logits, names, labels, None if plain else settings.calibration_temperature)


def _decided(
    logits: NDArray, names: list[str], labels: Any, temperature: float | None = None
) -> Decided | DecidedLabels:
    """Logits of classes, and of other names behind them, at a temperature."""
    if not np.isfinite(logits).all():
        raise ValueError(
            f"The model's logits are not all finite (such as {logits[~np.isfinite(logits)][0]}): the adapter or CLIP "
            "has weights that are no numbers."
        )
    values = decided_logits(logits, len(names), temperature)
    if labels is not None and has_rows(labels):
        return DecidedLabels(values, np.asarray(labels), names)
    return Decided(values, len(names), None if labels is None else np.asarray(labels))


def unknown_detection(known: Decided, unknown: Decided) -> float:
    """How well the best class's probability tells images of the classes from others, see `detection_auroc`."""
    return detection_auroc(known.confidence, unknown.confidence)
