"""The runs of a protocol, done one after the other or listed. Finished ones are read, not done again."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import ImageData, images_fingerprint, label_values
from ..data.features import PREPARATION
from ..data.frame_sampling import CLIPS
from ..data.videos import VideoRows, has_videos
from ..progress import part_of_step, stage
from .compared_methods import Classifier, ComparedMethod, LabelledImages, Learned, Scorer, check_reads
from .fingerprints import clip_fingerprint
from .folder_locks import BusyError
from .frozen_clip import FrozenCLIP
from .planning import Estimator, PlannedRun, learning_share, listed_runs
from .run_folders import Results, RunKey, check_company, is_finished, run_once
from .scores import scores, top_accuracy
from .several_labels import several_scores

if TYPE_CHECKING:
    from datasets import Dataset

Records = list[dict[str, Any]]


ScorerOf = Callable[[Sequence[str]], Scorer]
Fingerprint = Callable[["Dataset", Sequence[str]], str]


class Measured(ABC):
    """What a split is measured on.

    Attributes:
        images: what is looked at.
    """

    images: Dataset

    @abstractmethod
    def measure(self, classifier: Any, scorer_of: ScorerOf) -> dict[str, Any]:
        """The scores of what was learned, as JSON.

        Args:
            classifier: what was learned.
            scorer_of: its `scorer`; the latest is kept from split to split.
        """

    @abstractmethod
    def identity(self, fingerprint: Fingerprint) -> list[Any]:
        """What the numbers depend on beside what was learned, as JSON.

        Args:
            fingerprint: of images and the names of their classes.
        """


@dataclass(frozen=True)
class MeasuredSplit(Measured):
    """What a split is measured on: images, their classes, and the name and zero-shot prompt of their dataset."""

    images: Dataset
    class_names: list[str]
    data: str
    zero_shot_template: str

    def identity(self, fingerprint: Fingerprint) -> list[Any]:
        """See `Measured.identity`."""
        return [fingerprint(self.images, self.class_names), self.zero_shot_template]

    def measure(self, classifier: Classifier, scorer_of: ScorerOf) -> dict[str, Any]:
        """The scores, as `scores` computes them."""
        own = classifier.for_data(self.data, self.zero_shot_template)
        return scores(own.logits(self.images, self.class_names), self.images["label"])


@dataclass(frozen=True)
class MeasuredVideos(MeasuredSplit):
    """As `MeasuredSplit`, with videos in place of images."""

    def identity(self, fingerprint: Fingerprint) -> list[Any]:
        """See `Measured.identity`: also how clips are drawn."""
        return [*super().identity(fingerprint), CLIPS]

    def measure(self, classifier: Classifier, scorer_of: ScorerOf) -> dict[str, Any]:
        """The scores, as `scores` computes them, and the share of videos whose class is among the best five."""
        own = classifier.for_data(self.data, self.zero_shot_template)
        logits = own.logits(self.images, self.class_names)
        return scores(logits, self.images["label"]) | {"top5_accuracy": top_accuracy(logits, self.images["label"], 5)}


@dataclass(frozen=True)
class MeasuredLabels(MeasuredSplit):
    """As `MeasuredSplit`, where images have any number of labels."""

    def measure(self, classifier: Classifier, scorer_of: ScorerOf) -> dict[str, Any]:
        """The scores, as `several_scores` computes them."""
        own = classifier.for_data(self.data, self.zero_shot_template)
        return several_scores(own.logits(self.images, self.class_names), label_values(self.images), self.class_names)


@dataclass(frozen=True)
class PlannedFit:
    """A run of a protocol: what is learned from what, and what each split is measured on.

    Attributes:
        method: the way.
        num_shots: images of the class that has most.
        seed: of the draw and of the training.
        images: what is learned from.
        tests: by the split's name.
        of_images: how the images were drawn, where that is to be told from other ways.
    """

    method: ComparedMethod
    num_shots: int
    seed: int
    images: LabelledImages
    tests: Mapping[str, Measured]
    of_images: Mapping[str, Any] = field(default_factory=dict)

    def measure(self, classifier: Any) -> Results:
        """What was learned, on each split."""
        scorer_of = _keeping_the_latest(lambda class_names: classifier.scorer(class_names))
        results, done = {}, 0
        for split, test in self.tests.items():
            with part_of_step(done / self.num_tests, (done + len(test.images)) / self.num_tests):
                results[split] = test.measure(classifier, scorer_of)
            done += len(test.images)
        return results

    @property
    def num_tests(self) -> int:
        """Images of all splits, 1 at least."""
        return max(1, sum(len(test.images) for test in self.tests.values()))


def _keeping_the_latest(scorer_of: ScorerOf) -> ScorerOf:
    """The same, without computing again what was asked for just before."""
    kept: list[tuple[list[str], Scorer]] = []

    def scorer(class_names: Sequence[str]) -> Scorer:
        if not kept or kept[0][0] != list(class_names):
            kept.clear()  # the features of many classes are large
            kept.append((list(class_names), scorer_of(class_names)))
        return kept[0][1]

    return scorer


@dataclass(frozen=True)
class Pool:
    """Where the images of runs are drawn from.

    Attributes:
        name: of the data.
        content: what there is to draw from, but for the images' bytes, as JSON.
    """

    name: str
    content: list[Any]

    @classmethod
    def of(cls, data: ImageData) -> Pool:
        """The pool of images with labels."""
        return cls(data.name, [data.class_names, *(label_values(part) for part in (data.train, data.val))])

    @property
    def fingerprint(self) -> str:
        """What tells it from other pools: of two that are equal in it, a seed draws the same places."""
        return _hash(self.content)


def run_all(clip: FrozenCLIP, pool: Pool, plans: Sequence[PlannedFit], output: Path, protocol: str) -> Records:
    """Do the runs that nobody else is doing, and then wait for the others."""
    for plan in plans:
        check_reads(plan.method, plan.images.train)
    keys = _run_keys(clip, pool, plans, protocol)
    check_company(keys, output)
    listed = listed_runs()
    if listed is not None:
        listed += _planned(clip, plans, keys, output)
        return []
    records: dict[int, dict[str, Any]] = {}
    with stage(f"{protocol} on {pool.name}", len(plans), "run") as progress:
        for wait in (False, True):
            for number in [number for number in range(len(plans)) if number not in records]:
                plan = plans[number]
                doing = "waiting for another process: " if wait else ""
                drawn = f", {plan.images.amount}, seed {plan.seed}" if plan.num_shots else ""
                progress.doing(f"{doing}{plan.method.name}{drawn}")
                count = progress.skip if is_finished(keys[number], output) else progress.update
                with suppress(BusyError):
                    records[number] = _run(clip, plan, keys[number], output, wait)
                    count()
    return [records[number] for number in range(len(plans))]


def _planned(
    clip: FrozenCLIP, plans: Sequence[PlannedFit], keys: Sequence[RunKey], output: Path
) -> Iterator[PlannedRun]:
    estimator = Estimator(clip)
    for plan, key in zip(plans, keys, strict=True):
        finished, train = is_finished(key, output), plan.images.train
        seconds = None if finished else estimator.seconds(plan.method, plan.images)
        images = _images_to_encode(plan, str(key.folder(output)))
        yield PlannedRun(key, finished, len(train), plan.method.training_steps(plan.images), seconds, images)


def _images_to_encode(plan: PlannedFit, run: str) -> dict[str, int]:
    """How many images of each dataset; those that a vision tower of the run's own encodes are the run's alone."""
    tests = {test.images._fingerprint: _count(test.images) for test in plan.tests.values()}
    if plan.method.changes_vision:
        return {f"{name}, {run}": count for name, count in tests.items()}
    train, views = plan.images.train, plan.method.views
    name = train._fingerprint if views is None else f"{train._fingerprint}, {views} views"
    return {**tests, name: _count(train) * (views or 1)}


def _count(images: Dataset) -> int:
    """How many images go through the vision tower; of videos the frames that their headers tell of."""
    if not has_videos(images):
        return len(images)
    videos = VideoRows(images)
    return sum(videos.header(index).num_frames or 0 for index in range(len(videos)))


def _run(clip: FrozenCLIP, plan: PlannedFit, key: RunKey, output: Path, wait: bool) -> dict[str, Any]:
    learning = learning_share(plan.method, clip, plan.images, plan.num_tests)

    def fit(folder: Path) -> Learned:
        with part_of_step(0, learning):
            return plan.method.fit(clip, plan.images, plan.seed, folder)

    def measure(classifier: Learned) -> Results:
        with part_of_step(learning, 1, all_count=plan.method.reads_each_image):
            return plan.measure(classifier)

    return run_once(key, output, fit, measure, wait)


def _run_keys(clip: FrozenCLIP, pool: Pool, plans: Sequence[PlannedFit], protocol: str) -> list[RunKey]:
    """What identifies the runs; every image that one depends on is read for it."""
    known: dict[tuple[str, ...], str] = {}

    def fingerprint(images: Dataset, names: Sequence[str]) -> str:
        key = (images._fingerprint, *names)
        if key not in known:
            known[key] = images_fingerprint(images, names)
        return known[key]

    def learned_from(images: LabelledImages) -> str:
        parts = [fingerprint(part, images.class_names) for part in (images.train, images.val)]
        return _hash([*parts, images.zero_shot_template, PREPARATION])

    def tested_on(test: Measured) -> str:
        return _hash([*test.identity(fingerprint), PREPARATION])

    drawn_from = pool.fingerprint
    weights = clip_fingerprint(clip)
    return [
        RunKey(
            protocol,
            pool.name,
            clip.name,
            plan.method.key,
            plan.method.name,
            {"num_shots": plan.num_shots, **plan.of_images, **plan.method.settings()},
            plan.seed,
            list(plan.tests),
            learned_from(plan.images),
            {split: tested_on(test) for split, test in plan.tests.items()},
            drawn_from,
            weights,
            list(plan.images.shots_used),
        )
        for plan in plans
    ]


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
