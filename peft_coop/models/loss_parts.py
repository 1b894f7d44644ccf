"""The parts of the loss in what the Trainer logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import TrainerCallback

if TYPE_CHECKING:  # a second more at `import peft_coop`, since the Trainer's module imports datasets and pandas
    from transformers import Trainer

PREFIX = "loss_"


class LossPartsCallback(TrainerCallback):
    """Logs the parts of a method's loss with the Trainer's own: "loss_cross_entropy", "loss_kg" and what else it has.

    Each is before weighting, the mean over all forward passes since the last log, micro-batches included, and over all
    processes. Nothing is added for a method whose loss is cross-entropy alone. What waits for a GPU is the log and no
    step. The numbers are in `trainer.state.log_history` and in what later callbacks are given; the Trainer puts
    TensorBoard's and others' before those of `Trainer(callbacks=…)`, so `add_to(trainer)` puts this one in front.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self._hook: Any = None

    def add_to(self, trainer: Trainer) -> None:
        """Put it before all callbacks of a Trainer, so that what reports gets the parts."""
        trainer.callback_handler.callbacks.insert(0, self)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """See `TrainerCallback`.

        Raises:
            ValueError: if labels are to be smoothed that cannot be.
        """
        head = getattr(getattr(model, "prompt_layer", None), "prompt", None)
        if args.label_smoothing_factor and head is not None and head.task_head.no_smoothing:
            raise ValueError(head.task_head.no_smoothing)
        self.on_train_end(args, state, control)  # of a training that was interrupted
        self._hook = model.register_forward_hook(lambda module, given, outputs: self._note(outputs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if self._hook is not None:
            self._hook.remove()
        self._hook, self.sums, self.counts = None, {}, {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """See `TrainerCallback`; a log without "loss" is not one of training steps."""
        if logs is None or "loss" not in logs or len(self.sums) < 2:
            return
        means = {name: self.sums[name] / self.counts[name] for name in sorted(self.sums)}
        values = reduce(torch.stack(list(means.values())), "mean").tolist()
        parts = {f"{PREFIX}{name}": value for name, value in zip(means, values, strict=True)}
        logs.update(parts)
        state.log_history[-1].update(parts)
        self.sums, self.counts = {}, {}

    def _note(self, outputs: Any) -> None:
        for name, part in (getattr(outputs, "loss_parts", None) or {}).items():
            part = part.float()
            known = self.sums.get(name)
            self.sums[name] = part if known is None else known + part.to(known.device)
            self.counts[name] = self.counts.get(name, 0) + 1
