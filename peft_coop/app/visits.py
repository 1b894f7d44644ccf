"""What the page does for a visitor, without the page: texts and files in, HTML out, and what goes wrong as text."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from PIL.Image import Image as Picture

from ..evaluation import FrozenCLIP
from .entries import read_class_name, read_class_names, read_upload
from .learning import Examples, learn, one_training
from .markup import answer_table, examples_table, notice, problem, words_table
from .shelf import Shelf

PREVIEW = 640  # pixels of the longer side
NEAREST = 5
LAST_STEP = 10  # seconds; a training that is told to end needs them for the step that it is in
# Of input that cannot be used; anything else is a fault of ours, and the server's log has it.
BAD_INPUT = (ValueError, TypeError, OSError)


@dataclass(frozen=True)
class Learned:
    """What has become of a training.

    Attributes:
        key: of the visitor's prompt on the shelf; None where there is none.
        message: HTML.
        names: class names, one on each line; None where nothing was learned.
        archive: a file with the adapter.
    """

    key: str | None
    message: str
    names: str | None = None
    archive: str | None = None


def told(call: Callable[..., str]) -> Callable[..., str]:
    """Tell what is wrong with a visitor's input in the place of the answer."""

    @wraps(call)
    def telling(*args: Any, **kwargs: Any) -> str:
        try:
            return call(*args, **kwargs)
        except BAD_INPUT as error:
            return problem(str(error))

    return telling


class Visits:
    """What visitors ask for. What is a visitor's own is given with each call; it knows who waits for a training.

    Args:
        shelf: of the classifiers.
        clip: which new prompts are learned for.
    """

    def __init__(self, shelf: Shelf, clip: FrozenCLIP):
        self.shelf = shelf
        self.clip = clip
        self._trainings: dict[str | None, threading.Event] = {}

    def leave(self, visitor: str | None) -> None:
        """A visitor has closed the page: what is learned for nobody else ends, and others need not wait for it.

        Args:
            visitor: the key of the session.
        """
        if (unwanted := self._trainings.get(visitor)) is not None:
            unwanted.set()

    def close(self) -> None:
        """The page ends: so do all trainings, and what was learned is forgotten."""
        for unwanted in list(self._trainings.values()):
            unwanted.set()
        if one_training.acquire(timeout=LAST_STEP):
            one_training.release()
        self.shelf.clear()

    @told
    def classify(self, choice: str | None, learned: str | None, file: str | None, names: str | None) -> str:
        """The answer for a picture among class names, as HTML.

        Args:
            choice: see `Shelf.find`.
            learned: likewise.
            file: path of the uploaded picture; None where there is none yet.
            names: one on each line.
        """
        classifier = self.shelf.find(choice, learned)
        class_names = read_class_names(names, classifier.class_names)
        if file is None:
            return notice("Upload a picture to see its probabilities.")
        answer = classifier.answer(read_upload(file), class_names)
        return answer_table(answer, classifier.title if classifier.is_learned else None)

    def preview(self, file: str | None) -> Picture | None:
        """The picture, small; None where there is none that can be read, which `classify` says."""
        try:
            picture = None if file is None else read_upload(file)
        except ValueError:
            return None
        if picture is not None:
            picture.thumbnail((PREVIEW, PREVIEW))
        return picture

    def class_names(self, choice: str | None, learned: str | None) -> str:
        """The classes of a choice, one on each line; nothing where there is no such choice, which `classify` says."""
        try:
            return "\n".join(self.shelf.find(choice, learned).class_names)
        except ValueError:
            return ""

    @told
    def nearest_words(self, choice: str | None, learned: str | None, whole_words: bool) -> str:
        """The nearest words of a choice, as HTML."""
        return words_table(self.shelf.find(choice, learned).nearest_words(NEAREST, whole_words))

    def add_class(
        self, examples: Examples, name: str | None, pictures: Sequence[str] | None
    ) -> tuple[Examples, bool, str]:
        """One class more to learn.

        Returns:
            The examples, as they were where something is wrong; whether it was added; and HTML.
        """
        try:
            more = examples.with_class(read_class_name(name), list(pictures or ()))
        except BAD_INPUT as error:
            return examples, False, problem(str(error)) + examples_table(examples)
        return more, True, examples_table(more)

    def learn(self, examples: Examples, num_epochs: float, before: str | None, visitor: str | None = None) -> Learned:
        """Learn a prompt from the examples; it takes the place of the visitor's one of before.

        Args:
            examples: the visitor's.
            num_epochs: passes over the pictures.
            before: the key of what the visitor has learned before; it stays where something is wrong.
            visitor: the key of the session, see `leave`.
        """
        started = time.monotonic()
        unwanted = self._trainings[visitor] = threading.Event()
        try:
            classifier, folder = learn(self.clip, examples, int(num_epochs), unwanted)
        except BAD_INPUT as error:
            return Learned(before, problem(str(error)))
        finally:
            self._trainings.pop(visitor, None)
        key = self.shelf.add(classifier, folder)
        self.shelf.remove(before)
        pictures = sum(len(each) for _, each in examples.classes)
        message = (
            f"Learned {len(examples.classes)} classes from {pictures} pictures in "
            f"{time.monotonic() - started:.0f} s. The prompt is chosen now: see Classify."
        )
        names = "\n".join(classifier.class_names)
        return Learned(key, notice(message), names, str(Path(folder) / "prompt.zip"))
