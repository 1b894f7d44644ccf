"""Where images with masks come from: one argument for folders and the demo's task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..demo import load_scene_task
from .class_lists import ClassList, find_class_file, read_class_list
from .images import leave_out_unreadable
from .mask_data import MaskData
from .mask_folders import read_mask_folder
from .masks import MaskRows, MaskValues

if TYPE_CHECKING:
    from datasets import Dataset

TEST_SHARE = 0.2


def load_masks(
    source: str,
    seed: int = 1,
    skip_corrupt: bool = False,
    classes: str | os.PathLike | None = None,
    reduce_labels: bool | None = None,
) -> MaskData:
    """Load images with masks.

    Where there is a test split, a validation split is for validation; without one it is the test. Where there is
    neither, a fifth of the images is. What was read, left out and understood is in the result's `summary`; docs/data.md
    has the rules.

    Args:
        source: one of

            - `demo:scenes`, drawn scenes of several shapes;
            - `masks:PATH`, with `images/training` and `annotations/training` (ADE20K's), `train/images` and
              `train/masks`, or only `images` and `masks`, and a file with the names of the classes.
        seed: of the draw of test images, where there is no other split.
        skip_corrupt: read every image and mask now, and leave out those that cannot be read or do not fit, with a
            warning that counts them.
        classes: the file with the names of the classes, see `read_class_list`; None: the one in the folder.
        reduce_labels: whether 0 is no class in the masks, and the classes count from 1; None: as the file of the
            classes says, and not where it does not.

    Raises:
        ValueError: if the source is of no such kind, does not exist, has no image with a mask, may be understood in
            more than one way, or its classes are not named.
    """
    kind, _, place = source.partition(":")
    if kind == "demo":
        task = load_scene_task(place)
        values = MaskValues(len(task.class_names), task.reduce_labels)
        parts = {"train": task.train, "val": task.test.select([]), "test": task.test}
        data = MaskData(task.name, task.class_names, values, **parts, zero_shot_template=task.zero_shot_template)
    elif kind == "masks" and place:
        data = _of_folder(source, place, seed, skip_corrupt, classes, reduce_labels)
    else:
        raise ValueError(f"Images with masks are one of demo:scenes and masks:PATH, got {source!r}.")
    if not skip_corrupt:
        return data
    rows_of = partial(MaskRows, values=data.values)
    (train, val, test), skipped = leave_out_unreadable([data.train, data.val, data.test], rows_of)
    return replace(data, train=train, val=val, test=test, skipped=tuple(skipped))


def _of_folder(
    source: str,
    place: str,
    seed: int,
    skip_corrupt: bool,
    classes: str | os.PathLike | None,
    reduce_labels: bool | None,
) -> MaskData:
    place = os.path.expanduser(place)
    if not os.path.isdir(place):
        raise ValueError(f"There is no folder {place!r} (from {source!r}).")
    try:
        listed = read_class_list(find_class_file(Path(place)) if classes is None else Path(classes))
        reading = read_mask_folder(Path(place), keep_unreadable=skip_corrupt)
        reduced, notes = _reduces(listed, reduce_labels)
    except ValueError as error:
        raise ValueError(f"{source!r} cannot be read: {error}") from error
    notes += reading.notes
    parts = {split: _dataset(pairs, split) for split, pairs in reading.splits.items()}
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
        notes.append("no test images: those of the validation are the test")
    if "test" not in parts:
        parts["train"], parts["test"] = _halves(source, parts["train"], seed)
        notes.append(f"no test images: a fifth was drawn for the test (seed {seed})")
    nothing = parts["test"].select([])
    train, val, test = (parts.get(split, nothing) for split in ("train", "validation", "test"))
    values = MaskValues(len(listed.names), reduced, listed.colours)
    name = os.path.basename(os.path.abspath(place))
    left_out = tuple(reading.left_out)
    return MaskData(name, listed.names, values, train, val, test, left_out=left_out, notes=tuple(notes))


def _reduces(listed: ClassList, asked: bool | None) -> tuple[bool, list[str]]:
    """Whether 0 is no class, and what there is to tell of that.

    Raises:
        ValueError: if the file of the classes says otherwise.
    """
    if listed.first_value is not None:
        said = listed.first_value == 1
        if asked not in (None, said):
            raise ValueError(
                f"the file of the classes counts them from {listed.first_value}, and reduced labels would have them "
                f"from {1 - listed.first_value}: leave out `reduce_labels` (--reduce-labels)."
            )
        return said, []
    if asked is None and not listed.colours:
        return False, ["the value 0 in a mask is taken for the first class (--reduce-labels: for no class)"]
    return bool(asked), []


def _dataset(pairs: Sequence[tuple[str, str]], split: str) -> Dataset:
    from datasets import Dataset, Features, Image

    columns = {"image": [image for image, _ in pairs], "mask": [mask for _, mask in pairs]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "mask": Image()}), split=split)


def _halves(source: str, images: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Images to train on, and a fifth to test on, both in their order.

    Raises:
        ValueError: if there is only one.
    """
    if len(images) < 2:
        raise ValueError(f"{source!r} has a single image, and no test split: there must be two or more.")
    drawn = np.random.default_rng(seed).permutation(len(images))
    count = max(1, round(TEST_SHARE * len(images)))
    return images.select(sorted(drawn[count:])), images.select(sorted(drawn[:count]))
