"""One prompt learned from a few images per class, and measured. Takes any CLIP and any dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import EvalPrediction, ProgressCallback, Trainer, TrainingArguments, set_seed

from ..configs import CoOpConfig
from ..data import few_shot_indices
from ..recipes import make_optimizer

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class TrainingPlan:
    """How a prompt is trained.

    Attributes:
        num_epochs: passes over the few images.
        learning_rate: where the papers' cosine starts.
        batch_size: images per step.
        seed: of the drawn images, the first vectors and the order of the batches.
    """

    num_epochs: int
    learning_rate: float
    batch_size: int = 32
    seed: int = 1


class ProgressBarOnly(ProgressCallback):
    """The Trainer's progress bar without the dictionaries that it prints between."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of images whose highest logit is that of their label, for `Trainer(compute_metrics=…)`."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def draw_shots(train: Dataset, num_shots: int, seed: int) -> Dataset:
    """The few-shot subset that the original implementation draws for a seed."""
    indices, _ = few_shot_indices(train["label"], [], num_shots, seed)
    return train.select(indices)


def learn_prompt(
    clip: nn.Module, config: CoOpConfig, train: Dataset, test: Dataset, plan: TrainingPlan, output_dir: str
) -> tuple[PeftModel, dict[str, float]]:
    """Train a prompt with the Trainer, and measure it.

    Args:
        clip: the dual encoder; wrapped in place.
        config: the method, with its class names.
        train: with `image_embeds` or `pixel_values`, and `label`.
        test: the same columns.
        plan: how to train.
        output_dir: the Trainer's folder.

    Returns:
        The model, and the metrics of `Trainer.evaluate` on `test`.
    """
    set_seed(plan.seed)
    model = get_peft_model(clip, config)
    trainer = make_trainer(model, train, test, plan, output_dir)
    trainer.train()
    return model, trainer.evaluate()


def make_trainer(
    model: PeftModel, train: Dataset | None, test: Dataset, plan: TrainingPlan, output_dir: str
) -> Trainer:
    """A Trainer with the papers' optimizer and schedule; without `train`, one that only evaluates."""
    arguments = TrainingArguments(
        output_dir,
        num_train_epochs=plan.num_epochs,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=256,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=False,
        seed=plan.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    optimizers: Any = (None, None)
    if train is not None:
        steps = math.ceil(len(train) / plan.batch_size)
        optimizers = make_optimizer(model.parameters(), steps, plan.num_epochs, plan.learning_rate)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=accuracy,
        optimizers=optimizers,
    )
    trainer.remove_callback(ProgressCallback)
    if train is not None:
        trainer.add_callback(ProgressBarOnly)
    return trainer


def zero_shot_accuracy(model: PeftModel, test: Dataset, output_dir: str) -> float:
    """Accuracy of the hand-written prompt: the model with its adapter disabled."""
    with model.disable_adapter():
        plan = TrainingPlan(num_epochs=1, learning_rate=0.0)
        return make_trainer(model, None, test, plan, output_dir).evaluate()["eval_accuracy"]
