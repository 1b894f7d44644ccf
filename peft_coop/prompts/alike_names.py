"""Class names that read as one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator


def alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of different names that read as one: apart only by case, blanks, underscores or encoding."""
    first: dict[str, str] = {}
    for name in names:
        seen = first.setdefault(_plain(name), name)
        if seen != name:
            yield seen, name


def _plain(name: str) -> str:
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()
