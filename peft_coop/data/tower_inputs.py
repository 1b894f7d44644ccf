"""What the vision tower reads, batch by batch: images as they are, or augmented views of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from .augmentation import RandomView
from .images import ImageRows
from .preparation import prepare_inputs

if TYPE_CHECKING:
    from datasets import Dataset


class TowerInputs(torch.utils.data.Dataset):
    """Images made ready for the vision tower: row `i * V + k` is view k of image i, of V views.

    Args:
        dataset: with images.
        image_processor: the model's.
        image_column: the images' column.
        draw: gives a view of an image; None for images as `prepare_inputs` prepares them.
        views: V; 1 where nothing is drawn.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_processor: Any,
        image_column: str = "image",
        draw: RandomView | None = None,
        views: int = 1,
    ):
        self._images = ImageRows(dataset, image_column)
        self._image_processor = image_processor
        self._draw = draw
        self._views = views
        self._decoded: tuple[int, Picture] | None = None

    @property
    def image_of_row(self) -> np.ndarray:
        """The image of each row."""
        return np.arange(len(self._images)).repeat(self._views)

    def __len__(self) -> int:
        return len(self._images) * self._views

    def __getitem__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """What the tower takes of these rows, `pixel_values` `[B, 3, H, W]` and what else a processor gives."""
        drawn = [divmod(row, self._views) for row in rows]
        if self._draw is None:
            return prepare_inputs([self._images[index] for index, _ in drawn], self._image_processor)
        views = [self._draw(self._image(index), index, view) for index, view in drawn]
        return {"pixel_values": torch.stack(views)}

    def _image(self, index: int) -> Picture:
        """An image; the last one is at hand, for its other views."""
        if self._decoded is None or self._decoded[0] != index:
            self._decoded = index, self._images[index]
        return self._decoded[1]

    def batches(self, batch_size: int, num_workers: int) -> Iterator[dict[str, torch.Tensor]]:
        """All rows in order; nothing is read before the first batch is asked for.

        Args:
            batch_size: rows at once.
            num_workers: processes that read and cut images; 0: this one.
        """
        sampler = BatchSampler(SequentialSampler(self), batch_size, drop_last=False)
        own = torch.Generator()  # a loader draws a seed for its processes, and else takes it from everybody's numbers
        yield from DataLoader(self, batch_size=None, sampler=sampler, num_workers=num_workers, generator=own)
