"""The few images of a draw: those that the original has kept, or those that it would draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .few_shot import MAX_VAL_SHOTS, few_shot_indices
from .images import undecoded
from .label_values import has_several_labels, label_values
from .original_pickles import Item
from .several_labels import several_few_shot_indices

if TYPE_CHECKING:
    from datasets import Dataset

    from .image_data import ImageData


def draw_indices(data: ImageData, num_shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Draw images of each class as the original does.

    Where the original has kept a draw beside the images, in `split_fewshot`, it is that one; otherwise it is
    `few_shot_indices`, which gives the same wherever the images are listed in the original's order. ImageNet's are only
    with its `preprocessed.pkl`: the original lists them as the file system does.

    Args:
        data: images to draw from.
        num_shots: training images per class, and validation images, of which there are 4 at most.
        seed: of the draw.

    Returns:
        Rows of the training and of the validation images.

    Raises:
        ValueError: if `num_shots` is not 1 or more, or a kept draw cannot be read or is of other images.
    """
    kept = data.original_lists.draw(num_shots, seed) if data.original_lists else None
    if kept is None:
        labels = label_values(data.train), label_values(data.val)
        if has_several_labels(data.train):
            return several_few_shot_indices(*labels, num_shots, seed, MAX_VAL_SHOTS)
        return few_shot_indices(*labels, num_shots, seed)
    train, val = (
        _rows(part, kept.get(split, []), data) for split, part in {"train": data.train, "val": data.val}.items()
    )
    return train, val


def _rows(part: Dataset, items: list[Item], data: ImageData) -> list[int]:
    """Where the images of a draw stand; those that were left out since they cannot be read are left out here, too."""
    if not items:
        return []
    rows = {image["path"]: row for row, image in enumerate(undecoded(part, "image")["image"])}
    labels = part["label"]
    found = [item for item in items if item.path not in data.skipped]
    for item in found:
        row = rows.get(item.path)
        if row is None or labels[row] != item.label:
            said = "no image of that split" if row is None else f"of class {labels[row]} there"
            raise ValueError(
                f"A draw kept in split_fewshot is of other images than {data.name} has: {item.path!r} of class "
                f"{item.label} is {said}. Remove that folder, or the file of this draw."
            )
    return [rows[item.path] for item in found]
