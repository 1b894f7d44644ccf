"""The papers' training recipe, for the Trainer and for loops of one's own."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

LEARNING_RATE = 0.002
WARM_UP_LEARNING_RATE = 1e-5
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
# By shots; ImageNet 50 and CoCoOp 10 with any.
NUM_EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}


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
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ValueError("No parameter is trainable: is the adapter disabled, or loaded without `is_trainable=True`?")
    optimizer = SGD(trainable, lr=base, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def factor(step: int) -> float:
        return learning_rate(min(step // steps_per_epoch, num_epochs - 1), num_epochs, base) / base

    return optimizer, LambdaLR(optimizer, factor)
