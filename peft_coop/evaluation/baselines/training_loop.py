"""A seeded training loop, which goes on where it was killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    num_steps: int | None = None,
) -> None:
    """Lower a loss over images in random order.

    Ten times in a training its state is saved; a second call with the same arguments goes on from there, and ends with
    the numbers of one that was never interrupted.

    Args:
        loss_of: the mean loss of the images at some indices, in an epoch.
        num_images: how many there are.
        recipe: epochs and batch size.
        optimizers: the optimizer, which holds what is learned, and its scheduler.
        seed: of the order, and of what the loss draws from torch's own random numbers, for dropout; these are left as
            they were.
        folder: for the saved state; made if need be.
        num_steps: stop after so many, perhaps within the last epoch; None: when the epochs are over.
    """
    optimizer, scheduler = optimizers
    generator = torch.Generator().manual_seed(seed)
    state = _TrainingState(folder / "training_state.pt", optimizer, scheduler, generator)
    steps, interval = recipe.steps_per_epoch(num_images), max(1, recipe.num_epochs // SAVES)
    num_steps = recipe.num_epochs * steps if num_steps is None else num_steps
    with stage("training", recipe.num_epochs, "epoch") as training, seeded(seed, state.devices):
        first = state.load()
        training.skip(first)
        for epoch in range(first, recipe.num_epochs):
            batches = torch.randperm(num_images, generator=generator).split(recipe.batch_size)
            for indices in batches[: min(steps, num_steps - epoch * steps)]:
                optimizer.zero_grad()
                loss_of(indices, epoch).backward()
                optimizer.step()
                scheduler.step()
            if (epoch + 1) % interval == 0 or epoch + 1 == recipe.num_epochs:
                state.save(epoch + 1)
            training.update()


@contextmanager
def seeded(seed: int, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Draw torch's own random numbers by a seed for a while, and leave them as they were.

    Args:
        seed: of the CPU's and the devices' numbers.
        devices: where else they are drawn; what is no GPU has none of its own.
    """
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
        torch.manual_seed(seed)
        yield


class _TrainingState:
    """What a training needs to go on, in one file: parameters, optimizer, scheduler, random numbers, epochs done."""

    def __init__(self, path: Path, optimizer: Optimizer, scheduler: LRScheduler, generator: torch.Generator):
        self.path = path
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.generator = generator
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.devices = sorted({parameter.device for parameter in self.parameters}, key=str)

    def save(self, epochs_done: int) -> None:
        """Write what is needed to go on; a training that is killed here keeps the file before."""
        state = {
            "epochs_done": epochs_done,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "random_of_gpus": [torch.cuda.get_rng_state(device) for device in self._gpus()],
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
        if "random" in state:  # an older version had none, and nothing that draws from them
            torch.set_rng_state(state["random"])
            for device, numbers in zip(self._gpus(), state["random_of_gpus"], strict=True):
                torch.cuda.set_rng_state(numbers, device)
        return state["epochs_done"]

    def _gpus(self) -> list[torch.device]:
        return [device for device in self.devices if device.type == "cuda"]
