"""The weighted mean of what was learned in each epoch, as PromptSRC takes it in the end."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback

FILE_NAME = "prompt_aggregation.safetensors"
LEAST = 1e-200  # of the weight: of less, a sum in 64 bits loses digits
LEAST_LATE = 0.01  # of the weight, in the last half of the epochs: less is told


class PromptAggregation(TrainerCallback):
    """Puts the weighted mean of what was learned after every epoch into the model, when training has ended.

    The weight of epoch e, from 1, is that of a Gaussian with this mean and standard deviation, divided by the sum over
    all epochs. Training itself never sees the mean. Averaged are the weights that are trained, and only these: the
    frozen ones stay bit-identical, also where they are in half precision.

    With the Trainer: `Trainer(callbacks=[PromptAggregation(num_epochs)])`. The sum is saved in every checkpoint, and a
    resumed training goes on with it. Checkpoints hold the weights of their step; the mean is in the model once `train`
    has returned, for `evaluate` and `save_model`. In a loop of one's own: `update(model)` after each epoch, and
    `finish(model)` at the end.

    Args:
        num_epochs: E, of the whole training.
        mean: the epoch that counts most.
        std: how far around it others count, in epochs.

    Attributes:
        num_updates: how many epochs are in the sum.

    Raises:
        ValueError: if a number is not above 0, or no epoch counts.

    Reference: PromptSRC (arXiv:2307.06948), "Gaussian weighted prompt aggregation".
    """

    def __init__(self, num_epochs: int, mean: float = 15.0, std: float = 1.0):
        if isinstance(num_epochs, bool) or not isinstance(num_epochs, int) or num_epochs < 1:
            raise ValueError(f"`num_epochs` must be a whole number of 1 or more, got {num_epochs!r}.")
        for name, value in (("mean", mean), ("std", std)):
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be above 0 and finite, got {value!r}.")
        self.num_epochs, self.mean, self.std = num_epochs, float(mean), float(std)
        self._raw = [math.exp(-(((epoch - mean) / std) ** 2) / 2) for epoch in range(1, num_epochs + 1)]
        if not sum(self._raw):
            raise ValueError(
                f"No epoch counts: with `mean={mean}` and `std={std}` the weights of epochs 1 to {num_epochs} are 0."
            )
        late = sum(self.weights[num_epochs // 2 :])
        if late < LEAST_LATE:
            warnings.warn(
                f"The last half of {num_epochs} epochs holds {late:.1%} of the weight: with `mean={mean}` and "
                f"`std={std}` what is learned there hardly counts. For other numbers of epochs give another mean.",
                stacklevel=2,
            )
        self.num_updates = 0
        self._sums: dict[str, Tensor] = {}

    @property
    def weights(self) -> list[float]:
        """The weight of each epoch, E of them, their sum 1."""
        return [weight / sum(self._raw) for weight in self._raw]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add what the model has learned, at the end of an epoch.

        Raises:
            ValueError: if there were `num_epochs` epochs already, or other weights are trained than before.
        """
        if self.num_updates == self.num_epochs:
            raise ValueError(f"There were {self.num_epochs} epochs already, as many as `num_epochs`.")
        learned = _trained(model)
        if self.num_updates and learned.keys() != self._sums.keys():
            changed = sorted(learned.keys() ^ self._sums.keys())
            raise ValueError(f"Other weights are trained than in the epochs before, {changed[0]!r} for example.")
        weight = self.weights[self.num_updates]
        for name, tensor in learned.items():
            term = weight * tensor.detach().to("cpu", torch.float64)
            self._sums[name] = self._sums[name] + term if self.num_updates else term
        self.num_updates += 1

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Put the mean into the model; of fewer epochs, with a warning, where there were not all.

        Where none of those that have ended counts, there is no mean: the model keeps what it has learned, with a
        warning.

        Raises:
            ValueError: if other weights are trained than in the epochs before.
        """
        total = sum(self.weights[: self.num_updates])
        if total < LEAST:
            warnings.warn(
                f"Training has ended after {self.num_updates} of {self.num_epochs} epochs, before one that counts with "
                f"`mean={self.mean:g}` and `std={self.std:g}`: no mean is taken, and the model keeps what it has "
                "learned last.",
                stacklevel=2,
            )
            return
        learned = _trained(model)
        if learned.keys() != self._sums.keys():
            changed = sorted(learned.keys() ^ self._sums.keys())
            raise ValueError(f"Other weights are trained than in the epochs before, {changed[0]!r} for example.")
        if self.num_updates < self.num_epochs:
            warnings.warn(
                f"Training has ended after {self.num_updates} of {self.num_epochs} epochs, which hold {total:.1%} of "
                "the weight: the mean is that of these.",
                stacklevel=2,
            )
        for name, tensor in learned.items():
            tensor.copy_(self._sums[name] / total)

    def save(self, folder: str | os.PathLike) -> None:
        """Write the sum into a folder."""
        settings = {"num_updates": str(self.num_updates), **self._settings}
        save_file(
            {name: tensor.contiguous() for name, tensor in self._sums.items()}, Path(folder) / FILE_NAME, settings
        )

    def load(self, folder: str | os.PathLike) -> None:
        """Go on with the sum that `save` wrote.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is of other epochs, or of another mean or standard deviation.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {FILE_NAME} in {str(folder)!r}: the training that is resumed was not aggregated, and the "
                "mean would lack its epochs. Begin anew, or call `load` with the folder of the checkpoint first."
            )
        with safe_open(path, "pt") as file:
            saved = dict(file.metadata())
            num_updates = int(saved.pop("num_updates"))
            for name, here in self._settings.items():
                if saved[name] != here:
                    raise ValueError(f"The sum in {str(path)!r} has `{name}` {saved[name]}, and this one {here}.")
            self._sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
        self.num_updates = num_updates

    @property
    def _settings(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in ("num_epochs", "mean", "std")}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """See `TrainerCallback`.

        Raises:
            ValueError: if the Trainer has another number of epochs, or wants the best checkpoint in the end.
            FileNotFoundError: if it resumes a training whose sum is not there.
        """
        if args.load_best_model_at_end:
            raise ValueError(
                "`load_best_model_at_end` and `PromptAggregation` both choose what is in the model in the end: the "
                "best checkpoint, or the mean over all epochs. Leave out one of them."
            )
        epochs = math.ceil(state.num_train_epochs)
        if epochs != self.num_epochs:
            raise ValueError(
                f"The Trainer has {epochs} epochs and `PromptAggregation` {self.num_epochs}: take the same."
            )
        if not state.global_step:
            self.num_updates, self._sums = 0, {}
            return
        checkpoint = _checkpoint(args, state)
        if (checkpoint / FILE_NAME).is_file() or not self.num_updates:  # else the caller has loaded it
            self.load(checkpoint)
        ended = _epochs_ended(state)
        if self.num_updates == ended - 1:  # saved in the last step of an epoch, before it ended
            self.update(model)
        if self.num_updates != ended:
            raise ValueError(f"{ended} epochs have ended in what is resumed, and the sum has {self.num_updates}.")

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self.update(model)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if args.should_save:
            self.save(_checkpoint(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self.finish(model)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _epochs_ended(state: Any) -> int:
    """How many epochs are whole in a state that was saved."""
    return math.floor(state.epoch + 1e-6)
