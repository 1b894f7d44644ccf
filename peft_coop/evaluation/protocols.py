"""The papers' protocols over methods, shots and seeds. Finished runs are read, not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import ImageData, base_and_new_names, draw_indices, images_fingerprint, select_classes
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

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class _Test:
    """What a split is measured on: images, their classes, and the prompt and name of their dataset."""

    images: Dataset
    class_names: list[str]
    data: str
    zero_shot_template: str


Tests = dict[str, _Test]


def few_shot(
    clip: FrozenCLIP,
    data: ImageData,
    methods: Sequence[ComparedMethod],
    output: Path,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    protocol: str = "few-shot",
) -> Records:
    """Accuracy over the number of training images per class (CoOp, arXiv:2109.01134).

    Args:
        clip: the pretrained model.
        data: images to draw from and to test on.
        methods: what to compare; one that learns nothing is run once.
        output: folder of all runs; what is finished there is not done again.
        shots: images per class.
        seeds: of the draws and of the training.
        protocol: what the results are filed under.

    Returns:
        One record per run, as in its `result.json`.

    Raises:
        ValueError: if the data has no training images.
    """
    tests = {"test": _test_of(data)}
    plans = [
        _Plan(method, num_shots, seed, draw_images(data, num_shots, seed), tests)
        for method in _as_in(protocol, methods)
        for num_shots, seed in _grid(method, shots, seeds)
    ]
    return _run_all(clip, data, plans, output, protocol)


def base_to_new(
    clip: FrozenCLIP,
    data: ImageData,
    methods: Sequence[ComparedMethod],
    output: Path,
    num_shots: int = 16,
    seeds: Sequence[int] = SEEDS,
) -> Records:
    """Learn from the first half of the classes, and classify into these and into the others (CoCoOp, arXiv:2203.05557).

    A method that cannot take new classes is measured on the base classes only.

    Args:
        clip: the pretrained model.
        data: images of two classes or more.
        methods: what to compare.
        output: folder of all runs.
        num_shots: images per class.
        seeds: of the draws and of the training.

    Raises:
        ValueError: if a method has a class-specific context, or the data has no training images or a single class.
    """
    for method in methods:
        if method.settings().get("class_specific_context"):
            raise ValueError(
                f"{method.name} with a class-specific context has no vectors for new classes: base to new needs a "
                "unified context."
            )
    base, new = base_and_new_names(data.class_names)
    whole = _test_of(data)
    splits = {
        "base": replace(whole, images=select_classes(data.test, 0, len(base)), class_names=base),
        "new": replace(whole, images=select_classes(data.test, len(base), len(new)), class_names=new),
    }
    plans = [
        _Plan(method, shots, seed, _only_base(draw_images(data, shots, seed), len(base)), _tests_for(method, splits))
        for method in _as_in("base-to-new", methods)
        for shots, seed in _grid(method, (num_shots,), seeds)
    ]
    return _run_all(clip, data, plans, output, "base-to-new")


def cross_dataset(
    clip: FrozenCLIP,
    source: ImageData,
    targets: Sequence[ImageData],
    methods: Sequence[ComparedMethod],
    output: Path,
    num_shots: int = 16,
    seeds: Sequence[int] = SEEDS,
) -> Records:
    """Learn from one dataset and classify the images of others into their own classes (CoCoOp, section 4.2).

    Prompts that are written by hand are each dataset's own.

    Args:
        clip: the pretrained model.
        source: what to learn from.
        targets: what else to test on.
        methods: what to compare.
        output: folder of all runs.
        num_shots: images per class.
        seeds: of the draws and of the training.

    Raises:
        ValueError: if a method cannot take new classes, or two datasets have one name.
    """
    for method in methods:
        if not method.takes_new_classes:
            raise ValueError(f"{method.name} cannot classify into the classes of another dataset.")
    return _transfer(clip, source, targets, methods, output, num_shots, seeds, "cross-dataset")


def domain_generalisation(
    clip: FrozenCLIP,
    source: ImageData,
    targets: Sequence[ImageData],
    methods: Sequence[ComparedMethod],
    output: Path,
    num_shots: int = 16,
    seeds: Sequence[int] = SEEDS,
) -> Records:
    """Learn from one dataset and test on images of another kind of the same classes, or of some of them.

    As from ImageNet to ImageNetV2, -Sketch, -A and -R (CoOp, section 4.3; CoCoOp, section 4.3). Arguments are those of
    `cross_dataset`.

    Raises:
        ValueError: if a target has a class that the source has not, or two datasets have one name.
    """
    for target in targets:
        foreign = [name for name in target.class_names if name not in source.class_names]
        if foreign:
            raise ValueError(
                f"Domain generalisation needs the source's classes: {target.name} has {foreign[0]!r}, which "
                f"{source.name} has not. With other classes it is a cross-dataset transfer."
            )
    return _transfer(clip, source, targets, methods, output, num_shots, seeds, "domain")


def ablation(
    clips: Sequence[FrozenCLIP],
    data: ImageData,
    methods: Sequence[ComparedMethod],
    output: Path,
    shots: Sequence[int] = (16,),
    seeds: Sequence[int] = SEEDS,
) -> Records:
    """Compare settings and pretrained models on one dataset; `PromptLearning.grid` gives the settings.

    Arguments are those of `few_shot`, with several models.
    """
    return [
        record for clip in clips for record in few_shot(clip, data, methods, output, shots, seeds, protocol="ablation")
    ]


def draw_images(data: ImageData, num_shots: int, seed: int) -> LabelledImages:
    """The few images per class that the original draws for a seed; see `peft_coop.data.draw_indices`.

    Args:
        data: images to draw from.
        num_shots: training images per class, and validation images, of which there are 4 at most; 0 for none.
        seed: of the draw.

    Raises:
        ValueError: if the data has no training images, or a draw that the original has kept is of other images.
    """
    if num_shots and not len(data.train):
        raise ValueError(f"{data.name} has no training images, only {len(data.test):,} to test on.")
    train: list[int] = []
    val: list[int] = []
    if num_shots:
        train, val = draw_indices(data, num_shots, seed)
    parts = {"train": data.train.select(train), "val": data.val.select(val)}
    return LabelledImages(data.class_names, data.zero_shot_template, **parts, data=data.name)


@dataclass(frozen=True)
class _Plan:
    """A run: what is learned from what, and the images and classes of each split it is measured on."""

    method: ComparedMethod
    num_shots: int
    seed: int
    images: LabelledImages
    tests: Tests


def _transfer(
    clip: FrozenCLIP,
    source: ImageData,
    targets: Sequence[ImageData],
    methods: Sequence[ComparedMethod],
    output: Path,
    num_shots: int,
    seeds: Sequence[int],
    protocol: str,
) -> Records:
    names = [data.name for data in (source, *targets)]
    if len(set(names)) < len(names):
        raise ValueError(f"Every dataset must have a name of its own, got {names}.")
    tests = {data.name: _test_of(data) for data in (source, *targets)}
    plans = [
        _Plan(method, shots, seed, draw_images(source, shots, seed), tests)
        for method in _as_in(protocol, methods)
        for shots, seed in _grid(method, (num_shots,), seeds)
    ]
    return _run_all(clip, source, plans, output, protocol)


def _test_of(data: ImageData) -> _Test:
    return _Test(data.test, data.class_names, data.name, data.zero_shot_template)


def _as_in(protocol: str, methods: Sequence[ComparedMethod]) -> list[ComparedMethod]:
    """The methods as the papers have them in a protocol."""
    return [method.for_protocol(protocol) for method in methods]


def _grid(method: ComparedMethod, shots: Sequence[int], seeds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Shots and seeds of a method's runs; one run without shots where it learns nothing."""
    if not method.learns:
        yield 0, 0
        return
    for num_shots in shots:
        for seed in seeds:
            yield num_shots, seed


def _only_base(images: LabelledImages, count: int) -> LabelledImages:
    """The drawn images of the first classes: drawn from all classes before, as in the original."""
    train, val = (select_classes(part, 0, count) for part in (images.train, images.val))
    return replace(images, class_names=images.class_names[:count], train=train, val=val)


def _tests_for(method: ComparedMethod, splits: Tests) -> Tests:
    return splits if method.takes_new_classes else {"base": splits["base"]}


def _run_all(clip: FrozenCLIP, data: ImageData, plans: Sequence[_Plan], output: Path, protocol: str) -> Records:
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
                progress.doing(f"{doing}{plan.method.name}{_drawn(plan)}")
                count = progress.skip if is_finished(keys[number], output) else progress.update
                with suppress(BusyError):
                    records[number] = _run(clip, plan, keys[number], output, wait)
                    count()
    return [records[number] for number in range(len(plans))]


def _planned(clip: FrozenCLIP, plans: Sequence[_Plan], keys: Sequence[RunKey], output: Path) -> Iterator[PlannedRun]:
    estimator = Estimator(clip)
    for plan, key in zip(plans, keys, strict=True):
        finished, train = is_finished(key, output), plan.images.train
        seconds = None if finished else estimator.seconds(plan.method, plan.images)
        images = {test.images._fingerprint: len(test.images) for test in plan.tests.values()}
        images[train._fingerprint] = len(train)
        yield PlannedRun(key, finished, len(train), plan.method.training_steps(plan.images), seconds, images)


def _drawn(plan: _Plan) -> str:
    """Shots and seed in words; nothing where nothing is learned."""
    return f", {in_words(plan.num_shots)}, seed {plan.seed}" if plan.num_shots else ""


def _run(clip: FrozenCLIP, plan: _Plan, key: RunKey, output: Path, wait: bool) -> dict[str, Any]:
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


def _run_keys(clip: FrozenCLIP, data: ImageData, plans: Sequence[_Plan], protocol: str) -> list[RunKey]:
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

    def tested_on(test: _Test) -> str:
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
