"""Folders laid out as the datasets of compositional zero-shot learning, with a few small images."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image as Picture

LISTS = {
    "mit-states": {
        "train": [("old", "car"), ("new", "house"), ("old", "cat"), ("wet", "cat")],
        "val": [("old", "car"), ("new", "car")],
        "test": [("new", "house"), ("old", "house"), ("wet", "car")],
    },
    "ut-zap50k": {
        "train": [("Faux.Fur", "Boots.Ankle"), ("Suede", "Shoes.Clogs.and.Mules")],
        "val": [("Faux.Fur", "Shoes.Clogs.and.Mules")],
        "test": [("Suede", "Boots.Ankle"), ("Suede", "Shoes.Clogs.and.Mules")],
    },
    "cgqa": {
        "train": [("red", "traffic_light"), ("stop-like", "sign")],
        "val": [("red", "sign")],
        "test": [("red", "sign"), ("red", "traffic_light")],
    },
}  # fmt: skip
# How an image of a pair is called in the metadata.
IMAGES = {
    "mit-states": "{attribute}_{thing}/{number}.jpg",
    "ut-zap50k": "{attribute}_{thing}/80{number}.37.jpg",
    "cgqa": "23{number}_{number}.jpg",
}


@dataclass
class CzslFolder:
    """A dataset on disk.

    Attributes:
        name: of the dataset.
        root: the folder of all datasets.
        entries: of the metadata.
    """

    name: str
    root: Path
    entries: list[dict[str, str]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def source(self) -> str:
        return f"czsl:{self.name}@{self.root}"

    @property
    def metadata(self) -> Path:
        return self.folder / "metadata_compositional-split-natural.t7"

    def pair_list(self, split: str) -> Path:
        return self.folder / "compositional-split-natural" / f"{split}_pairs.txt"

    def add(self, attribute: str, thing: str, split: str, draw: bool = True, **others: str) -> Path:
        """An entry, and its image, of a colour of its own."""
        number = len(self.entries)
        image = IMAGES[self.name].format(attribute=attribute, thing=thing, number=number)
        self.entries.append({"image": image, "attr": attribute, "obj": thing, "set": split, **others})
        path = self.folder / "images" / image
        if draw:
            path.parent.mkdir(parents=True, exist_ok=True)
            Picture.new("RGB", (8, 8), (number, 40, 9)).save(path)
        return path

    def write(self, **how: bool) -> "CzslFolder":
        """The metadata anew."""
        torch.save(self.entries, self.metadata, **how)
        return self


def make_czsl(root: Path, name: str = "mit-states", per_pair: int = 2) -> CzslFolder:
    """A dataset with so many images of each pair of each split."""
    made = CzslFolder(name, root)
    for split, pairs in LISTS[name].items():
        made.pair_list(split).parent.mkdir(parents=True, exist_ok=True)
        made.pair_list(split).write_text("".join(f"{attribute} {thing}\n" for attribute, thing in pairs))
        for attribute, thing in pairs:
            for _ in range(per_pair):
                made.add(attribute, thing, split)
    return made.write()
