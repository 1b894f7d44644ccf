"""Accuracy on seen and on unseen pairs over all biases, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rivals import merge_best

SEEN, UNSEEN = 0, 1


@dataclass(frozen=True)
class Curve:
    """Points of seen accuracy against unseen accuracy, each with a bias that gives it.

    Attributes:
        bias: `[S]`, what is added to the scores of unseen pairs.
        seen: `[S]`, accuracy on images of seen pairs.
        unseen: `[S]`, accuracy on images of unseen pairs.
        area: under seen accuracy over unseen accuracy.
    """

    bias: NDArray
    seen: NDArray
    unseen: NDArray
    area: float

    def summary(self) -> dict[str, float]:
        """The curve in a few numbers, all but the bias as fractions."""
        with np.errstate(divide="ignore"):
            means = 2 / (1 / self.seen + 1 / self.unseen)
        best = int(means.argmax())
        return {
            "best_seen": float(self.seen.max()),
            "best_unseen": float(self.unseen.max()),
            "best_hm": float(means[best]),
            "auc": self.area,
            "best_hm_seen": float(self.seen[best]),
            "best_hm_unseen": float(self.unseen[best]),
            "best_hm_bias": float(self.bias[best]),
        }


def exact_curve(truth: NDArray, best: NDArray, is_seen: NDArray) -> Curve:
    """The curve of all biases.

    An image of an unseen pair is right above a bias, its margin, and one of a seen pair below one; between two margins
    nothing changes. So there is a point for each interval, and the margins themselves belong to none.

    Args:
        truth: `[n]`, scores of the true pairs.
        best: `[n, 2, 2, k]`, as in `Rivals`, of seen and of unseen pairs.
        is_seen: `[n]`, whether the true pair is seen.
    """
    margins, ever = _margins(truth, best, is_seen)
    until = np.sort(margins[is_seen & ever])
    beyond = np.sort(margins[~is_seen & ever])
    num_seen, num_unseen = int(is_seen.sum()), int((~is_seen).sum())
    steps = np.unique(np.concatenate([until, beyond]))
    steps = steps[np.isfinite(steps)]
    below = np.concatenate([[-np.inf], steps])
    return Curve(
        bias=_between(steps),
        seen=(len(until) - np.searchsorted(until, below, side="right")) / num_seen,
        unseen=np.searchsorted(beyond, below, side="right") / num_unseen,
        area=_area(until, beyond) / (2 * num_seen * num_unseen),
    )


def _margins(truth: NDArray, best: NDArray, is_seen: NDArray) -> tuple[NDArray, NDArray]:
    """The bias at which each image changes between wrong and right, and whether it is right at any."""
    rows, k = np.arange(len(truth)), best.shape[-1]
    own = best[rows, np.where(is_seen, SEEN, UNSEEN)]
    others = best[rows, np.where(is_seen, UNSEEN, SEEN)]
    ahead = (own[:, 0] >= truth[:, None]).sum(axis=1) + (own[:, 1] > truth[:, None]).sum(axis=1)
    ever = ahead < k  # never of minus infinity: before it are always k, if only those that stand for none
    # So many of the other kind may be ahead, and one less: the next decides.
    decisive = merge_best(others[:, 0], others[:, 1])[rows, np.where(ever, k - 1 - ahead, 0)]
    sign = np.where(is_seen, 1, -1)
    with np.errstate(invalid="ignore"):
        return np.where(ever, sign * (truth - decisive), np.nan), ever


def _area(until: NDArray, beyond: NDArray) -> int:
    """Twice the pairs of a seen and an unseen image that one bias gets both right; where margins are equal, once."""
    return int(sum(np.searchsorted(beyond, until, side=side).sum() for side in ("left", "right")))


def _between(steps: NDArray) -> NDArray:
    """A bias below all steps, one between each two neighbours, and one above all."""
    if not len(steps):
        return np.zeros(1)
    middles = steps[:-1] + np.diff(steps) / 2
    return np.concatenate([[steps[0] - max(1, abs(steps[0]))], middles, [steps[-1] + max(1, abs(steps[-1]))]])
