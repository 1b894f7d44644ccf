"""Lists of images that the original implementation keeps as pickles, read without running anything.

They are `preprocessed.pkl` of ImageNet, in the order of the file system on which it was written, and
`split_fewshot/shot_16-seed_1.pkl` and the like: the images of a draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..untrusted_files import load_pickle

PREPROCESSED = "preprocessed.pkl"
SPLIT_FEWSHOT = "split_fewshot"
# The original's class of an entry, whose module moved within Dassl.
ENTRY_MODULES = ("dassl.data.datasets", "dassl.data.datasets.base_dataset")
ENTRY = "Datum"


class Item(NamedTuple):
    """An image of such a list.

    Attributes:
        path: where it lay when the list was written.
        label: of its class.
        class_name: of its class.
    """

    path: str
    label: int
    class_name: str


def read_items(path: Path) -> dict[str, list[Item]]:
    """Read a list, by splits such as "train" and "val".

    Only the original's entries are made, as plain data: any other class or function in the file is refused by name.

    Args:
        path: the pickle.

    Raises:
        ValueError: if it is no such list, or holds anything else.
    """
    return _checked(path, load_pickle(path, {(module, ENTRY): _Entry for module in ENTRY_MODULES}))


class _Entry:
    """Takes the place of the original's entry."""

    fields: dict[str, Any]

    def __new__(cls) -> _Entry:
        entry = super().__new__(cls)
        entry.fields = {}
        return entry

    def __setstate__(self, state: Any) -> None:
        self.fields = dict(state)


def _checked(path: Path, content: Any) -> dict[str, list[Item]]:
    if not isinstance(content, dict) or not all(isinstance(entries, list) for entries in content.values()):
        raise ValueError(f"{path} must hold lists of images by split, got {type(content).__name__}.")
    return {str(split): [_item(path, entry) for entry in entries] for split, entries in content.items()}


def _item(path: Path, entry: Any) -> Item:
    fields = entry.fields if isinstance(entry, _Entry) else {}
    place, label, name = (fields.get(key) for key in ("_impath", "_label", "_classname"))
    if isinstance(place, str) and isinstance(label, int) and isinstance(name, str):
        return Item(place, label, name)
    raise ValueError(f"{path} must hold entries of a path, a label and a class name, got {fields or entry!r}.")


@dataclass(frozen=True)
class OriginalLists:
    """The lists that the original keeps of a dataset.

    Attributes:
        folder: of the dataset.
        images: the images' folder in it, which is the place that the lists' paths are taken from: they are absolute,
            and of the machine on which they were written.
    """

    folder: Path
    images: Path

    def draws(self) -> list[str]:
        """The names of the files of draws."""
        return sorted(path.name for path in (self.folder / SPLIT_FEWSHOT).glob("shot_*-seed_*.pkl"))

    def draw(self, num_shots: int, seed: int) -> dict[str, list[Item]] | None:
        """The images of a draw, with their paths here; None if it is not kept.

        Raises:
            ValueError: if the file cannot be read, or an image is not of this dataset.
        """
        return self._read(self.folder / SPLIT_FEWSHOT / f"shot_{num_shots}-seed_{seed}.pkl")

    def preprocessed(self) -> dict[str, list[Item]] | None:
        """All images of ImageNet in the original's order, with their paths here; None if the list is not kept.

        Raises:
            ValueError: if the file cannot be read, or an image is not of this dataset.
        """
        return self._read(self.folder / PREPROCESSED)

    def _read(self, path: Path) -> dict[str, list[Item]] | None:
        if not path.exists():
            return None
        splits = read_items(path)
        return {
            split: [item._replace(path=self._here(item, path)) for item in items] for split, items in splits.items()
        }

    def _here(self, item: Item, path: Path) -> str:
        """An image's path here: what follows the last folder that is called as that of the images."""
        anchor = (self.folder.name, *self.images.relative_to(self.folder).parts)
        parts = PurePosixPath(item.path.replace("\\", "/")).parts
        starts = [start for start in range(len(parts)) if parts[start : start + len(anchor)] == anchor]
        if not starts or ".." in parts:
            raise ValueError(f"{path} names {item.path!r}, which is not in a folder {'/'.join(anchor)}.")
        return str(self.images.joinpath(*parts[starts[-1] + len(anchor) :]))
