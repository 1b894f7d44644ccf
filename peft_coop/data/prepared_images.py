"""Images as they are, made ready for the vision tower when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .images import ImageRows, check_columns
from .preparation import prepare_inputs

if TYPE_CHECKING:
    from datasets import Dataset


class PreparedImages(torch.utils.data.Dataset):
    """Images to train on where features cannot be computed once, since the vision tower is trained or prompted.

    Args:
        dataset: with images and integer labels.
        image_processor: the model's, see `prepare_inputs`.
        image_column: the images' column.
        label_column: the labels' column.

    Raises:
        ValueError: if a column is missing or holds no images; from indexing, if an image cannot be read.
    """

    def __init__(
        self, dataset: Dataset, image_processor: Any, image_column: str = "image", label_column: str = "label"
    ):
        check_columns(dataset, image_column, label_column)
        self._images = ImageRows(dataset, image_column)
        self._labels = dataset.with_format(None)[label_column][:]
        self._image_processor = image_processor

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs = prepare_inputs([self._images[index]], self._image_processor)
        return {**{name: value[0] for name, value in inputs.items()}, "labels": self._labels[index]}
