"""Paths with pairs, and the data that are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .composition_data import CompositionData, Pair
from .summary import LeftOut

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "val", "test")


@dataclass
class CompositionList:
    """Paths and pairs of "train", "val" and "test", no image read yet.

    Attributes:
        pairs: that a split lists, by its name.
        images: of a split, by its name, each a path and its pair.
        missing: images that are not there.
        left_out: what else is not taken, by the reason.
        notes: what was understood that may not be meant.
    """

    pairs: dict[str, list[Pair]]
    images: dict[str, list[tuple[str, Pair]]]
    missing: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def words(self) -> tuple[list[str], list[str]]:
        """All attributes and all objects of the listed pairs, sorted."""
        pairs = {pair for one in self.pairs.values() for pair in one}
        return sorted({attribute for attribute, _ in pairs}), sorted({thing for _, thing in pairs})


def make_data(name: str, listed: CompositionList) -> CompositionData:
    """The data of a list; images are read when they are asked for."""
    attributes, objects = listed.words()
    train, val, test = _datasets(listed, attributes, objects)
    return CompositionData(
        name,
        attributes,
        objects,
        train_pairs=listed.pairs["train"],
        val_pairs=listed.pairs["val"],
        test_pairs=listed.pairs["test"],
        train=train,
        val=val,
        test=test,
        skipped=tuple(listed.missing),
        left_out=tuple(listed.left_out),
        notes=tuple(listed.notes),
    )


def _datasets(listed: CompositionList, attributes: list[str], objects: list[str]) -> Iterator[Dataset]:
    from datasets import ClassLabel, Dataset, Features, Image

    words = {"attribute": ClassLabel(names=attributes), "object": ClassLabel(names=objects)}
    features = Features({"image": Image(), **words})
    attribute_ids, object_ids = ({word: index for index, word in enumerate(words)} for words in (attributes, objects))
    for split in SPLITS:
        images = listed.images[split]
        columns = {
            "image": [path for path, _ in images],
            "attribute": [attribute_ids[attribute] for _, (attribute, _) in images],
            "object": [object_ids[thing] for _, (_, thing) in images],
        }
        yield Dataset.from_dict(columns, features=features, split=split)
