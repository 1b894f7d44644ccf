"""The papers' way of training, for the Trainer and for loops of one's own; `METHODS` has each method's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments

LEARNING_RATE = 0.002
WARM_UP_LEARNING_RATE = 1e-5
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
ADAM_EPS = 1e-8  # torch's own
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "constant", "poly")
POLY_POWER = 0.9
# What the learning rate of "poly" rises from, as a share of where it then falls from.
WARM_UP_START = 1e-6
# The original clips no gradient; the Trainer's own default is 1.0.
MAX_GRAD_NORM = 0.0
# CoOp's, by shots.
NUM_EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}
IMAGENET_EPOCHS = 50
# What the context vectors start as, where they are not random.
CONTEXT_WORDS = "a photo of a"
# The protocols in which CoOp starts from random vectors; in the others, which CoCoOp's paper has, from the words.
RANDOM_START = ("few-shot", "ablation")
# Those of images; a method says if it takes part in others.
IMAGE_PROTOCOLS = (*RANDOM_START, "base-to-new", "cross-dataset", "domain", "composition")
VIDEO_PROTOCOLS = ("video-few-shot", "video-base-to-new")
# Of images with any number of labels: no paper has them, and no method is known to do without the words.
SEVERAL_PROTOCOLS = ("several-labels-few-shot",)
PROTOCOLS = (*IMAGE_PROTOCOLS, *VIDEO_PROTOCOLS, *SEVERAL_PROTOCOLS, "segmentation")


@dataclass(frozen=True)
class Recipe:
    """How a prompt is trained: as CoOp's paper does where nothing else is said, and with no gradient clipped.

    Attributes:
        num_epochs: passes over the images.
        batch_size: images per step.
        learning_rate: where the schedule starts.
        optimizer: one of `OPTIMIZERS`: SGD with momentum 0.9, or Adam, whose weight decay is part of the gradient; or
            AdamW, where it is not.
        weight_decay: its factor.
        schedule: one of `SCHEDULES`: "cosine", one epoch at 1e-5 and then a cosine over the epochs, "constant", or
            "poly", which falls step by step as (1 - t)^0.9 to `last_learning_rate`, t the share of steps done.
        eps: of Adam and AdamW.
        keep_last: train on a last batch that is not full, too.
        warm_up: of "poly", the share of the steps in which the learning rate rises from nearly nothing.
        last_learning_rate: of "poly", where it ends; groups of parameters with a lower learning rate end lower.
    """

    num_epochs: int
    batch_size: int
    learning_rate: float = LEARNING_RATE
    optimizer: str = "sgd"
    weight_decay: float = WEIGHT_DECAY
    schedule: str = "cosine"
    eps: float = ADAM_EPS
    keep_last: bool = False
    warm_up: float = 0.0
    last_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {known}, got {getattr(self, name)!r}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"`weight_decay` must be 0 or more and finite, got {self.weight_decay}.")
        for name in ("num_epochs", "batch_size", "learning_rate", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be above 0 and finite, got {getattr(self, name)}.")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"`warm_up` must be a share of the steps, from 0 to below 1, got {self.warm_up}.")
        if not 0 <= self.last_learning_rate <= self.learning_rate:
            raise ValueError(
                f"`last_learning_rate` must be from 0 to the learning rate, {self.learning_rate}, got "
                f"{self.last_learning_rate}."
            )
        if (self.warm_up or self.last_learning_rate) and self.schedule != "poly":
            raise ValueError(
                f"`warm_up` and `last_learning_rate` are of the schedule 'poly', got them with {self.schedule!r}."
            )

    def drops_last(self, num_images: int) -> bool:
        """Whether a last batch that is not full is left out: as in the original, where a full one exists."""
        return not self.keep_last and num_images >= self.batch_size

    def steps_per_epoch(self, num_images: int) -> int:
        """Steps in an epoch over `num_images`, in one process."""
        return (
            num_images // self.batch_size
            if self.drops_last(num_images)
            else max(1, math.ceil(num_images / self.batch_size))
        )

    def arguments(self, output_dir: str, num_images: int, **more: Any) -> TrainingArguments:
        """`TrainingArguments` of the recipe.

        No gradient is clipped, as in the original. The Trainer's own default, a norm of 1.0, changes what is learned.

        Args:
            output_dir: the Trainer's folder.
            num_images: how many are trained on.
            more: further arguments of `TrainingArguments`, or other values for these.
        """
        settings: dict[str, Any] = {
            "num_train_epochs": self.num_epochs,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "max_grad_norm": MAX_GRAD_NORM,
            "dataloader_drop_last": self.drops_last(num_images),
            "dataloader_pin_memory": torch.cuda.is_available(),
            "report_to": "none",
        }
        return TrainingArguments(output_dir, **{**settings, **more})

    def parameters_of(self, model: nn.Module) -> list[Any]:
        """What is trained: a model's own groups of parameters, where it has a method `param_groups`, or all as one.

        Args:
            model: with its prompt adapter. `param_groups` takes the learning rate and the weight decay.

        Raises:
            ValueError: if nothing can be trained.
        """
        groups_of = getattr(model, "param_groups", None)
        everything = trainable(model.parameters())
        return everything if groups_of is None else list(groups_of(self.learning_rate, self.weight_decay))

    def optimizers(self, model: nn.Module, arguments: TrainingArguments, num_images: int) -> tuple[Optimizer, LambdaLR]:
        """Optimizer and scheduler for `Trainer(optimizers=…)`.

        Args:
            model: with its prompt adapter.
            arguments: the Trainer's; they say how many images are in a step, over all processes, and how long the
                training is: `max_steps` where it is given.
            num_images: how many are trained on.
        """
        steps = trainer_steps(arguments, num_images)
        every = arguments.max_steps if arguments.max_steps > 0 else math.ceil(steps * arguments.num_train_epochs)
        parameters = self.parameters_of(model)
        optimizer: Optimizer
        if self.optimizer != "sgd":
            kind = AdamW if self.optimizer == "adamw" else Adam
            optimizer = kind(parameters, self.learning_rate, weight_decay=self.weight_decay, eps=self.eps)
        else:
            optimizer = SGD(parameters, self.learning_rate, momentum=MOMENTUM, weight_decay=self.weight_decay)
        if self.schedule == "constant":
            return optimizer, LambdaLR(optimizer, lambda step: 1.0)
        if self.schedule == "poly":
            last = self.last_learning_rate / self.learning_rate
            return optimizer, poly_schedule(optimizer, every, self.warm_up, last)
        return optimizer, cosine_schedule(optimizer, steps, math.ceil(every / steps), self.learning_rate)


def trainer_steps(arguments: TrainingArguments, num_images: int) -> int:
    """How many optimizer steps the Trainer takes in an epoch.

    Args:
        arguments: with the batch size of a process, how many processes there are, and over how many batches gradients
            are added.
        num_images: in an epoch.
    """
    batch_size = arguments.train_batch_size * arguments.world_size
    batches = num_images // batch_size if arguments.dataloader_drop_last else math.ceil(num_images / batch_size)
    return max(1, math.ceil(batches / arguments.gradient_accumulation_steps))


def epochs_by_shots(num_shots: int, data: str | None = None) -> int:
    """How long CoOp's paper trains.

    Args:
        num_shots: images per class. The paper has 1, 2, 4, 8 and 16; a number between takes the epochs of the next one
            of these, a larger one those of 16.
        data: the dataset's name; "imagenet" has fewer epochs.

    Reference: CoOp (arXiv:2109.01134).
    """
    if data == "imagenet":
        return IMAGENET_EPOCHS
    return NUM_EPOCHS[next((shots for shots in NUM_EPOCHS if shots >= num_shots), max(NUM_EPOCHS))]


def coop_recipe(num_shots: int, data: str | None = None, protocol: str = "few-shot") -> Recipe:
    """CoOp's: epochs by shots, batches of 32; the same in every protocol.

    Args:
        num_shots: images per class.
        data: the dataset's name.
        protocol: one of `PROTOCOLS`.

    Reference: CoOp (arXiv:2109.01134).
    """
    return Recipe(epochs_by_shots(num_shots, data), batch_size=32)


def composition_recipe(data: str | None = None) -> Recipe:
    """CSP's: Adam, 20 epochs at one learning rate, batches of 128; UT-Zappos has ten times the learning rate.

    Args:
        data: the dataset's name.

    Reference: CSP (arXiv:2204.03574), which trains CoOp for comparison in the same way.
    """
    rate = 5e-4 if data == "ut-zappos" else 5e-5
    return Recipe(20, batch_size=128, learning_rate=rate, optimizer="adam", weight_decay=1e-5, schedule="constant")


# How every method is trained in a protocol that says so itself, by the dataset's name.
PROTOCOL_RECIPES: dict[str, Callable[[str | None], Recipe]] = {"composition": composition_recipe}
# Fields of a config in such a protocol, where a method has them: CoOp's there starts as the zero-shot prompt.
PROTOCOL_FIELDS: dict[str, dict[str, Any]] = {
    "composition": {"n_ctx": None, "ctx_init": "a photo of", "class_template": "{}"}
}


def learning_rate(epoch: int, num_epochs: int, base: float = LEARNING_RATE) -> float:
    """The learning rate of an epoch: 1e-5 in the first, a cosine from `base` over the others.

    Args:
        epoch: from 0 to `num_epochs` - 1.
        num_epochs: of the whole training.
        base: where the cosine starts; the papers' is 0.002.

    Reference: CoOp (arXiv:2109.01134).
    """
    if epoch == 0:
        return WARM_UP_LEARNING_RATE
    return base * (1 + math.cos(math.pi * (epoch - 1) / num_epochs)) / 2


def make_optimizer(
    parameters: Iterable[nn.Parameter], steps_per_epoch: int, num_epochs: int, base: float = LEARNING_RATE
) -> tuple[SGD, LambdaLR]:
    """SGD and its schedule as in the papers, stepped once per optimizer step.

    With `TrainingArguments` of one's own, give `max_grad_norm=0.0`, too: the papers' training clips no gradient, and
    the Trainer does by default. `Recipe.arguments` has it.

    Args:
        parameters: of the model; frozen ones are left out.
        steps_per_epoch: optimizer steps in an epoch.
        num_epochs: of the whole training.
        base: the learning rate that the cosine starts at.

    Returns:
        What `Trainer(optimizers=…)` takes.

    Raises:
        ValueError: if no parameter can be trained, or a count is below 1.
    """
    if steps_per_epoch < 1 or num_epochs < 1:
        raise ValueError(f"`steps_per_epoch` and `num_epochs` must be 1 or more, got {steps_per_epoch}, {num_epochs}.")
    optimizer = SGD(trainable(parameters), lr=base, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    return optimizer, cosine_schedule(optimizer, steps_per_epoch, num_epochs, base)


def cosine_schedule(optimizer: Optimizer, steps_per_epoch: int, num_epochs: int, base: float) -> LambdaLR:
    """The schedule of `learning_rate`, as one that is stepped with the optimizer.

    Args:
        optimizer: its groups keep their ratios.
        steps_per_epoch: optimizer steps in an epoch: the rate changes between epochs only.
        num_epochs: of the whole training.
        base: the learning rate at which the cosine starts.
    """

    def factor(step: int) -> float:
        return learning_rate(min(step // steps_per_epoch, num_epochs - 1), num_epochs, base) / base

    return LambdaLR(optimizer, factor)


def poly_schedule(optimizer: Optimizer, num_steps: int, warm_up: float = 0.0, last: float = 0.0) -> LambdaLR:
    """A learning rate that falls as (1 - t)^0.9, t the share of steps done, for an optimizer stepped `num_steps` times.

    Args:
        optimizer: its groups keep their ratios.
        num_steps: of the whole training.
        warm_up: the share of steps in which it rises linearly from a millionth of that.
        last: where it ends, as a share of where it begins.

    Reference: mmsegmentation's schedule for ADE20K, as in DenseCLIP (arXiv:2112.01518). There the last learning rate is
    one number for all groups, also for those that are meant to be frozen.
    """
    rising = warm_up * num_steps

    def factor(step: int) -> float:
        falling = (1 - last) * (1 - min(step / num_steps, 1)) ** POLY_POWER + last
        return falling * (1 - (1 - step / rising) * (1 - WARM_UP_START)) if step < rising else falling

    return LambdaLR(optimizer, factor)


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that are not frozen.

    Raises:
        ValueError: if there is none.
    """
    found = [parameter for parameter in parameters if parameter.requires_grad]
    if not found:
        raise ValueError("No parameter is trainable: is the adapter disabled, or loaded without `is_trainable=True`?")
    return found
