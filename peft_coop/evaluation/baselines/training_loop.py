"""A seeded training loop, which goes on where it was killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...progress import stage
from ...recipes import Recipe
from ...whole_files import written_whole

# How often in a training its state is saved.
SAVES = 10


def train(
    loss_of: Callable[[Tensor, int], Tensor],
    num_images: int,
    recipe: Recipe,
    optimizers: tuple[Optimizer, LRScheduler],
    seed: int,
    folder: Path,
) -> None:
    """Lower a loss over images in random order.

    Ten times in a training its state is saved; a second call with the same arguments goes on from there, and ends with
    the numbers of one that was never interrupted.

    Args:
        loss_of: the mean loss of the images at some indices, in an epoch.
        num_images: how many there are.
        recipe: epochs and batch size.
        optimizers: the optimizer, which holds what is learned, and its scheduler.
        seed: of the order.
        folder: for the saved state; made if need be.
    """
    optimizer, scheduler = optimizers
    generator = torch.Generator().manual_seed(seed)
    state = _TrainingState(folder / "training_state.pt", optimizer, scheduler, generator)
    steps, interval = recipe.steps_per_epoch(num_images), max(1, recipe.num_epochs // SAVES)
    first = state.load()
    with stage("training", recipe.num_epochs, "epoch") as training:
        training.skip(first)
        for epoch in range(first, recipe.num_epochs):
            for indices in torch.randperm(num_images, generator=generator).split(recipe.batch_size)[:steps]:
                optimizer.zero_grad()
                loss_of(indices, epoch).backward()
                optimizer.step()
                scheduler.step()
            if (epoch + 1) % interval == 0:
                state.save(epoch + 1)
            training.update()


class _TrainingState:
    """What a training needs to go on, in one file: parameters, optimizer, scheduler, generator, epochs done."""

    def __init__(self, path: Path, optimizer: Optimizer, scheduler: LRScheduler, generator: torch.Generator):
        self.path = path
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.generator = generator
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def save(self, epochs_done: int) -> None:
        """Write what is needed to go on; a training that is killed here keeps the file before."""
        state = {
            "epochs_done": epochs_done,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generator": self.generator.get_state(),
        }
        with written_whole(self.path) as draft:
            torch.save(state, draft)

    @torch.no_grad()
    def load(self) -> int:
        """Restore what was saved, and return the epochs done; 0 if nothing was saved."""
        if not self.path.exists():
            return 0
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.generator.set_state(state["generator"])
        return state["epochs_done"]
