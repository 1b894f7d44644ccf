"""Few-shot learning as many small tasks: a few classes drawn from all, a few images or videos of each to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import ImageData, has_several_labels
from ..data.columns import with_column
from ..progress import without_datasets_bars
from .compared_methods import ComparedMethod, LabelledImages
from .frozen_clip import FrozenCLIP
from .protocol_runs import Fingerprint, Measured, MeasuredSplit, PlannedFit, Pool, Records, run_all
from .protocols import protocol_of, split_of

if TYPE_CHECKING:
    from datasets import Dataset

NUM_TRIALS = 200
# What the protocol is called behind its name, where it is of trials: they stand in tables of their own.
OF_TRIALS = "-trials"


@dataclass(frozen=True)
class Trial:
    """A task drawn from all classes.

    Attributes:
        class_names: of the drawn classes, in the order of the draw.
        train: images or videos of each to learn from.
        test: all others of these classes.
    """

    class_names: list[str]
    train: Dataset
    test: Dataset


@dataclass(frozen=True)
class MeasuredTrial(Measured):
    """What a trial is measured on; all trials of a table are drawn from the same images.

    Attributes:
        images: the trial's.
        split: the same, with classes, name and prompt.
        pool: what all trials are drawn from.
        pool_names: its classes.
        ways: classes of each trial.
    """

    images: Dataset
    split: MeasuredSplit
    pool: Dataset = field(repr=False)
    pool_names: list[str]
    ways: int

    def identity(self, fingerprint: Fingerprint) -> list[Any]:
        """See `Measured.identity`: that of the pool, since a trial follows from it and the seed."""
        _, *how = self.split.identity(lambda images, names: "")
        return [fingerprint(self.pool, self.pool_names), self.ways, *how]

    def measure(self, classifier: Any, scorer_of: Any) -> dict[str, Any]:
        """See `Measured.measure`."""
        return self.split.measure(classifier, scorer_of)


def few_shot_trials(
    clip: FrozenCLIP,
    data: ImageData,
    methods: Sequence[ComparedMethod],
    output: Path,
    ways: int = 5,
    shots: Sequence[int] = (5,),
    num_trials: int = NUM_TRIALS,
) -> Records:
    """Accuracy over trials: each draws classes, learns from a few of each, and is tested on all others of these.

    As video prompting's paper has it with 5 shots, 5 ways and 200 trials. What learns nothing is measured on the same
    trials. Trials of a method count as its seeds in reports.

    Args:
        clip: the pretrained model.
        data: images or videos; those to train on, to choose by and to test on are put together.
        methods: what to compare.
        output: folder of all runs; what is finished there is not done again.
        ways: classes of each trial.
        shots: of each class.
        num_trials: seeds 1, 2, … of the draws and of the training.

    Raises:
        ValueError: if `ways`, a number of shots or `num_trials` is too low or too high for the data, or these have
            several labels per image.

    Reference: Prompting Visual-Language Models for Efficient Video Understanding (arXiv:2112.04478).
    """
    if has_several_labels(data.test):
        raise ValueError(
            f"The images of a trial have one class each, and those of {data.name} have several labels: leave out "
            "`ways`."
        )
    pool = _pool_of(data)
    if num_trials < 1:
        raise ValueError(f"`num_trials` must be 1 or more, got {num_trials}.")
    protocol = protocol_of("few-shot", data)
    plans = []
    for method in methods:
        for num_shots in shots:
            for seed in range(1, num_trials + 1):
                trial = draw_trial(pool, data.class_names, ways, num_shots, seed)
                learned = trial.train if method.learns else trial.train.select([])
                images = LabelledImages(
                    trial.class_names, data.zero_shot_template, learned, trial.train.select([]), data.name
                )
                split = split_of(data, trial.test, trial.class_names)
                tests = {"test": MeasuredTrial(trial.test, split, pool, data.class_names, ways)}
                of_trials = {"ways": ways, "trial_shots": num_shots} if not method.learns else {"ways": ways}
                drawn = num_shots if method.learns else 0
                plans.append(PlannedFit(method.for_protocol(protocol), drawn, seed, images, tests, of_trials))
    drawn_from = Pool(data.name, [data.class_names, list(map(int, pool["label"]))])
    return run_all(clip, drawn_from, plans, output, f"{protocol}{OF_TRIALS}")


def draw_trial(pool: Dataset, class_names: Sequence[str], ways: int, num_shots: int, seed: int) -> Trial:
    """Draw a trial; the same for a seed.

    Args:
        pool: with `label`.
        class_names: of all classes.
        ways: how many of them.
        num_shots: to learn from of each; at least one other must be left.
        seed: of the draw.

    Raises:
        ValueError: if there are not as many classes with so many and one more.
    """
    if ways < 2 or num_shots < 1:
        raise ValueError(f"A trial has two ways and one shot or more, got {ways} and {num_shots}.")
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(pool["label"]):
        by_class.setdefault(label, []).append(row)
    able = sorted(label for label, rows in by_class.items() if len(rows) > num_shots)
    if len(able) < ways:
        raise ValueError(
            f"A trial of {ways} ways and {num_shots} shots needs as many classes with {num_shots + 1} or more; "
            f"there are {len(able)} of {len(class_names)}."
        )
    generator = np.random.default_rng(seed)
    classes = generator.permutation(able)[:ways].tolist()
    drawn = {label: generator.permutation(by_class[label]).tolist() for label in classes}
    names = [class_names[label] for label in classes]
    train = [row for label in classes for row in drawn[label][:num_shots]]
    test = sorted(row for label in classes for row in drawn[label][num_shots:])
    return Trial(names, *(_relabelled(pool.select(rows), classes, names) for rows in (train, test)))


def _pool_of(data: ImageData) -> Dataset:
    """All images or videos, those to train on first."""
    from datasets import concatenate_datasets

    return concatenate_datasets([part for part in (data.train, data.val, data.test) if len(part)])


def _relabelled(dataset: Dataset, classes: Sequence[int], names: list[str]) -> Dataset:
    from datasets import ClassLabel

    labels = [classes.index(label) for label in dataset["label"]]
    with without_datasets_bars():
        return with_column(dataset, "label", labels, ClassLabel(names=names))
