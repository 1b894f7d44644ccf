"""Training data that are other ones in every epoch, and what tells them which epoch it is."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EpochDataset(torch.utils.data.Dataset):
    """What differs between epochs, and is the same for a seed with any number of workers and processes.

    The Trainer's data loader tells the epoch, except where it resumes within one or runs in several processes:
    `AugmentationCallback` does so always. In a loop of one's own, call `set_epoch` before every epoch. What is read a
    third time in one epoch warns that nobody does.
    """

    def __init__(self) -> None:
        # Shared, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._read_in = 0  # an epoch, and how many rows have been read in it
        self._read = 0

    @property
    def epoch(self) -> int:
        """The present one, counted from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Give from now on what belongs to this epoch."""
        self._epoch.fill_(epoch)
        self._read = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    def _count(self, rows: int) -> None:
        """Warn once that the epoch stays the same, after so many rows more."""
        epoch, limit = self.epoch, 2 * len(self)
        if epoch != self._read_in:
            self._read_in, self._read = epoch, 0
        before, self._read = self._read, self._read + rows
        if before <= limit < self._read:
            warnings.warn(
                f"{type(self).__name__} has been read more than twice in epoch {epoch}, with the same crops: call "
                "`set_epoch` before every epoch, or give the Trainer an `AugmentationCallback`.",
                stacklevel=3,
            )


class AugmentationCallback(TrainerCallback):
    """Tells `AugmentedImages` and `AugmentedFeatures` the epoch, on every route by which the Trainer comes to it.

    Accelerate's data loader passes the epoch on to the dataset only where no batch sampler wraps another one, so
    neither in several processes nor in the epoch in which a resumed training begins (seen in accelerate 1.15).
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch before the data loader starts its workers."""
        dataset = getattr(kwargs.get("train_dataloader"), "dataset", None)
        if isinstance(dataset, EpochDataset):
            dataset.set_epoch(int(state.epoch or 0))
