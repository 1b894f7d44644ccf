"""The papers' training pictures at the price of features: augmented views, computed once, another one each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from ..towers import is_vision_frozen
from .epochs import EpochDataset
from .features import unwrapped, with_image_embeds

if TYPE_CHECKING:
    from datasets import Dataset

# Tells the draws of orders from those of views, which begin with the same seed.
OF_ORDERS = 1


class ViewOrder:
    """Which view of each image belongs to an epoch.

    An image has all its views before it has one again. They first come in the order in which they were drawn, so that
    with a view for every epoch a training is that on `AugmentedImages`; then in an order of its own for each image and
    each time.

    Args:
        num_images: how many images there are.
        views: V, of each.
        seed: of the orders.
    """

    def __init__(self, num_images: int, views: int, seed: int):
        self.num_images, self.views, self.seed = num_images, views, seed
        self._cycle = -1
        self._order = np.empty((0, 0), dtype=np.int64)  # [N, V], of this cycle

    def __call__(self, epoch: int) -> np.ndarray:
        """Numbers of views from 0 to V - 1, `[N]`, for the N images; the same whoever asks, and in which order."""
        cycle, place = divmod(epoch, self.views)
        if cycle != self._cycle:
            self._cycle, self._order = cycle, self._draw(cycle)
        return self._order[:, place]

    def _draw(self, cycle: int) -> np.ndarray:
        as_drawn = np.tile(np.arange(self.views), (self.num_images, 1))
        if cycle == 0:
            return as_drawn
        return np.random.default_rng([self.seed, cycle, 0, OF_ORDERS]).permuted(as_drawn, axis=1)


class AugmentedFeatures(EpochDataset):
    """Image features to train on, of another augmented view of each image in every epoch.

    The views are those that `AugmentedImages` draws with the same seed in its first epochs. Their features are computed
    once and kept on disk (`with_image_embeds`), so that an epoch costs what one on fixed features does. Only for what
    leaves the vision tower as it is.

    The Trainer wants `AugmentationCallback` beside it, and a loop of one's own calls `set_epoch` before every epoch. It
    is the same with any number of workers and processes.

    Args:
        dataset: with images and integer labels.
        model: a dual encoder, wrapped by PEFT or not; its vision tower is used as it is, on its device.
        image_processor: the model's; gives the size, the rescaling and the normalisation.
        views: of each image.
        seed: of the views, and of the order in which they come again.
        flip: mirror half of the views. Not for images that mean something else mirrored, such as digits.
        batch_size: views that go through the tower at once.
        num_workers: processes that read and cut images; 0: this one.
        image_column: the images' column.
        label_column: the labels' column.

    Raises:
        ValueError: if a column is missing or holds no images, an image cannot be read, `views` is below 1, or an
            adapter in the model trains the vision tower.

    Reference: the augmentation is that of CoOp (arXiv:2109.01134), section 4.1.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: nn.Module,
        image_processor: Any,
        views: int,
        seed: int,
        flip: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        image_column: str = "image",
        label_column: str = "label",
    ):
        super().__init__()
        check_vision_stays(model)
        rows = with_image_embeds(
            dataset, model, image_processor, batch_size, image_column, label_column, views, seed, flip, num_workers
        )
        self.views = views
        self._labels = dataset.with_format(None)[label_column][:]
        self._order = ViewOrder(len(self._labels), views, seed)
        dtype = getattr(torch, rows.features["image_embeds"].feature.dtype)
        self._rows = rows.with_format("torch", columns=["image_embeds"], dtype=dtype)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """`image_embeds`, `[P]`, and `labels` of some images in the present epoch; a data loader asks for a batch."""
        order, numbers = self.view_numbers(self.epoch), range(len(self))
        chosen = [numbers[index] for index in indices]
        self._count(len(chosen))
        embeds = self._rows[[index * self.views + int(order[index]) for index in chosen]]["image_embeds"]
        return [{"image_embeds": row, "labels": self._labels[index]} for index, row in zip(chosen, embeds, strict=True)]

    def view_numbers(self, epoch: int) -> np.ndarray:
        """Which view of each of the N images belongs to an epoch, `[N]`."""
        return self._order(epoch)

    def all_views(self) -> Tensor:
        """Features of all V views, `[N, V, P]`, not normalised, in memory."""
        return self._rows[:]["image_embeds"].unflatten(0, (len(self), self.views))


def check_vision_stays(model: nn.Module) -> None:
    """Refuse features computed once, where training changes what they are computed with.

    Raises:
        ValueError: if the model is wrapped by PEFT, and a weight of its vision side is trained.
    """
    if isinstance(model, PeftModel) and not is_vision_frozen(unwrapped(model)):
        raise ValueError(
            "An adapter trains the vision tower, so that features of views that were computed before would not be its "
            "own: use `AugmentedImages`, whose pixels go through the tower in every epoch, or freeze it."
        )
