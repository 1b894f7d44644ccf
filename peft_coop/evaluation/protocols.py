"""The papers' two protocols, each with one seed: accuracy over shots, and base to new classes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import CLIPProcessor

from ..configs import CoCoOpConfig, CoOpConfig
from ..data import ImageData, base_and_new_names, select_classes, with_image_embeds
from ..recipes import LEARNING_RATE, NUM_EPOCHS
from .training import TrainingPlan, draw_shots, learn_prompt, make_trainer, zero_shot_accuracy

SHOTS = (1, 4, 16)
SEED = 1
COOP_PLAN = TrainingPlan(num_epochs=NUM_EPOCHS[16], learning_rate=LEARNING_RATE, seed=SEED)
COCOOP_PLAN = TrainingPlan(num_epochs=10, learning_rate=LEARNING_RATE, batch_size=8, seed=SEED)


@dataclass(frozen=True)
class BaseToNew:
    """Accuracies, as fractions, on the classes trained on and on classes that were not."""

    method: str
    base: float
    new: float

    @property
    def harmonic_mean(self) -> float:
        """H of the paper; 0 if one of the two is."""
        return 2 * self.base * self.new / (self.base + self.new) if self.base and self.new else 0.0


@dataclass(frozen=True)
class FewShotCurve:
    """Accuracies, as fractions, of the hand-written prompt and of one learned from each number of shots."""

    zero_shot: float
    by_shots: dict[int, float]
    model: PeftModel


def few_shot_curve(
    clip: nn.Module,
    processor: CLIPProcessor,
    data: ImageData,
    note: Callable[[str], None],
    learning_rate: float = LEARNING_RATE,
) -> FewShotCurve:
    """Learn CoOp from 1, 4 and 16 images per class.

    Args:
        clip: the dual encoder; copied for every run.
        processor: its tokenizer and image processor.
        data: images to train and test on.
        note: told what is being done.
        learning_rate: where the cosine starts.

    Returns:
        The curve, with the model of the last number of shots.
    """
    note("computing the images' features once (the vision tower is frozen)")
    train, test = (with_image_embeds(part, clip, processor.image_processor) for part in (data.train, data.test))
    config = CoOpConfig(n_ctx=16, class_names=data.class_names, zero_shot_template=data.zero_shot_template)
    by_shots = {}
    with tempfile.TemporaryDirectory() as folder:
        for shots in SHOTS:
            note(f"CoOp on {data.name}, {shots} {'image' if shots == 1 else 'images'} per class")
            few = draw_shots(train, shots, SEED)
            num_epochs = min(NUM_EPOCHS[shots], COOP_PLAN.num_epochs)
            plan = replace(COOP_PLAN, num_epochs=num_epochs, learning_rate=learning_rate)
            model, metrics = learn_prompt(deepcopy(clip), deepcopy(config), few, test, plan, folder)
            by_shots[shots] = metrics["eval_accuracy"]
        return FewShotCurve(zero_shot_accuracy(model, test, folder), by_shots, model)


def base_to_new(
    clip: nn.Module,
    processor: CLIPProcessor,
    data: ImageData,
    note: Callable[[str], None],
    learning_rate: float = LEARNING_RATE,
) -> list[BaseToNew]:
    """Learn CoOp and CoCoOp from 16 images of each base class, and try them on the new classes too.

    Args:
        clip: the dual encoder; copied for every run.
        processor: its tokenizer and image processor.
        data: images of two classes or more.
        note: told what is being done.
        learning_rate: where the cosine starts.
    """
    base_names, new_names = base_and_new_names(data.class_names)
    train, test = (with_image_embeds(part, clip, processor.image_processor) for part in (data.train, data.test))
    base_train = draw_shots(select_classes(train, 0, len(base_names)), SHOTS[-1], SEED)
    tests = [
        (base_names, select_classes(test, 0, len(base_names))),
        (new_names, select_classes(test, len(base_names), len(new_names))),
    ]
    common: dict[str, Any] = {"class_names": base_names, "zero_shot_template": data.zero_shot_template}
    methods: list[tuple[str, Any, TrainingPlan]] = [
        ("CoOp", CoOpConfig(n_ctx=4, **common), COOP_PLAN),
        ("CoCoOp", CoCoOpConfig(n_ctx=4, ctx_init=None, **common), COCOOP_PLAN),
    ]
    rows: list[BaseToNew] = []
    with tempfile.TemporaryDirectory() as folder:
        for method, config, plan in methods:
            note(f"{method} on the base classes of {data.name}, {SHOTS[-1]} images per class")
            plan = replace(plan, learning_rate=learning_rate)
            model, _ = learn_prompt(deepcopy(clip), config, base_train, tests[0][1], plan, folder)
            if not rows:
                rows.append(BaseToNew("zero-shot CLIP", *_on_both(model, tests, folder, disabled=True)))
            rows.append(BaseToNew(method, *_on_both(model, tests, folder)))
    return rows


def _on_both(model: PeftModel, tests: list, folder: str, disabled: bool = False) -> list[float]:
    accuracies = []
    for names, test in tests:
        model.set_classes(names)
        if disabled:
            accuracies.append(zero_shot_accuracy(model, test, folder))
        else:
            trainer = make_trainer(model, None, test, COOP_PLAN, folder)
            accuracies.append(trainer.evaluate()["eval_accuracy"])
    return accuracies
