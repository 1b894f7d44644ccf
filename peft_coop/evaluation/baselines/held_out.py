"""Training images on which values are tried where there are no validation images."""

from __future__ import annotations

import numpy as np

MAX_FOLDS = 4
# Indices of the images to learn from, and of those to try on.
Fold = tuple[np.ndarray, np.ndarray]


def folds(labels: np.ndarray, seed: int) -> list[Fold]:
    """Parts of the training images, each with as many of a class as the others, that are left out in turn.

    Args:
        labels: of the training images, `[N]`.
        seed: of the parts.

    Returns:
        For each part the indices of the images to learn from and of those to try on: 4 parts, or as many as the
        rarest class has images; none where a class has a single one, which cannot be learned from and left out.
    """
    from sklearn.model_selection import StratifiedKFold

    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if fewest < 2:
        return []
    return list(StratifiedKFold(min(fewest, MAX_FOLDS), shuffle=True, random_state=seed).split(labels, labels))
