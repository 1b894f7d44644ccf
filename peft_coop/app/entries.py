"""What visitors give: pictures and class names, checked before a model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image as Picture

from ..endpoint_handler import FORMATS, MOST_BYTES, MOST_PIXELS, read_picture
from ..prompts import check_class_names

MOST_CLASSES = 200
MOST_CHARACTERS = 200
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ACCEPTED = f"{', '.join(FORMATS)} of up to {MOST_BYTES // 10**6} MB and {MOST_PIXELS // 10**6} million pixels"


def read_upload(path: str | Path) -> Picture:
    """An uploaded picture in RGB, turned as its EXIF data say.

    Raises:
        ValueError: if it is gone, empty, too large, moving, damaged, or of another kind than the accepted ones; with
            the file's name, and never its folder on this machine.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        data = file.read_bytes() if 0 < size <= MOST_BYTES else b""
    except OSError as error:
        raise ValueError(f"{file.name}: the file is no longer here, upload it again.") from error
    if not size:
        raise ValueError(f"{file.name}: the file is empty. Accepted are {ACCEPTED}.")
    if size > MOST_BYTES:
        raise ValueError(f"{file.name}: the file has {size:,} bytes. Accepted are {ACCEPTED}.")
    try:
        return read_picture(data)
    except ValueError as error:
        raise ValueError(f"{file.name}: {str(error).rstrip('.')}. Accepted are {ACCEPTED}.") from error


def read_class_names(text: str | None, own: Sequence[str] = ()) -> list[str]:
    """Class names of a text with one on each line; empty lines count nothing.

    Args:
        text: as a visitor has written it.
        own: names that are accepted as they are: a prompt may have more classes than a visitor may write.

    Raises:
        ValueError: if there is none, there are too many, or one is too long, there twice, or cannot be seen.
    """
    names = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not names:
        raise ValueError("There are no class names: write one on each line.")
    if names == [name.strip() for name in own]:
        return list(own)
    most = max(MOST_CLASSES, len(own))
    if len(names) > most:
        raise ValueError(f"There are {len(names):,} class names, accepted are {most:,}.")
    for name in names:
        check_name_length(name)
    known: dict[str, str] = {}
    for name in check_class_names(names):
        if name.casefold() in known:
            raise ValueError(f"{name!r} is there twice: every class needs a name of its own.")
        known[name.casefold()] = name
    return names


def read_class_name(text: str | None) -> str:
    """One class name, in one line.

    Raises:
        ValueError: if it is none, or there are several.
    """
    names = read_class_names(text)
    if len(names) > 1:
        raise ValueError(f"Give one class name at a time, got {len(names)}.")
    return names[0]


def check_name_length(name: str) -> None:
    """Check that a name is none that only fills the page.

    Raises:
        ValueError: if it is.
    """
    if len(name) > MOST_CHARACTERS:
        raise ValueError(
            f"The class name {name[:30] + '…'!r} has {len(name):,} characters, accepted are {MOST_CHARACTERS}."
        )
