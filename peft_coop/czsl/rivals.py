"""All that is kept of scores: of every image its true pair's score, and the best of the others.

Whether a pair is among the best k, whatever is added to the unseen ones, is decided by the k best others that are seen
and the k best that are not. Of equal scores the lower column comes first, so others before and after the true column
are kept apart: one before it wins a tie, one after it loses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import score_array, whole_numbers
from .pair_columns import PairColumns

# How many scores are looked at together: enough for NumPy, few beside any matrix that is long.
BLOCK = 1 << 21


@dataclass
class Rivals:
    """What is kept of n images.

    Attributes:
        labels: `[n]`, the true columns.
        truth: `[n]`, their scores.
        best: `[n, G, 2, k]`, the k best other scores of each group of columns, those before the true column and those
            after it; minus infinity where there are fewer.
        predicted: `[n]`, the column of the highest score.
    """

    labels: NDArray
    truth: NDArray
    best: NDArray
    predicted: NDArray


class RivalCollector:
    """What is kept of all images, as scores arrive; a batch of which a part is refused leaves no trace.

    Args:
        columns: the columns of scores.
        groups: `[M]`, the group of each, from 0.
        num_groups: how many groups there are.
        reference_quirks: the original's scores: rounded to float32, and each is finite.
    """

    def __init__(self, columns: PairColumns, groups: NDArray, num_groups: int, reference_quirks: bool):
        self.columns, self._quirks = columns, reference_quirks
        self._groups, self._num_groups = groups, num_groups
        self._batches: list[Rivals] = []

    def update(self, scores: Any, labels: Any) -> None:
        """Take in `[b, M]` scores of b images whose true columns are the labels, `[b]`."""
        self.update_parts([(slice(None), scores)], labels)

    def update_parts(self, parts: Iterable[tuple[Any, Any]], labels: Any) -> None:
        """Take in scores of b images in blocks of columns: pairs of columns `[m]`, or a slice, and scores `[b, m]`."""
        true = self.columns.check_labels(labels)
        kept, high = self._nothing(true), np.full(len(true), -np.inf)
        open_columns = self.columns.candidates.copy()
        for given, values in parts:
            columns, scores = self._check_part(given, values, len(true))
            self._check_new(columns, open_columns)
            step = max(1, BLOCK // max(1, len(columns)))
            for start in range(0, len(true), step):
                rows = slice(start, start + step)
                self._take(columns, scores[rows], _rows(kept, rows), high[rows], start)
        self._check_all_given(open_columns)
        _check_predicted(high)
        self._batches.append(kept)

    def images(self) -> Rivals:
        """What is kept of all images so far.

        Raises:
            ValueError: if there was none, or none whose pair is seen, or none whose pair is not.
        """
        if not self._batches:
            raise ValueError("There are no scores yet: call `update` at least once.")
        if len(self._batches) > 1:
            each = {field.name: [getattr(batch, field.name) for batch in self._batches] for field in fields(Rivals)}
            self._batches = [Rivals(**{name: np.concatenate(arrays) for name, arrays in each.items()})]
        kept = self._batches[0]
        num_seen = int(self.columns.seen[kept.labels].sum())
        if num_seen in (0, len(kept.labels)):
            raise ValueError(
                f"There must be an image of a seen pair and one of an unseen pair, got {num_seen} and "
                f"{len(kept.labels) - num_seen} of them."
            )
        return kept

    def _nothing(self, true: NDArray) -> Rivals:
        shape = (len(true), self._num_groups, 2, self.columns.topk)
        return Rivals(true, np.full(len(true), -np.inf), np.full(shape, -np.inf), np.zeros_like(true))

    def _check_part(self, given: Any, values: Any, num_images: int) -> tuple[NDArray, NDArray]:
        if isinstance(given, slice):
            columns = np.arange(len(self.columns))[given]
        else:
            columns = whole_numbers(given, "columns", ndim=1)
        outside = columns[(columns < 0) | (columns >= len(self.columns))]
        if len(outside):
            raise ValueError(f"Columns must be from 0 to {len(self.columns) - 1}, got {outside[0]}.")
        scores = score_array(values)
        scores = scores.astype(np.float32, copy=False) if self._quirks else scores
        if scores.shape != (num_images, len(columns)):
            raise ValueError(
                f"`scores` must have a row for each of the {num_images} labels and a column for each of the "
                f"{len(columns)} pairs, got the shape {scores.shape}."
            )
        return columns, scores

    def _check_new(self, columns: NDArray, open_columns: NDArray) -> None:
        """Note that these columns are there."""
        own, counts = np.unique(columns, return_counts=True)
        again = own[(counts > 1) | (self.columns.candidates & ~open_columns)[own]]
        if len(again):
            raise ValueError(f"Every column must be given once, got column {again[0]} again.")
        open_columns[own] = False

    def _check_all_given(self, open_columns: NDArray) -> None:
        missing = np.flatnonzero(open_columns)
        if len(missing):
            raise ValueError(
                f"The parts must have all candidates, but {len(missing)} of {self.columns.candidates.sum()} are "
                f"missing, the first is column {missing[0]}."
            )

    def _take(self, columns: NDArray, scores: NDArray, kept: Rivals, high: NDArray, start: int) -> None:
        """Take in a block of the scores of some images, the first of which is row `start` of the batch."""
        for group in range(self._num_groups):
            place = np.flatnonzero((self._groups[columns] == group) & self.columns.candidates[columns])
            if not len(place):
                continue
            place = place[np.argsort(columns[place])]
            own, values = columns[place], scores[:, place]
            self._check_scores(values, own, start)
            self._take_truth(own, values, kept)
            _take_highest(own, values, kept, high)
            for side, beside in enumerate((np.less, np.greater)):
                rivals = np.where(beside(own, kept.labels[:, None]), values, -np.inf)
                kept.best[:, group, side] = merge_best(kept.best[:, group, side], rivals)

    def _check_scores(self, values: NDArray, own: NDArray, start: int) -> None:
        # What is no number or infinite is the highest or the lowest of its row.
        wrong = ~(values.max(axis=1) < np.inf)
        if self._quirks:
            wrong |= np.isneginf(values.min(axis=1))
        if wrong.any():
            row = int(wrong.argmax())
            allowed = np.isfinite(values[row]) | (np.isneginf(values[row]) & (not self._quirks))
            place = int(allowed.argmin())
            accepted = "" if self._quirks else ", or minus infinity for what is never predicted"
            raise ValueError(
                f"The scores of candidates must be finite{accepted}; got {values[row, place]} in row {start + row}, "
                f"column {own[place]}."
            )

    def _take_truth(self, own: NDArray, values: NDArray, kept: Rivals) -> None:
        place = np.minimum(np.searchsorted(own, kept.labels), len(own) - 1)
        here = np.flatnonzero(own[place] == kept.labels)
        kept.truth[here] = values[here, place[here]]


def merge_best(*values: NDArray) -> NDArray:
    """The k highest of all of an image's values, the highest first: the first argument has k of them, `[n, k]`."""
    k = values[0].shape[1]
    if k == 1:
        highest = [array.max(axis=1, keepdims=True) for array in values]
        return np.maximum.reduce([array.astype(np.float64) for array in highest])
    parts = [np.partition(array, array.shape[1] - k)[:, -k:] if array.shape[1] > k else array for array in values]
    return -np.sort(-np.concatenate(parts, axis=1, dtype=np.float64))[:, :k]


def _rows(kept: Rivals, rows: slice) -> Rivals:
    """The same arrays, of some images: what is written there is written."""
    return Rivals(*(getattr(kept, field.name)[rows] for field in fields(Rivals)))


def _take_highest(own: NDArray, values: NDArray, kept: Rivals, high: NDArray) -> None:
    place = values.argmax(axis=1)
    found, column = values[np.arange(len(values)), place].astype(np.float64), own[place]
    better = (found > high) | ((found == high) & (column < kept.predicted) & np.isfinite(found))
    kept.predicted[better], high[better] = column[better], found[better]


def _check_predicted(high: NDArray) -> None:
    if np.isneginf(high).any():
        row = int(np.isneginf(high).argmax())
        raise ValueError(f"Every row of `scores` needs a finite one among the candidates, row {row} has none.")
