"""Logistic regression on the frozen image features.

Shapes: N images, K classes, P projection width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from ...data import has_several_labels, label_values
from ...data.videos import has_videos
from ..compared_methods import Classifier, ComparedMethod, LabelledImages, columns_of
from ..frozen_clip import FrozenCLIP
from .held_out import folds
from .label_probes import LabelProbesClassifier, search_label_probes

if TYPE_CHECKING:
    from datasets import Dataset
    from sklearn.linear_model import LogisticRegression

# Powers of ten tried first, in the original's order: of equally good ones the first is taken.
FIRST_EXPONENTS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)
# C of the linear probe in CLIP's README.
README_C = 0.316


def search_exponent(accuracy: Callable[[float], float], num_steps: int) -> float:
    """Search for the best strength C = 10^exponent as the original does.

    Seven powers of ten first. Then the range from a tenth of the best to ten times it is halved (in log space) towards
    the better of its two ends, the lower one if they are equal.

    Args:
        accuracy: what an exponent is worth.
        num_steps: how often the range is halved.

    Returns:
        The better end of the last range.

    Reference: CoOp (arXiv:2109.01134), after CLIP (arXiv:2103.00020), appendix A.3.
    """
    accuracy = cache(accuracy)
    best = max(FIRST_EXPONENTS, key=accuracy)
    left, right = best - 1, best + 1
    for _ in range(num_steps):
        middle = (left + right) / 2
        if accuracy(left) < accuracy(right):
            best, left = right, middle
        else:
            best, right = left, middle
    return best


@dataclass(frozen=True)
class LinearProbe(ComparedMethod):
    """Logistic regression (L-BFGS) on CLIP's image features, as they are, not normalised.

    Its strength C is searched for on the validation images, as in the original. Without any, on the training images
    in turn (cross-validation, in 4 parts at most); where a class has only one image, it is that of CLIP's README, with
    a warning. ImageNet has no validation images here: the original takes its test images for them, and so chooses C by
    the images that it then reports. It also draws images of its own, where here all methods have the same.

    Where images have any number of labels, each class has a regression of its own, and C is chosen by mean average
    precision.

    Args:
        max_iter: iterations of L-BFGS at most.
        num_steps: of the search, see `search_exponent`.
    """

    max_iter: int = 1000
    num_steps: int = 8

    key = "linear-probe"
    name = "linear probe"
    takes_new_classes = False
    reads = "both"

    def settings(self) -> dict[str, Any]:
        """The two arguments."""
        return asdict(self)

    @property
    def needs_one_label(self) -> str | None:
        """See `ComparedMethod.needs_one_label`."""
        return None

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> Classifier:
        """Choose C, and fit.

        Raises:
            ValueError: if the training images are of fewer than two classes.
        """
        if has_several_labels(images.train):
            return self._fit_several(clip, images, seed)
        labels = np.array(images.train["label"], dtype=np.int64)
        num_classes = len(np.unique(labels))
        if num_classes < 2:
            raise ValueError(f"A linear probe needs training images of two classes or more, got {num_classes}.")
        features = raw_features(clip, images.train)
        probe = cache(lambda exponent: self.regression(features, labels, exponent))
        if len(images.val):
            val_features, val_labels = raw_features(clip, images.val), np.array(images.val["label"])
            exponent = search_exponent(lambda tried: probe(tried).score(val_features, val_labels), self.num_steps)
        elif folds(labels, seed):
            exponent = search_exponent(lambda tried: self.cross_validate(features, labels, tried, seed), self.num_steps)
        else:
            exponent = math.log10(README_C)
            warnings.warn(
                f"{self.name}: no images to choose its strength C by, so it is {README_C}, that of CLIP's README.",
                stacklevel=2,
            )
        return LinearProbeClassifier(clip, images.class_names, probe(exponent))

    def _fit_several(self, clip: FrozenCLIP, images: LabelledImages, seed: int) -> LabelProbesClassifier:
        train, val = (
            (raw_features(clip, part), np.array(label_values(part))) if len(part) else None
            for part in (images.train, images.val)
        )
        if train is None:
            raise ValueError("A linear probe needs training images, and there is none.")
        probes = search_label_probes(
            self.regression, lambda worth: search_exponent(worth, self.num_steps), train, val, seed
        )
        return LabelProbesClassifier(lambda rows: raw_features(clip, rows), images.class_names, probes)

    def regression(self, features: np.ndarray, labels: np.ndarray, exponent: float) -> LogisticRegression:
        """A regression of strength 10^exponent; weak ones may stop at `max_iter`, as in the original."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=10.0**exponent, max_iter=self.max_iter).fit(features, labels)

    def cross_validate(self, features: np.ndarray, labels: np.ndarray, exponent: float, seed: int) -> float:
        """Share of the training images that regressions fitted without them get right."""
        right = 0
        for kept, left_out in folds(labels, seed):
            predicted = self.regression(features[kept], labels[kept], exponent).predict(features[left_out])
            right += int((predicted == labels[left_out]).sum())
        return right / len(labels)


class LinearProbeClassifier(Classifier):
    """A fitted logistic regression.

    Args:
        clip: whose image features it takes.
        class_names: the K classes that it was fitted to.
        probe: the regression; may lack classes that had no image.
    """

    def __init__(self, clip: FrozenCLIP, class_names: Sequence[str], probe: LogisticRegression):
        self.clip = clip
        self.class_names = list(class_names)
        self.probe = probe

    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """Logits `[N, K]`; minus infinity for classes that had no training image.

        Raises:
            ValueError: if a class is none of those that it was fitted to.
        """
        columns = columns_of(class_names, self.class_names, "A linear probe")
        scores = self.probe.decision_function(raw_features(self.clip, images))
        if scores.ndim == 1:  # of two classes, scikit-learn gives the second one's lead
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        logits = np.full((len(scores), len(self.class_names)), -np.inf, dtype=np.float32)
        logits[:, self.probe.classes_] = scores
        return logits[:, columns]

    def save(self, folder: Path) -> None:
        """Write the weights `coef`, the biases `intercept`, the labels `classes` and `C` to a safetensors file."""
        arrays = {
            "coef": self.probe.coef_,
            "intercept": self.probe.intercept_,
            "classes": self.probe.classes_,
            "C": np.array([self.probe.C]),
        }
        # safetensors writes an array as it lies in memory, and scikit-learn's weights lie column by column.
        tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "linear_probe.safetensors")


def raw_features(clip: FrozenCLIP, images: Dataset) -> np.ndarray:
    """Image features `[N, P]`, projected, not normalised, in the original's float64; of videos the frames' means."""
    if has_videos(images):
        return clip.image_features(images).cpu().numpy().astype(np.float64)
    return np.asarray(clip.with_image_embeds(images).with_format("numpy")["image_embeds"][:], dtype=np.float64)
