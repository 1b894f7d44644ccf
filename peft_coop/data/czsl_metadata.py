"""Which image shows which pair, in the files that come with the datasets of compositional zero-shot learning.

`metadata_compositional-split-natural.t7` is, whatever its name says, a list of dictionaries written by `torch.save`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..untrusted_files import load_torch_file
from .composition_lists import SPLITS

METADATA = "metadata_compositional-split-natural"
# What every entry has.
FIELDS = ("image", "attr", "obj", "set")
# What stands for an attribute or a split that an image has not.
NOT_ASSIGNED = "NA"


class Entry(NamedTuple):
    """An image of the metadata.

    Attributes:
        image: its path in `images`.
        attribute: its word, or "NA".
        thing: the word of its object.
        split: "train", "val", "test" or "NA".
        original: of UT-Zappos, its path in the folder of the shop's categories; "" of others.
    """

    image: str
    attribute: str
    thing: str
    split: str
    original: str


def metadata_path(folder: Path) -> Path:
    """The file of the metadata: as JSON where somebody has written that, otherwise torch's."""
    as_json = folder / f"{METADATA}.json"
    return as_json if as_json.exists() else folder / f"{METADATA}.t7"


def is_instead(path: Path) -> bool:
    """Whether these metadata are read in the place of others."""
    return path.suffix == ".json" and path.with_suffix(".t7").exists()


def read_metadata(path: Path) -> list[Entry]:
    """Read the metadata; nothing that the file may contain is run.

    Args:
        path: a JSON file or torch's, a list of dictionaries with `image`, `attr`, `obj` and `set`.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it holds anything else, or an image lies outside of the dataset's folder; names the entry.
    """
    content = _json(path) if path.suffix == ".json" else _torch(path)
    if not isinstance(content, list):
        raise ValueError(f"{path} must hold a list with an entry for each image, got {type(content).__name__}.")
    return list(_entries(path, content))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error


def _torch(path: Path) -> Any:
    try:
        return load_torch_file(path)
    except ValueError as error:
        hint = f"Where {path.stem}.json lies beside it, with the same entries, that is read."
        raise ValueError(f"{error} {hint}") from error


def _entries(path: Path, content: list[Any]) -> Iterator[Entry]:
    for number, fields in enumerate(content):
        values: dict[str, Any] = fields if isinstance(fields, dict) else {}
        texts = [each for key in FIELDS if isinstance(each := values.get(key), str) and each]
        if len(texts) < len(FIELDS):
            raise ValueError(f"{path}: entry {number} must have the texts {', '.join(FIELDS)}, got {fields!r}.")
        image, attribute, thing, split = texts
        original = values.get("_image")
        original = original if isinstance(original, str) else ""
        if split not in (*SPLITS, NOT_ASSIGNED):
            accepted = f"{', '.join(SPLITS)} or {NOT_ASSIGNED}"
            raise ValueError(f"{path}: the `set` of entry {number} must be {accepted}, got {split!r}.")
        for place in filter(None, (image, original)):
            if _leads_outside(place):
                raise ValueError(
                    f"{path}: the image of entry {number} must be a file in the folder of images, got {place!r}. A "
                    "path that leads out of it is not followed."
                )
        yield Entry(image, attribute, thing, split, original)


def _leads_outside(place: str) -> bool:
    """Whether a path is no file below the folder that it is taken from, here or on another system."""
    parts = place.replace("\\", "/").split("/")
    is_absolute = not parts[0] or parts[0][1:2] == ":"  # also "C:x", which is taken from elsewhere, too
    return is_absolute or ".." in parts or parts[-1] in ("", ".")
