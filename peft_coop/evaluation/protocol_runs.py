"""The runs of a protocol, done one after the other or listed. Finished ones are read, not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import ImageData, images_fingerprint
from ..data.features import PREPARATION
from ..progress import stage
from .compared_methods import Classifier, ComparedMethod, LabelledImages, in_words
from .fingerprints import clip_fingerprint
from .folder_locks import BusyError
from .frozen_clip import FrozenCLIP
from .planning import Estimator, PlannedRun, listed_runs
from .run_folders import Results, RunKey, check_company, is_finished, run_once
from .scores import scores

if TYPE_CHECKING:
    from datasets import Dataset

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class MeasuredSplit:
    """What a split is measured on: images, their classes, and the name and zero-shot prompt of their dataset."""

    images: Dataset
    class_names: list[str]
    data: str
    zero_shot_template: str


@dataclass(frozen=True)
class PlannedFit:
    """A run of a protocol: what is learned from what, and the images and classes of each split it is measured on."""

    method: ComparedMethod
    num_shots: int
    seed: int
    images: LabelledImages
    tests: Mapping[str, MeasuredSplit]


def run_all(clip: FrozenCLIP, data: ImageData, plans: Sequence[PlannedFit], output: Path, protocol: str) -> Records:
    """Do the runs that nobody else is doing, and then wait for the others."""
    keys = _run_keys(clip, data, plans, protocol)
    check_company(keys, output)
    listed = listed_runs()
    if listed is not None:
        listed += _planned(clip, plans, keys, output)
        return []
    records: dict[int, dict[str, Any]] = {}
    with stage(f"{protocol} on {data.name}", len(plans), "run") as progress:
        for wait in (False, True):
            for number in [number for number in range(len(plans)) if number not in records]:
                plan = plans[number]
                doing = "waiting for another process: " if wait else ""
                drawn = f", {in_words(plan.num_shots)}, seed {plan.seed}" if plan.num_shots else ""
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
    tests = {test.images._fingerprint: len(test.images) for test in plan.tests.values()}
    if plan.method.changes_vision:
        return {f"{name}, {run}": count for name, count in tests.items()}
    train, views = plan.images.train, plan.method.views
    name = train._fingerprint if views is None else f"{train._fingerprint}, {views} views"
    return {**tests, name: len(train) * (views or 1)}


def _run(clip: FrozenCLIP, plan: PlannedFit, key: RunKey, output: Path, wait: bool) -> dict[str, Any]:
    def fit(folder: Path) -> Classifier:
        return plan.method.fit(clip, plan.images, plan.seed, folder)

    def measure(classifier: Classifier) -> Results:
        return {
            split: scores(
                classifier.for_data(test.data, test.zero_shot_template).logits(test.images, test.class_names),
                test.images["label"],
            )
            for split, test in plan.tests.items()
        }

    return run_once(key, output, fit, measure, wait)


def _run_keys(clip: FrozenCLIP, data: ImageData, plans: Sequence[PlannedFit], protocol: str) -> list[RunKey]:
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

    def tested_on(test: MeasuredSplit) -> str:
        return _hash([fingerprint(test.images, test.class_names), test.zero_shot_template, PREPARATION])

    pool = _hash([data.class_names, *(list(map(int, part["label"])) for part in (data.train, data.val))])
    weights = clip_fingerprint(clip)
    return [
        RunKey(
            protocol,
            data.name,
            clip.name,
            plan.method.key,
            plan.method.name,
            {"num_shots": plan.num_shots, **plan.method.settings()},
            plan.seed,
            list(plan.tests),
            learned_from(plan.images),
            {split: tested_on(test) for split, test in plan.tests.items()},
            pool,
            weights,
            list(plan.images.shots_used),
        )
        for plan in plans
    ]


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
