"""Compositional zero-shot accuracy over all biases, from scores at once or as they arrive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .curve import SEEN, UNSEEN, exact_curve
from .pair_columns import PairColumns
from .reference_sweep import reference_curve, right_at, single_mean
from .rivals import RivalCollector, Rivals


class CZSLMetrics:
    """Compositional zero-shot metrics of scores that arrive in batches, or in blocks of columns.

    A bias b is added to the scores of unseen pairs; from minus to plus infinity it trades accuracy on images of seen
    pairs for accuracy on images of unseen pairs. Memory grows with images, not with images times pairs: of an image
    are kept its true pair's score, and the best of the others that are seen and that are not. Results do not depend on
    how the scores were cut into batches and blocks.

    An image is right if its true pair is among the `topk` best candidates; of equal scores the lower column comes
    first. Accuracies are averages over images, not over pairs.

    Args:
        pair_ids: `[M, 2]`, attribute and object of each column of scores; or `[M, 3]`: two attributes and an object.
        seen: `[M]` of bool, whether a pair is one of those trained on. An image counts as seen if its pair is.
        candidates: `[M]` of bool, the pairs that can be predicted: in the closed world those of training and of the
            split, in the open world all. What other columns hold is never looked at.
        topk: within how many best candidates the true pair must be.
        reference_quirks: the numbers that the original's evaluator gives, see `czsl_metrics`.

    Raises:
        ValueError: if shapes or types do not fit, a candidate is there twice, no candidate is seen or none is unseen,
            or `topk` is less than 1 or more than there are candidates (with `reference_quirks`, seen candidates).

    Reference: Nayak et al., Learning to Compose Soft Prompts for Compositional Zero-Shot Learning (arXiv:2204.03574);
    the curve over biases is of Chao et al. (arXiv:1605.04253) and of Purushwalkam et al. (arXiv:1905.05908).
    """

    def __init__(self, pair_ids: Any, seen: Any, candidates: Any, topk: int = 1, reference_quirks: bool = False):
        self.columns = PairColumns(pair_ids, seen, candidates, topk, reference_quirks)
        self.reference_quirks = reference_quirks
        groups = np.where(self.columns.seen, SEEN, UNSEEN)
        self._collector = RivalCollector(self.columns, groups, 2, reference_quirks)

    def update(self, scores: Any, labels: Any) -> None:
        """Take in a batch of images.

        Args:
            scores: `[b, M]`, tensor, array or lists. Those of candidates are finite; minus infinity says that a pair
                is never predicted, whatever the bias, and an image of this pair is always wrong.
            labels: `[b]`, the column of each image's true pair.

        Raises:
            ValueError: if shapes do not fit, a label is no candidate, or a score of a candidate is no number or plus
                infinity (with `reference_quirks`, or minus infinity), or a row has no finite one. Nothing of the batch
                is then kept.
        """
        self._collector.update(scores, labels)

    def update_parts(self, parts: Iterable[tuple[Any, Any]], labels: Any) -> None:
        """Take in a batch of images of which the scores come in blocks of columns, so that they never exist at once.

        Args:
            parts: pairs of columns and scores, in any order, for instance from a generator. Columns are indices `[m]`
                or a slice, scores `[b, m]` as for `update`. Together they have every candidate, once.
            labels: `[b]`, the column of each image's true pair.

        Raises:
            ValueError: as `update`, and if a column is given twice or a candidate is missing.
        """
        self._collector.update_parts(parts, labels)

    def compute(self) -> dict[str, Any]:
        """The metrics of all images so far, as `czsl_metrics` describes them; more images may follow.

        Raises:
            ValueError: if there is no image of a seen pair, or none of an unseen one.
        """
        images = self._collector.images()
        is_seen = self.columns.seen[images.labels]
        make_curve = reference_curve if self.reference_quirks else exact_curve
        curve = make_curve(images.truth, images.best, is_seen)
        points = {"bias": curve.bias, "seen": curve.seen, "unseen": curve.unseen}
        return {**curve.summary(), **self._without_bias(images, is_seen), "curve": points}

    def _without_bias(self, images: Rivals, is_seen: NDArray) -> dict[str, float]:
        right = right_at(np.float64(0), images.truth, images.best, is_seen)
        same = self.columns.ids[images.predicted] == self.columns.ids[images.labels]
        parts = {
            "attr_acc": same[:, :-1].all(axis=1),
            "obj_acc": same[:, -1],
            "pair_acc": right,
            "seen_acc": right[is_seen],
            "unseen_acc": right[~is_seen],
        }
        mean = single_mean if self.reference_quirks else np.mean
        return {name: float(mean(part)) for name, part in parts.items()}


def czsl_metrics(
    scores: Any,
    labels: Any,
    pair_ids: Any,
    seen: Any,
    candidates: Any,
    topk: int = 1,
    reference_quirks: bool = False,
) -> dict[str, Any]:
    """Compositional zero-shot metrics: accuracy on seen and on unseen pairs over all biases.

    Args:
        scores: `[N, M]`, of N images over M pairs; tensor, array or lists.
        labels: `[N]`, the column of each image's true pair.
        pair_ids: `[M, 2]` or `[M, 3]`, see `CZSLMetrics`, as are the others.
        seen: `[M]` of bool.
        candidates: `[M]` of bool.
        topk: within how many best candidates the true pair must be.
        reference_quirks: the numbers that the original's evaluator gives: about 20 biases, taken from margins less
            1e-4, then 1000; scores rounded to float32, so that 1000 blurs differences below 6e-5; the area from the
            lowest to the highest of these biases only, 0 if no image of an unseen pair is right; and a perfect scorer
            with equal margins has a best harmonic mean of 0 and an AUC of 0.5.

    Returns:
        Fractions, but for biases:

        - "best_seen", "best_unseen": the accuracy on images of seen pairs at a bias of minus infinity, and on images
          of unseen pairs at plus infinity.
        - "best_hm": the highest harmonic mean of the two accuracies at one bias; "best_hm_seen", "best_hm_unseen" and
          "best_hm_bias" are of the first point that has it.
        - "auc": the area under seen accuracy over unseen accuracy, which is the share of pairs of an image of a seen
          and one of an unseen pair that one bias gets both right. Where several images change at the same bias the
          points before and after are joined by a straight line: a pair that changes so counts half.
        - "attr_acc", "obj_acc": of the best candidate without bias, whatever `topk` is; of three ids, both attributes
          must be right.
        - "pair_acc", "seen_acc", "unseen_acc": without bias, of all images and of either kind.
        - "curve": arrays "bias", "seen" and "unseen", the points from the lowest bias to the highest: one for every
          interval in which nothing changes, with a bias from inside of it.

    Raises:
        ValueError: as `CZSLMetrics`, its `update` and its `compute`.
    """
    metrics = CZSLMetrics(pair_ids, seen, candidates, topk, reference_quirks)
    metrics.update(scores, labels)
    return metrics.compute()
