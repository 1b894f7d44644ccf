"""The columns of a score matrix: which pair each is, whether it was seen in training, whether it can be predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import mask, whole_numbers


class PairColumns:
    """M columns of scores, checked.

    Args:
        pair_ids: `[M, 2]`, attribute and object of each column; or `[M, 3]`, two attributes and an object.
        seen: `[M]` of bool, whether the pair is one of those trained on.
        candidates: `[M]` of bool, whether the column can be predicted.
        topk: within how many best columns the true one must be.
        reference_quirks: whether the `topk`-th best seen candidate is asked for, as the original does.

    Raises:
        ValueError: if shapes or types do not fit, a pair is there twice, no candidate is seen or none is unseen, or
            there are fewer than `topk` candidates, or seen candidates with `reference_quirks`.
    """

    def __init__(self, pair_ids: Any, seen: Any, candidates: Any, topk: int, reference_quirks: bool = False):
        self.ids = whole_numbers(pair_ids, "pair_ids", ndim=2)
        if self.ids.shape[1] not in (2, 3):
            raise ValueError(
                f"`pair_ids` must have a row (attribute, object) or (attribute, attribute, object) for each column of "
                f"scores, got the shape {self.ids.shape}."
            )
        self.seen = mask(seen, "seen", len(self))
        self.candidates = mask(candidates, "candidates", len(self))
        self._check_twice()
        self._check_both_kinds()
        self._check_topk(topk, self.candidates & self.seen if reference_quirks else self.candidates)
        self.topk = topk

    def __len__(self) -> int:
        return len(self.ids)

    def check_labels(self, labels: Any) -> NDArray:
        """Labels as int64.

        Raises:
            ValueError: if there is none, one is no column, or the column of one is no candidate.
        """
        true = whole_numbers(labels, "labels", ndim=1)
        if not len(true):
            raise ValueError("`labels` is empty: there must be at least one image.")
        outside = true[(true < 0) | (true >= len(self))]
        if len(outside):
            raise ValueError(f"`labels` must be from 0 to {len(self) - 1}, columns of `pair_ids`; got {outside[0]}.")
        excluded = true[~self.candidates[true]]
        if len(excluded):
            raise ValueError(
                f"Every label must be a candidate, got {excluded[0]} (pair {tuple(self.ids[excluded[0]].tolist())}), "
                f"of which `candidates` is False."
            )
        return true

    def _check_twice(self) -> None:
        columns = np.flatnonzero(self.candidates)
        _, first, place = np.unique(self.ids[columns], axis=0, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[place.reshape(-1)] != np.arange(len(columns)))
        if len(again):
            column, before = columns[again[0]], columns[first[place.reshape(-1)[again[0]]]]
            raise ValueError(
                f"Every candidate must be another pair, but columns {before} and {column} of `pair_ids` are both "
                f"{tuple(self.ids[column].tolist())}."
            )

    def _check_both_kinds(self) -> None:
        for name, kind in {"seen": self.seen, "unseen": ~self.seen}.items():
            if not (kind & self.candidates).any():
                raise ValueError(
                    f"There must be a seen and an unseen candidate, but none of the {self.candidates.sum()} "
                    f"candidates is {name}."
                )

    def _check_topk(self, topk: int, among: NDArray) -> None:
        count = int(among.sum())
        if isinstance(topk, bool) or not isinstance(topk, int | np.integer) or not 1 <= topk <= count:
            kind = "candidates" if among is self.candidates else "seen candidates"
            raise ValueError(f"`topk` must be a whole number from 1 to {count}, the number of {kind}; got {topk!r}.")
