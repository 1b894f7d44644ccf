"""The datasets of compositional zero-shot learning, on disk as the original implementation of CSP wants them.

Folder and file names are those of the repository BatsResearch/csp (`download_data.sh` and `datasets/`), and of the
repositories that it took them from: MIT-States, UT-Zappos and C-GQA. Any other dataset in that layout is read, too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .composition_data import CompositionData, Pair
from .composition_lists import SPLITS, CompositionList, make_data
from .coop_readers import existing
from .czsl_metadata import NOT_ASSIGNED, Entry, is_instead, metadata_path, read_metadata
from .images import warn_left_out
from .summary import SHOWN, LeftOut, some

PAIR_LISTS = "compositional-split-natural"
# UT-Zappos has two names for its folder.
OTHER_NAMES = {"ut-zappos": "ut-zap50k", "ut-zap50k": "ut-zappos"}
# Where the images of UT-Zappos lie before they are put into folders of pairs.
ORIGINAL_IMAGES = "_images"
# Where to get a file that is missing.
INSTRUCTIONS = "https://github.com/BatsResearch/csp/blob/main/download_data.sh"


def load_czsl(name: str, root: str) -> CompositionData:
    """List a dataset's images; none is read before it is used.

    Args:
        name: of the dataset's folder: "mit-states", "ut-zappos" (or "ut-zap50k"), "cgqa", or any other.
        root: the folder of all datasets.

    Raises:
        ValueError: if a file does not fit, or training or test have no image.
        FileNotFoundError: if a file or folder is missing.
    """
    folder = _folder(name, Path(root).expanduser().absolute())
    path = existing(metadata_path(folder), INSTRUCTIONS)
    notes = [f"the metadata are those of {path.name}, not of the .t7 beside it"] if is_instead(path) else []
    pairs = {split: _read_pairs(folder / PAIR_LISTS / f"{split}_pairs.txt", split, notes) for split in SPLITS}
    listed = CompositionList(pairs, {split: [] for split in SPLITS}, notes=notes)
    listed.left_out = _assign(read_metadata(path), listed, folder)
    for split in ("train", "test"):
        if not listed.images[split]:
            missing = f"; {len(listed.missing):,} are missing, such as {listed.missing[0]}" if listed.missing else ""
            raise ValueError(f"There is no image of a listed pair for {split!r} of {path}{missing}.")
    warn_left_out(listed.missing, len(listed.missing) + sum(map(len, listed.images.values())), "are missing")
    return make_data(name, listed)


def _folder(name: str, root: Path) -> Path:
    """The folder of a dataset, under either of its names."""
    folders = [root / each for each in (name, OTHER_NAMES.get(name)) if each]
    found = next((folder for folder in folders if folder.exists()), None)
    if found is None and (root / PAIR_LISTS).exists():
        raise FileNotFoundError(f"{folders[0]} does not exist, but {root} is such a dataset: give the folder above it.")
    return found or existing(folders[0], INSTRUCTIONS)


def _read_pairs(path: Path, split: str, notes: list[str]) -> list[Pair]:
    """The pairs of a split, in the file's order.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if a line is no attribute and object, or a list that is needed is empty.
    """
    try:
        lines = existing(path, INSTRUCTIONS).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    pairs: list[Pair] = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if words and len(words) != 2:
            raise ValueError(f"{path}, line {number} must be an attribute and an object, got {line!r}.")
        if words:
            pairs.append((words[0], words[1]))
    if not pairs and split != "val":
        raise ValueError(f"{path} has no pair.")
    counts = Counter(pairs)
    if len(counts) < len(pairs):
        twice = [" ".join(pair) for pair, count in counts.items() if count > 1]
        notes.append(f"{path.name} has pairs more than once, taken once: {len(twice):,} ({some(twice, SHOWN)})")
    return list(counts)


def _assign(entries: list[Entry], listed: CompositionList, folder: Path) -> list[LeftOut]:
    """Put each image into its split, and tell which are not taken."""
    trained = set(listed.pairs["train"])
    allowed = {split: trained.union(listed.pairs[split] if split != "train" else ()) for split in SPLITS}
    known = set().union(*allowed.values())
    others: dict[str, list[str]] = {}
    for entry in entries:
        pair = (entry.attribute, entry.thing)
        if NOT_ASSIGNED in (entry.attribute, entry.split):
            others.setdefault(f"without an attribute or a split ({NOT_ASSIGNED})", []).append(entry.image)
        elif pair not in known:
            others.setdefault("of a pair that no list has", []).append(entry.image)
        elif pair not in allowed[entry.split]:
            reason = f"in {entry.split}, of a pair that the lists have for other splits only"
            others.setdefault(reason, []).append(entry.image)
        else:
            place = next(filter(os.path.isfile, _places(entry, folder)), None)
            if place is None:
                listed.missing.append(next(_places(entry, folder)))
            else:
                listed.images[entry.split].append((place, pair))
    return [LeftOut(reason, tuple(images)) for reason, images in others.items()]


def _places(entry: Entry, folder: Path) -> Iterator[str]:
    """Where an image may lie: as the metadata say, with its folder as it was packed, or not yet put in order.

    MIT-States has "old car/1.jpg" in its archive and "old_car/1.jpg" in the metadata.
    """
    images = os.path.join(folder, "images")
    *folders, name = entry.image.split("/")
    yield os.path.join(images, *folders, name)
    yield os.path.join(images, *(part.replace("_", " ") for part in folders), name)
    yield os.path.join(images, *(part.replace(" ", "_") for part in folders), name)
    if entry.original:
        yield os.path.join(folder, ORIGINAL_IMAGES, *entry.original.split("/"))
