"""The original's about twenty biases, in its arithmetic: float32, and the curve as far as they reach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .curve import SEEN, UNSEEN, Curve
from .rivals import merge_best

# The bias that comes first, for best unseen accuracy; how far the others stay below margins; and about how many.
HIGH_BIAS = np.float32(1e3)
SHORT_OF_MARGIN = np.float32(1e-4)
NUM_BIASES = 20


def reference_curve(truth: NDArray, best: NDArray, is_seen: NDArray) -> Curve:
    """The curve as the original's evaluator has it (BatsResearch/csp); arguments are those of `exact_curve`.

    The biases are margins of images of unseen pairs that are right at a bias of 1000: every twentieth of the sorted
    ones, less 1e-4. The point at 1000 comes last. The area is the trapezoids' in this order.
    """
    truth, best = truth.astype(np.float32), best.astype(np.float32)
    k = best.shape[-1]
    highest = merge_best(best[:, SEEN, 0], best[:, SEEN, 1])[:, k - 1].astype(np.float32)
    swept = ~is_seen & right_at(HIGH_BIAS, truth, best, is_seen)
    margins = np.sort((highest - truth)[swept] - SHORT_OF_MARGIN)
    biases = np.append(margins[:: max(len(margins) // NUM_BIASES, 1)], HIGH_BIAS)
    rights = [right_at(bias, truth, best, is_seen) for bias in biases]
    seen = np.array([single_mean(right[is_seen]) for right in rights])
    unseen = np.array([single_mean(right[~is_seen]) for right in rights])
    area = float((np.diff(unseen) * (seen[1:] + seen[:-1]) / 2).sum())
    return Curve(biases.astype(np.float64), seen, unseen, area)


def right_at(bias: np.floating, truth: NDArray, best: NDArray, is_seen: NDArray) -> NDArray:
    """Whether each image is right with this bias, added in the type of the scores as it would be to all of them."""
    own = np.where(is_seen, truth, truth + bias)[:, None]
    ahead = np.zeros(len(truth), dtype=np.int64)
    for group, added in ((SEEN, 0), (UNSEEN, bias)):
        rivals = best[:, group] + best.dtype.type(added)
        ahead += (rivals[:, 0] >= own).sum(axis=1) + (rivals[:, 1] > own).sum(axis=1)
    return ahead < best.shape[-1]


def single_mean(right: NDArray) -> float:
    """The share of what is right, as float32 has it."""
    return float(np.float32(right.sum()) / np.float32(len(right)))
