"""What compositions are measured on: images, the pairs that may be their answer, and which of these are feasible."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..czsl import CZSLMetrics, FeasibilityThreshold, calibrate_scores
from ..data import CompositionData
from ..data.composition_data import Pair
from ..progress import stage
from .compared_methods import Classifier, Scorer
from .protocol_runs import Fingerprint, Measured, ScorerOf

if TYPE_CHECKING:
    from datasets import Dataset

# So many points of a curve are kept for its picture, of which there may be one for each image.
CURVE_POINTS = 200


@dataclass(frozen=True)
class Candidates:
    """The pairs that may be the answer, in the order of the columns of scores.

    Attributes:
        data: whose pairs they are.
        pairs: M pairs.
    """

    data: CompositionData
    pairs: list[Pair]

    @property
    def class_names(self) -> list[str]:
        """The M pairs as texts."""
        return said_pairs(self.pairs)

    @property
    def pair_ids(self) -> NDArray:
        """`[M, 2]`, the numbers of attribute and object."""
        places = (
            {word: index for index, word in enumerate(words)} for words in (self.data.attributes, self.data.objects)
        )
        attributes, objects = places
        return np.array([(attributes[attribute], objects[each]) for attribute, each in self.pairs])

    @property
    def seen(self) -> NDArray:
        """`[M]` of bool, whether training has the pair."""
        trained = set(self.data.train_pairs)
        return np.array([pair in trained for pair in self.pairs])

    def labels(self, images: Dataset) -> NDArray:
        """The column of each image's pair, by its attribute and object."""
        columns = {pair: column for column, pair in enumerate(map(tuple, self.pair_ids.tolist()))}
        own = images.with_format(None)
        return np.array([columns[pair] for pair in zip(own["attribute"], own["object"], strict=True)], dtype=np.int64)


@dataclass(frozen=True)
class Calibration:
    """Which unseen pairs are left out of the question.

    Attributes:
        feasibility: `[A, O]`, as `peft_coop.feasibility` gives it.
        threshold: the lowest feasibility that stays; None: the one with the highest AUC on validation images.
    """

    feasibility: NDArray
    threshold: float | None = None


@dataclass(frozen=True)
class MeasuredPairs(Measured):
    """Images of pairs, scored against candidates.

    Attributes:
        images: with `attribute`, `object` and `label`.
        candidates: what may be the answer.
        val: validation images, for the calibration's threshold.
        calibration: None for all candidates.
        reference_quirks: see `peft_coop.czsl_metrics`.
    """

    images: Dataset
    candidates: Candidates
    val: Dataset
    calibration: Calibration | None = None
    reference_quirks: bool = False

    def measure(self, classifier: Classifier, scorer_of: ScorerOf) -> dict[str, Any]:
        """The metrics of `peft_coop.czsl_metrics`, the curve in at most 200 points, and what was counted."""
        scorer = scorer_of(self.candidates.class_names)
        columns = self.candidates.pair_ids, self.candidates.seen, np.ones(len(self.candidates.pairs), dtype=bool)
        metrics = CZSLMetrics(*columns, reference_quirks=self.reference_quirks)
        counts: dict[str, Any] = {"num_examples": len(self.images), "num_candidates": len(self.candidates.pairs)}
        if self.calibration is None:
            for scores, labels in _scored(scorer, self.images, self.candidates):
                metrics.update(scores, labels)
        else:
            feasible, threshold = self._feasible(self.calibration), self._threshold(self.calibration, scorer, columns)
            how = feasible, threshold, self.candidates.seen, self.reference_quirks
            for scores, labels in _scored(scorer, self.images, self.candidates):
                metrics.update(calibrate_scores(scores, *how), labels)
            counts["feasibility_threshold"] = threshold
        found = metrics.compute()
        return {**found, "curve": thinned(found["curve"], found["best_hm_bias"]), **counts}

    def identity(self, fingerprint: Fingerprint) -> list[Any]:
        """See `Measured.identity`."""
        own = [fingerprint(self.images, self.candidates.class_names), self.candidates.seen.tolist()]
        if self.calibration is not None:
            digest = hashlib.sha256(np.ascontiguousarray(self.calibration.feasibility).tobytes()).hexdigest()
            own += [digest, self.calibration.threshold]
            if self.calibration.threshold is None:
                own.append(fingerprint(self.val, self.candidates.class_names))
        return [*own, self.reference_quirks]

    def _feasible(self, calibration: Calibration) -> NDArray:
        ids = self.candidates.pair_ids
        return calibration.feasibility[ids[:, 0], ids[:, 1]]

    def _threshold(self, calibration: Calibration, scorer: Scorer, columns: tuple[NDArray, NDArray, NDArray]) -> float:
        if calibration.threshold is not None:
            return calibration.threshold
        quirks = self.reference_quirks
        search = FeasibilityThreshold(*columns, self._feasible(calibration), reference_quirks=quirks)
        for scores, labels in _scored(scorer, self.val, self.candidates):
            search.update(scores, labels)
        return search.compute()["threshold"]


def said_pairs(pairs: Sequence[Pair]) -> list[str]:
    """Pairs as class names: "faux leather boots" for ("faux.leather", "boots"), with a space for each dot."""
    return [" ".join(map(said_word, pair)) for pair in pairs]


def said_word(word: str) -> str:
    """A word as it is read in a prompt: UT-Zappos joins several with dots."""
    return " ".join(word.replace(".", " ").split())


def thinned(curve: dict[str, NDArray], best_bias: float) -> dict[str, list[float]]:
    """Some of a curve's points, its ends and the one with this bias among them."""
    count = len(curve["bias"])
    best = int(np.flatnonzero(curve["bias"] == best_bias)[0])
    places = np.unique([*np.linspace(0, count - 1, min(count, CURVE_POINTS)).round().astype(int), best])
    return {name: [round(float(value), 6) for value in curve[name][places]] for name in ("seen", "unseen")}


def _scored(scorer: Scorer, images: Dataset, candidates: Candidates) -> Iterator[tuple[NDArray, NDArray]]:
    """Scores and labels of images, some after the other."""
    labels, start = candidates.labels(images), 0
    with stage("scoring", len(labels), "image") as progress:
        for scores in scorer(images):
            yield scores, labels[start : start + len(scores)]
            start += len(scores)
            progress.update(len(scores))
