"""Word vectors for the names of attributes and objects, from a text file that the caller has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike

import numpy as np
from numpy.typing import NDArray

# Missing words that an error names.
SHOWN = 10


def read_word_vectors(path: str | PathLike[str], words: Sequence[str]) -> NDArray:
    """Read a vector for each name from a text file in GloVe's layout: a word and its numbers in each line.

    A name is looked up in lower case; one of several words joined by "_" gets the mean of theirs. Only the words that
    are needed are kept, so a file of gigabytes takes little memory.

    Args:
        path: the file, UTF-8.
        words: names of attributes or objects. One that the file does not know must be given as other words that it
            knows, for instance "fake_leather" for "Faux.Leather".

    Returns:
        `[len(words), E]` in float64, for `feasibility`.

    Raises:
        ValueError: if `words` is one string or has no word, a word is not in the file, or the line of one has no
            numbers or not as many as others.
    """
    if isinstance(words, str) or not len(words):
        raise ValueError(f"`words` must be a list of names, got {words!r}.")
    parts = {word: [part for part in word.lower().split("_") if part] for word in words}
    nameless = [word for word, own in parts.items() if not own]
    if nameless:
        raise ValueError(f"Every name must have a word, got {nameless[0]!r}.")
    vectors = dict(_read(path, {part for own in parts.values() for part in own}))
    missing = sorted({part for own in parts.values() for part in own} - set(vectors))
    if missing:
        shown = ", ".join(map(repr, missing[:SHOWN])) + (", …" if len(missing) > SHOWN else "")
        raise ValueError(
            f"{path} has no vector for {len(missing)} words: {shown}. Give other names for what they belong to, "
            f"or another file."
        )
    lengths = {len(vector): word for word, vector in vectors.items()}
    if len(lengths) > 1:
        raise ValueError(
            f"All vectors of {path} must be of one length, got "
            f"{' and '.join(f'{length} numbers for {word!r}' for length, word in sorted(lengths.items()))}."
        )
    return np.stack([np.mean([vectors[part] for part in parts[word]], axis=0) for word in words])


def _read(path: str | PathLike[str], needed: set[str]) -> Iterator[tuple[str, NDArray]]:
    """The vectors of words that are needed; the first, where a word is there twice."""
    left = {word.encode(): word for word in needed}
    with open(path, "rb") as file:  # in text, Python would end lines where some words have odd characters
        for number, line in enumerate(file, 1):
            word, _, numbers = line.rstrip().partition(b" ")
            if word not in left:
                continue
            try:
                vector = np.array(numbers.split(), dtype=np.float64)
            except ValueError:
                vector = np.empty(0)
            if not vector.size or not np.isfinite(vector).all():
                raise ValueError(
                    f"{path} must have finite numbers after each word, got {line[:60]!r} in line {number}."
                )
            yield left.pop(word), vector
            if not left:
                return
