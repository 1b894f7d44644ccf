"""A logistic regression of each class, where images have any number of labels.

Shapes: N images, K classes, P projection width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ..compared_methods import Classifier, columns_of
from ..several_labels import several_scores

if TYPE_CHECKING:
    from datasets import Dataset
    from sklearn.linear_model import LogisticRegression

MAX_PARTS = 4
Regression = Callable[[NDArray, NDArray, float], "LogisticRegression"]


class LabelProbes:
    """Regressions of one strength, each of whether an image has a class.

    A class that all training images have, or none, gets the logarithm of its odds, with half an image added to each
    side.

    Args:
        regression: of features `[N, P]`, labels `[N]` and an exponent.
        features: `[N, P]`.
        labels: `[N, K]` of 0 and 1.
        exponent: the strength is ten to this power.
    """

    def __init__(self, regression: Regression, features: NDArray, labels: NDArray, exponent: float):
        counts, num_images = labels.sum(axis=0), len(labels)
        self.weights = np.zeros((labels.shape[1], features.shape[1]))
        self.biases = np.log((counts + 0.5) / (num_images - counts + 0.5))
        self.strength = 10.0**exponent
        for column in np.flatnonzero((counts > 0) & (counts < num_images)):
            fitted = regression(features, labels[:, column], exponent)
            self.weights[column], self.biases[column] = fitted.coef_[0], fitted.intercept_[0]

    def logits(self, features: NDArray) -> NDArray:
        """`[N, K]`, whose sigmoids are the probabilities."""
        return features @ self.weights.T + self.biases


def search_label_probes(
    regression: Regression,
    search: Callable[[Callable[[float], float]], float],
    train: tuple[NDArray, NDArray],
    val: tuple[NDArray, NDArray] | None,
    seed: int,
) -> LabelProbes:
    """Fit with the strength of the best mean average precision on the validation images.

    Args:
        regression: see `LabelProbes`.
        search: finds the best exponent, by what each is worth.
        train: features `[N, P]` and labels `[N, K]`.
        val: likewise; None: the training images in turn, in 4 parts at most.
        seed: of these parts.

    Raises:
        ValueError: if no training image has a class, or there is a single one and nothing to choose the strength by.
    """
    probes = cache(lambda exponent: LabelProbes(regression, *train, exponent))
    if not train[1].any():
        raise ValueError("A linear probe needs training images that have a class, and none has any.")
    if val is not None:
        return probes(search(lambda tried: mean_precision(probes(tried).logits(val[0]), val[1])))
    if len(train[0]) < 2:
        raise ValueError("A linear probe of several labels needs two training images or more, or validation images.")
    return probes(search(lambda tried: _in_turn(regression, *train, tried, seed)))


def mean_precision(logits: NDArray, labels: NDArray) -> float:
    """The mean average precision of `[N, K]` logits."""
    return several_scores(logits, labels, list(map(str, range(labels.shape[1]))))["mean_average_precision"]


def _in_turn(regression: Regression, features: NDArray, labels: NDArray, exponent: float, seed: int) -> float:
    """The mean average precision of training images, each judged by probes that were fitted without it."""
    from sklearn.model_selection import KFold

    logits = np.zeros(labels.shape)
    for kept, left_out in KFold(min(MAX_PARTS, len(labels)), shuffle=True, random_state=seed).split(labels):
        logits[left_out] = LabelProbes(regression, features[kept], labels[kept], exponent).logits(features[left_out])
    return mean_precision(logits, labels)


class LabelProbesClassifier(Classifier):
    """Fitted probes.

    Args:
        features_of: gives the features `[N, P]` of images.
        class_names: the K classes that they were fitted to.
        probes: the regressions.
    """

    def __init__(self, features_of: Callable[[Dataset], NDArray], class_names: Sequence[str], probes: LabelProbes):
        self.features_of = features_of
        self.class_names = list(class_names)
        self.probes = probes

    def logits(self, images: Dataset, class_names: Sequence[str]) -> NDArray:
        """Logits `[N, K]`, whose sigmoids are the probabilities.

        Raises:
            ValueError: if a class is none of those that they were fitted to.
        """
        columns = columns_of(class_names, self.class_names, "A linear probe")
        return self.probes.logits(self.features_of(images)).astype(np.float32)[:, columns]

    def save(self, folder: Path) -> None:
        """Write the weights `coef`, the biases `intercept` and `C` to a safetensors file."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"coef": self.probes.weights, "intercept": self.probes.biases, "C": np.array([self.probes.strength])}
        save_file(arrays, folder / "linear_probe.safetensors")
