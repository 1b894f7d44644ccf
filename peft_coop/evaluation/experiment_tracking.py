"""TensorBoard, Weights & Biases and the like: what the Trainer reports to, run by run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"  # where the Trainer's callback looks for it


def check_report_to(names: Sequence[str]) -> tuple[str, ...]:
    """What the Trainer can report to.

    Raises:
        ValueError: if it knows no such name.
        ImportError: if the package behind a name is not installed.
    """
    from transformers.integrations import get_reporting_integration_callbacks

    for callback in get_reporting_integration_callbacks(list(names)):
        try:
            callback()
        except RuntimeError as error:  # the callbacks' own word for it
            raise ImportError(f"Nothing can be reported: {error}") from error
    return tuple(names)


def reporting_arguments(names: Sequence[str], run_name: str) -> dict[str, Any]:
    """`TrainingArguments` that report the loss and the learning rate of every epoch; none where there is no name."""
    if not names:
        return {}
    return {"report_to": list(names), "run_name": run_name, "logging_strategy": "epoch"}


@contextmanager
def reporting(names: Sequence[str], folder: Path) -> Iterator[None]:
    """One run of its own: TensorBoard's files in a folder, unless the user has set another, and W&B's run ended."""
    set_here = "tensorboard" in names and TENSORBOARD_FOLDER not in os.environ
    if set_here:
        os.environ[TENSORBOARD_FOLDER] = str(folder)
    try:
        yield
    finally:
        if set_here:
            del os.environ[TENSORBOARD_FOLDER]
        if "wandb" in names:
            import wandb

            wandb.finish()
