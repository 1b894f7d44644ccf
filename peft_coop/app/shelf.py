"""The classifiers that a page can choose from: those it was started with, and what visitors have learned."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from .classifiers import SharedClassifier

# Each keeps a copy of the model.
MOST_LEARNED = 4


class Shelf:
    """Classifiers by a key. What a visitor has learned is found by a key that only that visitor's session has.

    Args:
        given: those that all visitors see, by the number of their place; the page starts with the first.
        most_learned: so many of visitors' are kept; one more takes the place of the oldest.

    Raises:
        ValueError: if there is none.
    """

    def __init__(self, given: Sequence[SharedClassifier], most_learned: int = MOST_LEARNED):
        if not given:
            raise ValueError("A page needs a classifier to start with.")
        self.given = list(given)
        self.most_learned = most_learned
        self._learned: OrderedDict[str, tuple[SharedClassifier, Path]] = OrderedDict()
        self._changing = threading.Lock()

    def add(self, classifier: SharedClassifier, folder: Path) -> str:
        """Keep what a visitor has learned, and return its key.

        Args:
            classifier: what was learned.
            folder: of its files, which are removed with it.
        """
        key = secrets.token_hex(16)
        with self._changing:
            self._learned[key] = classifier, folder
            dropped = [self._learned.popitem(last=False)[1] for _ in range(len(self._learned) - self.most_learned)]
        for _, old in dropped:
            shutil.rmtree(old, ignore_errors=True)
        return key

    def remove(self, key: str | None) -> None:
        """Forget what a visitor has learned, if it is still there."""
        with self._changing:
            found = self._learned.pop(key or "", None)
        if found is not None:
            shutil.rmtree(found[1], ignore_errors=True)

    def clear(self) -> None:
        """Forget all that visitors have learned, and remove its files."""
        for key in list(self._learned):
            self.remove(key)

    def find(self, choice: str | None, learned: str | None = None) -> SharedClassifier:
        """The classifier that a visitor has chosen.

        Args:
            choice: the number of a given one, or "learned" for the visitor's own.
            learned: the key of the visitor's own.

        Raises:
            ValueError: if there is none of this choice, or it was dropped for those of others.
        """
        if choice == "learned":
            with self._changing:
                found = self._learned.get(learned or "")
            if found is None:
                raise ValueError(
                    f"What you learned is no longer here: the page keeps the last {self.most_learned} prompts of all "
                    "its visitors. Learn it again."
                )
            return found[0]
        if choice is None or not choice.isdecimal() or int(choice) >= len(self.given):
            raise ValueError(f"There is no prompt {choice!r}: choose one of the list.")
        return self.given[int(choice)]
