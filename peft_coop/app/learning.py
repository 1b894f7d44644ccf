"""A prompt learned from a few pictures that a visitor has dropped."""

from __future__ import annotations

import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..data.image_data import DEFAULT_TEMPLATE
from ..demo import LEARNING_RATE
from ..evaluation import FrozenCLIP, LabelledImages, PromptLearning
from ..evaluation.pretrained import DEMO
from ..hub.upload import forget_base_path
from ..methods import DEFAULT_METHOD
from .classifiers import SharedClassifier
from .entries import MOST_CLASSES, check_name_length, read_upload

MOST_EXAMPLES = 16  # of a class
MOST_EXAMPLE_CLASSES = min(50, MOST_CLASSES)
SEED = 1
# A few pictures make few steps: from random vectors these end below zero-shot CLIP, from its own words above it.
START = {"ctx_init": DEFAULT_TEMPLATE.partition(" {}")[0]}
# A training draws from torch's one generator: those of several visitors wait for each other.
one_training = threading.Lock()


@dataclass(frozen=True)
class Examples:
    """Classes and pictures of them, in the order in which they came; adding makes another one.

    Attributes:
        classes: names, each with the paths of its pictures.
    """

    classes: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def with_class(self, name: str, pictures: list[str]) -> Examples:
        """These and a class more, or more pictures of one that is there.

        Raises:
            ValueError: if a picture cannot be read, or there are too many classes or pictures.
        """
        check_name_length(name)
        if not pictures:
            raise ValueError(f"There is no picture of {name!r}: drop some.")
        found = dict(self.classes)
        same = next((known for known in found if known.casefold() == name.casefold()), name)
        all_pictures = (*found.get(same, ()), *pictures)
        if len(all_pictures) > MOST_EXAMPLES:
            raise ValueError(f"{same!r} would have {len(all_pictures)} pictures, accepted are {MOST_EXAMPLES}.")
        if len(found) == MOST_EXAMPLE_CLASSES and same not in found:
            raise ValueError(f"There are {MOST_EXAMPLE_CLASSES} classes, which is the most that is accepted.")
        for picture in pictures:
            read_upload(picture)
        return Examples(tuple((found | {same: all_pictures}).items()))


class EndsWhenUnwanted(TrainerCallback):
    """Ends a training that nobody waits for any more, and leaves nothing of it.

    Args:
        unwanted: set when the visitor, or the page, is gone.
    """

    def __init__(self, unwanted: threading.Event):
        self.unwanted = unwanted

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`.

        Raises:
            ValueError: if nobody waits.
        """
        if self.unwanted.is_set():
            raise ValueError("Nobody waits for this prompt any more.")


def learn(
    clip: FrozenCLIP, examples: Examples, num_epochs: int, unwanted: threading.Event | None = None
) -> tuple[SharedClassifier, Path]:
    """Learn a prompt from a visitor's pictures.

    Args:
        clip: of which a copy is trained.
        examples: two classes or more.
        num_epochs: passes over the pictures.
        unwanted: ends the training when it is set.

    Returns:
        The classifier, and a new folder with its files: `prompt`, the adapter, and `prompt.zip`.

    Raises:
        ValueError: if there are fewer than two classes, a picture cannot be read, or the training is unwanted.
    """
    if len(examples.classes) < 2:
        raise ValueError(f"A prompt is learned from two classes or more; there are {len(examples.classes)}.")
    recipe = {"num_epochs": num_epochs} | ({"learning_rate": LEARNING_RATE} if clip.name == DEMO else {})
    callbacks = () if unwanted is None else (EndsWhenUnwanted(unwanted),)
    learning = PromptLearning(DEFAULT_METHOD, fields=START, recipe=recipe, callbacks=callbacks)
    learning = learning.for_protocol("few-shot")
    images = _images(examples)
    folder = Path(tempfile.mkdtemp(prefix="peft-coop-"))
    try:
        with one_training:
            # One of its own: a page that runs for weeks would keep the features of everybody's pictures.
            own = FrozenCLIP(clip.model, clip.processor, clip.name, clip.batch_size)
            learned = learning.fit(own, images, SEED, folder / "training")
        shutil.rmtree(folder / "training", ignore_errors=True)
        learned.save(folder / "prompt")
        forget_base_path(folder / "prompt")  # the visitor's machine has no such folder
        (folder / "prompt" / "README.md").unlink(missing_ok=True)  # which names it, too
        shutil.make_archive(str(folder / "prompt"), "zip", folder, "prompt")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return SharedClassifier(f"{learning.name}, learned here", learned.model, clip), folder


def _images(examples: Examples) -> LabelledImages:
    from datasets import ClassLabel, Dataset, Features, Image

    names = [name for name, _ in examples.classes]
    rows = [(picture, label) for label, (_, pictures) in enumerate(examples.classes) for picture in pictures]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    columns = {"image": [read_upload(picture) for picture, _ in rows], "label": [label for _, label in rows]}
    train = Dataset.from_dict(columns, features=features)
    return LabelledImages(names, DEFAULT_TEMPLATE, train, train.select([]), "pictures of a visitor")
