"""The runs of a protocol before any is done, and how long they may take."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from peft import get_peft_model
from torch import Tensor

from ..towers import dtype_of, projection_dim
from .compared_methods import ComparedMethod, LabelledImages
from .frozen_clip import FrozenCLIP
from .prompt_learning import PromptLearning
from .run_folders import RunKey

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
        """What the steps of a run take; None for what is no prompt. Reading images is not in it."""
        steps = method.training_steps(images)
        if not isinstance(method, PromptLearning) or steps is None:
            return None
        batch = min(method.recipe_for(images.num_shots).batch_size, len(images.train))
        settings = json.dumps([method.key, method.settings(), batch, images.class_names])
        step = self._once(settings, lambda: seconds_per_step(method, self._clip, images.class_names, batch))
        computes_features = method.augment and not method.changes_vision
        return steps * (step + (batch * self.seconds_per_image() if computes_features else 0.0))

    def seconds_per_image(self) -> float:
        """What the vision tower takes for an image."""
        return self._once("image", lambda: seconds_per_image(self._clip))

    def _once(self, what: str, measure: Callable[[], float]) -> float:
        if what not in self._known:
            self._known[what] = measure()
        return self._known[what]


def seconds_per_step(method: PromptLearning, clip: FrozenCLIP, class_names: Sequence[str], batch: int) -> float:
    """What a training step takes: forwards and backwards through the text tower, on random image features.

    With prompts of the vision tower: through both, on images.
    """
    model = get_peft_model(deepcopy(clip.model), method.make_config(class_names=list(class_names))).train()
    base = model.get_base_model()
    dtype, width = dtype_of(base), projection_dim(base)
    if method.changes_vision:
        images = {"pixel_values": blank_images(clip, batch)}
    else:
        generator = torch.Generator(clip.device)
        images = {"image_embeds": torch.randn(batch, width, device=clip.device, dtype=dtype, generator=generator)}
    labels = torch.zeros(batch, dtype=torch.long, device=clip.device)
    return _measured(lambda: model(**images, labels=labels).loss.backward(), clip.device)


def blank_images(clip: FrozenCLIP, count: int) -> Tensor:
    """`pixel_values` `[count, 3, H, W]` of the size that the vision tower takes."""
    size = clip.model.config.vision_config.image_size
    return torch.zeros(count, 3, size, size, device=clip.device, dtype=clip.model.dtype)


def seconds_per_image(clip: FrozenCLIP, batch: int = 8) -> float:
    """What the vision tower takes for an image, of a batch."""
    pixel_values = blank_images(clip, batch)

    def step() -> None:
        with torch.no_grad():
            clip.model.get_image_features(pixel_values)

    return _measured(step, clip.device) / batch


def _measured(step: Callable[[], None], device: torch.device) -> float:
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
