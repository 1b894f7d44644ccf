"""The two tasks that the demo's CLIP is tried on: drawn shapes and scanned handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

TASK_NAMES = ("shapes", "digits")


@dataclass(frozen=True)
class DemoTask:
    """An image classification task, small enough for a CPU.

    Attributes:
        name: what `load_task` calls it.
        class_names: as a human writes them, in the order of the labels.
        zero_shot_template: the prompt without learning; "{}" stands for the class name.
        train: columns `image` (PIL, RGB, 48 by 48 pixels) and `label` (`ClassLabel`).
        test: the same columns; no image is in both.
    """

    name: str
    class_names: list[str]
    zero_shot_template: str
    train: Dataset
    test: Dataset


def load_task(name: str) -> DemoTask:
    """Load a task; the same images on every call.

    - "shapes": 20 classes such as "red circle", drawn while loading. Their combinations of colour and
      shape were never drawn for the pretraining, and their style, pictures taken at night, hardly ever.
      The first ten are the base classes of a base-to-new split, the last ten the new ones.
    - "digits": "zero" to "nine", scikit-learn's 1,797 scanned handwritten digits, halved. The
      pretraining has seen none of them. Do not flip them: a mirrored digit is another thing.

    Raises:
        ValueError: if there is no such task.
        ImportError: if one of the packages that the tasks need is not installed.
    """
    if name not in TASK_NAMES:
        raise ValueError(f"`name` must be one of {TASK_NAMES}, got {name!r}.")
    try:
        from .task_images import load_digits, load_shapes

        return DemoTask(name, *(load_shapes() if name == "shapes" else load_digits()))
    except ImportError as error:
        raise ImportError(
            f'The task {name!r} needs the package {error.name!r}, which is not installed: pip install "peft-coop[cli]".'
        ) from error
