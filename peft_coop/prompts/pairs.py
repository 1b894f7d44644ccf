"""Classes that are put together of words: an attribute, or several, and an object, such as an old car.

Reference: CSP (arXiv:2204.03574).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from .class_names import check_order, check_text, is_visible

PairIds = tuple[int, ...]


def clean_word(word: str) -> str:
    """A word as CSP reads it: dots are spaces, and all letters small; "_" and "-" stay."""
    return word.replace(".", " ").lower().strip()


def check_words(words: Sequence[str], what: str) -> list[str]:
    """Check the words of attributes or of objects, and return them as a list of `str`.

    Args:
        words: the words.
        what: the name of the setting.

    Raises:
        TypeError: if it is no list of strings.
        ValueError: if it is empty, a word cannot be seen, or is there twice.
    """
    try:
        check_order(words)
    except TypeError as error:
        raise TypeError(str(error).replace("`class_names`", f"`{what}`").replace("names", "words")) from None
    words = list(words)
    if not words:
        raise ValueError(f"`{what}` is empty: a pair needs an attribute and an object.")
    for index, word in enumerate(words):
        if not isinstance(word, str):
            raise TypeError(f"`{what}` must be words, got {word!r} ({type(word).__name__}) at index {index}.")
        check_text(word, f"Word {index} of `{what}`")
        if not is_visible(clean_word(word)):
            raise ValueError(f"Word {index} of `{what}` is empty ({word!r}).")
    twice = sorted(word for word, count in Counter(words).items() if count > 1)
    if twice:
        raise ValueError(f"`{what}` has {', '.join(map(repr, twice))} more than once: each word has one vector.")
    return [str(word) for word in words]


def as_plain(values: Any) -> Any:
    """The lists of a tensor or an array; anything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def in_order(classes: Any) -> list[Any]:
    """Classes as a list: of names or of pairs, which may be the rows of a tensor or an array.

    Raises:
        TypeError: if they have no order, or are a single text.
    """
    classes = as_plain(classes)
    check_order(classes)
    return list(classes)


class PairWords:
    """The words of A attributes and O objects, and the classes that are made of them.

    A class is written as a text, "old car"; as words, `("old", "car")`; or as numbers, `(1, 0)`: attributes first, the
    object last. A class may have several attributes.

    Args:
        attributes: A words.
        objects: O words.
    """

    def __init__(self, attributes: Sequence[str], objects: Sequence[str]):
        self.attributes, self.objects = list(attributes), list(objects)
        self._attribute_ids = {word: index for index, word in enumerate(self.attributes)}
        self._object_ids = {word: index for index, word in enumerate(self.objects)}
        self._longest = max(map(len, (*self.attributes, *self.objects)))
        self._may_be_ambiguous = any(" " in word for word in (*self.attributes, *self.objects))

    def ids(self, given: Any) -> PairIds:
        """The numbers of a class.

        Raises:
            TypeError: if it is none of the three.
            ValueError: if a word or a number is none of the words', or a text can be read in several ways.
        """
        if isinstance(given, str):
            return self._read(given)
        given = as_plain(given)
        parts = tuple(given) if isinstance(given, Sequence) else ()
        if len(parts) >= 2 and all(isinstance(part, str) for part in parts):
            *attributes, thing = parts
            return (
                *(self._find(word, self._attribute_ids, "attribute", given) for word in attributes),
                self._find(thing, self._object_ids, "object", given),
            )
        if len(parts) >= 2 and all(isinstance(part, Integral) and not isinstance(part, bool) for part in parts):
            *numbers, last = parts
            inside = all(0 <= number < len(self.attributes) for number in numbers) and 0 <= last < len(self.objects)
            if not inside:
                raise ValueError(
                    f"The pair {tuple(map(int, parts))} does not exist: attributes count from 0 to "
                    f"{len(self.attributes) - 1}, objects, which stand last, from 0 to {len(self.objects) - 1}."
                )
            return tuple(map(int, parts))
        raise TypeError(
            "A pair is an attribute and an object, as words, as numbers or as a text, such as ('old', 'car') or "
            f"'old car'; got {given!r}."
        )

    def words(self, ids: PairIds) -> tuple[str, ...]:
        """The words of a class."""
        return (*(self.attributes[each] for each in ids[:-1]), self.objects[ids[-1]])

    def name(self, ids: PairIds) -> str:
        """A class as a text.

        Raises:
            ValueError: if the text would be read as another class.
        """
        words = self.words(ids)
        name = " ".join(words)
        if self._may_be_ambiguous and self._read(name) != ids:
            raise ValueError(
                f"The pair {words} is written {name!r}, which reads as {self.words(self._read(name))}: write one of "
                "these words with '_' for the space."
            )
        return name

    def _find(self, word: str, known: dict[str, int], kind: str, given: Any) -> int:
        if word not in known:
            raise ValueError(
                f"The pair {tuple(given)!r} has the {kind} {word!r}, which is none of the {len(known)} of this "
                f"adapter: {_shown(known)}."
            )
        return known[word]

    def _read(self, name: str) -> PairIds:
        """The class of a text; of several readings the one with the fewest words."""
        readings = self._shortest(name)
        if not readings:
            raise ValueError(
                f"{name!r} is no attribute and object of this adapter. Its attributes are "
                f"{_shown(self.attributes)}; its objects {_shown(self.objects)}."
            )
        if len(readings) > 1:
            first, second = map(self.words, readings)
            raise ValueError(f"{name!r} reads as {first} and as {second}: give the words apart, not as one text.")
        return readings[0]

    def _shortest(self, name: str) -> list[PairIds]:
        """One or two of the readings of a text that have the fewest words; none where it has no reading."""
        # Of what stands before each space, and ends there with an attribute: there are too many readings to try all.
        before: dict[int, list[PairIds]] = {0: [()]}
        whole: list[PairIds] = []
        for end in (*(place for place, character in enumerate(name) if character == " "), len(name)):
            is_last = end == len(name)
            known = self._object_ids if is_last else self._attribute_ids
            found = [
                (*reading, known[name[start:end]])
                for start in before
                if end - start <= self._longest and name[start:end] in known
                for reading in before[start]
                if reading or not is_last
            ]
            fewest = min(map(len, found), default=0)
            shortest = [reading for reading in found if len(reading) == fewest][:2]
            if is_last:
                whole = shortest
            elif shortest:
                before[end + 1] = shortest
        return whole


def _shown(words: Iterable[str], most: int = 8) -> str:
    """The first of some words."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(map(repr, words[:most])) + more
