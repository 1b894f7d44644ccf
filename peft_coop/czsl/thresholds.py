"""The feasibility below which unseen pairs are left out, chosen on validation images without keeping their scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import finite
from .calibration import seen_factor
from .curve import SEEN, exact_curve
from .pair_columns import PairColumns
from .reference_sweep import reference_curve
from .rivals import RivalCollector, Rivals, merge_best


class FeasibilityThreshold:
    """The threshold of `calibrate_scores` with the highest AUC on validation images, whose scores arrive in batches.

    Of every image is kept what decides at any of the thresholds: the best others among the unseen pairs between each
    two of them. So memory grows with images times thresholds, not with pairs, and the scores are gone through once.
    AUCs are those that `czsl_metrics` gives for calibrated scores, to the bit.

    Args:
        pair_ids: `[M, 2]`, as for `CZSLMetrics`, as are `seen`, `candidates` and `topk`.
        seen: `[M]` of bool.
        candidates: `[M]` of bool.
        feasibility_scores: `[M]`, of each column.
        thresholds: the values to try, or how many: evenly spaced from the lowest feasibility of an unseen candidate to
            the highest.
        topk: within how many best candidates the true pair must be.
        reference_quirks: calibration and AUC as the original has them.

    Raises:
        ValueError: as `CZSLMetrics`, and if a feasibility is no finite number or `thresholds` is empty, less than 1
            or not finite.
    """

    def __init__(
        self,
        pair_ids: Any,
        seen: Any,
        candidates: Any,
        feasibility_scores: Any,
        thresholds: int | Sequence[float] = 50,
        topk: int = 1,
        reference_quirks: bool = False,
    ):
        self.columns = PairColumns(pair_ids, seen, candidates, topk, reference_quirks)
        self.reference_quirks = reference_quirks
        precision = np.float32 if reference_quirks else np.float64
        feasible = finite(feasibility_scores, "feasibility_scores", (len(self.columns),)).astype(precision)
        self._unseen = self.columns.candidates & ~self.columns.seen
        self.thresholds = _thresholds(thresholds, feasible[self._unseen])
        # How many thresholds each unseen column reaches.
        self._reached = np.searchsorted(self.thresholds.astype(precision), feasible, side="right")
        groups = np.where(self.columns.seen, SEEN, self._reached + 1)
        self._collector = RivalCollector(self.columns, groups, len(self.thresholds) + 2, reference_quirks)

    def update(self, scores: Any, labels: Any) -> None:
        """Take in a batch of images, as `CZSLMetrics.update` does: scores as they are without calibration."""
        self._collector.update(scores, labels)

    def update_parts(self, parts: Iterable[tuple[Any, Any]], labels: Any) -> None:
        """Take in a batch of images in blocks of columns, as `CZSLMetrics.update_parts` does."""
        self._collector.update_parts(parts, labels)

    def compute(self) -> dict[str, Any]:
        """The best threshold of all images so far.

        Returns:
            "threshold", the lowest of those with the highest AUC; "auc", the AUC there; "thresholds" and "aucs", arrays
            of all that were tried, ascending.

        Raises:
            ValueError: if there is no image of a seen pair, or none of an unseen one.
        """
        images = self._collector.images()
        is_seen = self.columns.seen[images.labels]
        make_curve = reference_curve if self.reference_quirks else exact_curve
        calibrated = self._as_in_original if self.reference_quirks else self._without_infeasible
        aucs, staying = np.zeros(len(self.thresholds)), np.full_like(images.best[:, SEEN], -np.inf)
        for place in reversed(range(len(aucs))):  # ever more pairs stay
            staying = _joined(staying, images.best[:, place + 2])
            aucs[place] = make_curve(*calibrated(images, staying, place), is_seen).area
        best = int(aucs.argmax())
        chosen = {"threshold": float(self.thresholds[best]), "auc": float(aucs[best])}
        return {**chosen, "thresholds": self.thresholds.copy(), "aucs": aucs}

    def _without_infeasible(self, images: Rivals, staying: NDArray, place: int) -> tuple[NDArray, NDArray]:
        """True pairs' scores, and the best others, seen and unseen, at this threshold."""
        truth = np.where(self._infeasible(place)[images.labels], -np.inf, images.truth)
        return truth, np.stack([images.best[:, SEEN], staying], axis=1)

    def _as_in_original(self, images: Rivals, staying: NDArray, place: int) -> tuple[NDArray, NDArray]:
        infeasible, labels, k = self._infeasible(place), images.labels, self.columns.topk
        factor = seen_factor(self.thresholds[place])
        truth = images.truth * np.where(self.columns.seen[labels], factor, 1)
        until = np.cumsum(infeasible)
        before = (until - infeasible)[labels]
        zeros = np.stack([before, until[-1] - until[labels]], axis=1)
        zeros = np.where(np.arange(k) < zeros[..., None], 0.0, -np.inf)
        best = np.stack([images.best[:, SEEN] * factor, _joined(staying, zeros)], axis=1)
        return np.where(infeasible[labels], 0, truth), best

    def _infeasible(self, place: int) -> NDArray:
        return self._unseen & (self._reached <= place)


def feasibility_threshold(
    scores: Any,
    labels: Any,
    pair_ids: Any,
    seen: Any,
    candidates: Any,
    feasibility_scores: Any,
    thresholds: int | Sequence[float] = 50,
    topk: int = 1,
    reference_quirks: bool = False,
) -> dict[str, Any]:
    """`FeasibilityThreshold` of scores `[N, M]` that are all there: arguments and errors are its own."""
    search = FeasibilityThreshold(pair_ids, seen, candidates, feasibility_scores, thresholds, topk, reference_quirks)
    search.update(scores, labels)
    return search.compute()


def _thresholds(given: int | Sequence[float], feasible: NDArray) -> NDArray:
    """The values to try in float64, ascending."""
    if isinstance(given, int | np.integer):
        if isinstance(given, bool) or given < 1:
            raise ValueError(f"`thresholds` must be 1 or more, or a list of values; got {given}.")
        return np.linspace(feasible.min(), feasible.max(), given, dtype=np.float64)
    values = finite(given, "thresholds", (None,)).astype(np.float64)
    if not len(values):
        raise ValueError("`thresholds` is empty: give the values to try, or how many.")
    return np.sort(values)


def _joined(these: NDArray, those: NDArray) -> NDArray:
    """The k best of two groups, on either side of the true column: `[n, 2, k]` of the same twice."""
    return np.stack([merge_best(these[:, side], those[:, side]) for side in (0, 1)], axis=1)
