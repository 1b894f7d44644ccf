"""One prompt trained with the Trainer, and read out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerState

from ..data import AugmentationCallback
from ..data.tower_inputs import TowerInputs
from ..methods import METHODS, PromptAggregation
from ..methods.prompt_aggregation import FILE_NAME as AGGREGATION
from ..models import LossPartsCallback
from ..progress import Stage, stage
from ..recipes import Recipe
from ..towers import device_of

if TYPE_CHECKING:
    from datasets import Dataset

# How often in a training its state is saved, for a run that is killed.
SAVES = 10
TRAINER_STATE = "trainer_state.json"  # the last that the Trainer itself writes of a checkpoint
BATCH_SIZE = 256  # features
PIXEL_BATCH_SIZE = 64


class StageCallback(TrainerCallback):
    """A training as a stage of what is under way, in place of the Trainer's own bar.

    Args:
        training: the stage; the Trainer says how many steps it has.
    """

    def __init__(self, training: Stage):
        self.training = training

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`; a training that goes on does not begin at 0."""
        self.training.total = state.max_steps
        self.training.skip(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self.training.update(state.global_step - self.training.done)


def train_prompt(
    model: PeftModel,
    train: Any,
    recipe: Recipe,
    seed: int,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> None:
    """Train a prompt with the papers' optimizer and schedule; go on from a checkpoint in `folder`, if there is one.

    Args:
        model: with its prompt adapter; trained in place.
        train: a dataset with `image_embeds` or `pixel_values`, and `label` or `labels`.
        recipe: how to train.
        seed: of the order of the batches. The first vectors are drawn before.
        folder: for the Trainer's checkpoints; who gave it removes them.
        callbacks: beside the method's own.
        arguments: further `TrainingArguments`.
    """
    config = model.active_peft_config
    all_callbacks = [*METHODS[config.method].callbacks_of(config, recipe), *callbacks]
    last_written = AGGREGATION if any(isinstance(each, PromptAggregation) for each in all_callbacks) else TRAINER_STATE
    train_with_recipe(model, train, recipe, seed, folder, all_callbacks, last_written, **arguments)


def train_with_recipe(
    model: nn.Module,
    train: Any,
    recipe: Recipe,
    seed: int,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    last_written: str = TRAINER_STATE,
    **arguments: Any,
) -> None:
    """Train any model that gives a loss; go on from a checkpoint in `folder`, if there is one.

    Args:
        model: trained in place.
        train: a dataset of what it takes.
        recipe: how to train.
        seed: of the order of the batches.
        folder: for the Trainer's checkpoints; who gave it removes them.
        callbacks: of the method.
        last_written: the name of the file that is written last of a checkpoint.
        arguments: further `TrainingArguments`.
    """
    settings = {
        "seed": seed,
        "save_steps": 1 / SAVES,
        "save_total_limit": 1,
        "logging_strategy": "no",
        "disable_tqdm": False,
        **arguments,
    }
    trainer_arguments = recipe.arguments(str(folder), len(train), **settings)
    trainer = Trainer(
        model,
        trainer_arguments,
        train_dataset=train,
        optimizers=recipe.optimizers(model, trainer_arguments, len(train)),
    )
    trainer.remove_callback(ProgressCallback)
    LossPartsCallback().add_to(trainer)
    for callback in (AugmentationCallback, *callbacks):
        trainer.add_callback(callback)
    with stage("training", total=1) as training:
        trainer.add_callback(StageCallback(training))
        trainer.train(resume_from_checkpoint=last_checkpoint(folder, last_written))


def last_checkpoint(folder: Path, last_written: str = TRAINER_STATE) -> str | None:
    """The last checkpoint that was written to its end.

    Args:
        folder: of all checkpoints.
        last_written: the name of the file that is written last.
    """
    complete = {
        int(found[1]): state.parent
        for state in folder.glob(f"checkpoint-*/{last_written}")
        if (found := re.fullmatch(r"checkpoint-(\d+)", state.parent.name))
    }
    return str(complete[max(complete)]) if complete else None


def predict_logits(
    model: PeftModel, images: Dataset, batch_size: int = BATCH_SIZE, class_names: list[str] | None = None
) -> np.ndarray:
    """Logits `[N, C]`, float32, of N images over C classes.

    Args:
        model: with its prompt adapter, on any device.
        images: with `image_embeds`.
        batch_size: images at once.
        class_names: the classes; None: those of the active adapter.
    """
    model.eval()
    device, parts = device_of(model.get_base_model()), []
    takes_long = model.prompt_layer.prompt.needs_images
    with torch.no_grad(), stage("classifying", len(images), "image", shown=takes_long) as progress:
        for embeds in _batches(images, batch_size):
            parts.append(model(image_embeds=embeds.to(device), class_names=class_names).logits)
            progress.update(len(parts[-1]))
    return torch.cat(parts).float().cpu().numpy()


def predict_logits_of_pixels(
    model: PeftModel,
    images: Dataset,
    image_processor: Any,
    batch_size: int = PIXEL_BATCH_SIZE,
    num_workers: int = 0,
    class_names: list[str] | None = None,
) -> np.ndarray:
    """The same of images themselves, for an adapter that reads them with prompts of its own.

    Args:
        model: with its prompt adapter, on any device.
        images: with the images.
        image_processor: the model's.
        batch_size: images at once.
        num_workers: processes that read and cut images; 0: this one.
        class_names: the classes; None: those of the active adapter.
    """
    model.eval()
    device = device_of(model.get_base_model())
    inputs, parts = TowerInputs(images, image_processor), []
    with torch.no_grad(), stage("classifying", len(inputs), "image") as progress:
        for batch in inputs.batches(batch_size, num_workers):
            inputs_of_call = {name: each.to(device) for name, each in batch.items()}
            parts.append(model(**inputs_of_call, class_names=class_names).logits)
            progress.update(len(parts[-1]))
    return torch.cat(parts).float().cpu().numpy()


def _batches(images: Dataset, size: int) -> Iterator[torch.Tensor]:
    embeds = images.with_format("numpy")["image_embeds"][:]
    yield from torch.from_numpy(np.asarray(embeds, dtype=np.float32)).split(size)
