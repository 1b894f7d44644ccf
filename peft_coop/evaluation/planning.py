"""The runs of a protocol before any is done, and how long they may take."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch

from .compared_methods import ComparedMethod, LabelledImages
from .frozen_clip import FrozenCLIP
from .run_folders import RunKey

PASSES_OF_STEP = 3  # a forward pass, and a backward pass that takes twice as long
MEASURED_STEPS = 3  # the first of them, which prepares what the others reuse, does not count


@dataclass(frozen=True)
class PlannedRun:
    """A run that a protocol would do.

    Attributes:
        key: what identifies it.
        finished: whether its result is there.
        num_train: images that are learned from.
        num_steps: optimizer steps; None for what is not trained in steps.
        seconds: what its steps may take on this machine; None where that was not measured.
        images: how many images each dataset has that features are computed of, by its fingerprint.
    """

    key: RunKey
    finished: bool
    num_train: int
    num_steps: int | None
    seconds: float | None
    images: Mapping[str, int] = field(default_factory=dict)


_listed: ContextVar[list[PlannedRun] | None] = ContextVar("listed", default=None)


@contextmanager
def only_listed() -> Iterator[list[PlannedRun]]:
    """Inside it the protocols list their runs here, and do none."""
    runs: list[PlannedRun] = []
    token = _listed.set(runs)
    try:
        yield runs
    finally:
        _listed.reset(token)


def listed_runs() -> list[PlannedRun] | None:
    """Where to list runs; None if they are to be done."""
    return _listed.get()


class Estimator:
    """How long runs may take, from some steps that are done for it; each kind of step is measured once.

    Args:
        clip: the pretrained model.
    """

    def __init__(self, clip: FrozenCLIP):
        self._clip = clip
        self._known: dict[str, float] = {}

    def seconds(self, method: ComparedMethod, images: LabelledImages) -> float | None:
        """What the steps of a run take; None where that is not known. Reading images is not in it."""
        timed = method.timed_steps(self._clip, images)
        if timed is None:
            return None
        settings = json.dumps([method.key, method.settings(), timed.batch, images.class_names])
        step = self._once(settings, lambda: seconds_of(timed.make_step(), self._clip.device))
        return timed.count * (step + (timed.batch * self.seconds_per_image() if timed.encodes_images else 0.0))

    def seconds_per_image(self) -> float:
        """What the vision tower takes for an image."""
        return self._once("image", lambda: seconds_per_image(self._clip))

    def _once(self, what: str, measure: Callable[[], float]) -> float:
        if what not in self._known:
            self._known[what] = measure()
        return self._known[what]


def learning_share(method: ComparedMethod, clip: FrozenCLIP, images: LabelledImages, num_tests: int) -> float:
    """How much of a run's time is learning, from 0 to 1; the rest is classifying.

    Args:
        method: the way.
        clip: the pretrained model.
        images: what is learned from.
        num_tests: images that are classified.
    """
    if not method.learns:
        return 0.0
    if not method.reads_each_image:
        return 1.0
    timed = method.timed_steps(clip, images)
    passes = PASSES_OF_STEP * timed.count * timed.batch if timed else len(images.train)
    return passes / max(1, passes + num_tests)


def seconds_per_image(clip: FrozenCLIP, batch: int = 8) -> float:
    """What the vision tower takes for an image, of a batch."""
    images = clip.blank_images(batch)

    def step() -> None:
        with torch.no_grad():
            clip.model.get_image_features(**images)

    return seconds_of(step, clip.device) / batch


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """What a step takes: the mean of some."""
    step()
    started = time.monotonic()
    for _ in range(MEASURED_STEPS - 1):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.monotonic() - started) / (MEASURED_STEPS - 1)


def images_to_encode(runs: Sequence[PlannedRun]) -> int:
    """How many images features are computed of for the runs that are not finished; of each dataset once."""
    return sum({name: count for run in runs if not run.finished for name, count in run.images.items()}.values())
