"""Pixels that baselines learn from: of each training image as the processor prepares it, or of random parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data import AugmentedImages, PreparedImages
from ..frozen_clip import FrozenCLIP

if TYPE_CHECKING:
    from datasets import Dataset

# Bytes of prepared images that are kept from one epoch to the next: 1,780 of 224 x 224 pixels.
KEPT_BYTES = 2**30


def training_pixels(
    clip: FrozenCLIP, images: Dataset, seed: int, augment: bool = False, flip: bool = True
) -> Callable[[Tensor, int], dict[str, Tensor]]:
    """What gives the vision tower's inputs, on its device, of the images at some indices `[B]` in an epoch.

    Args:
        clip: the pretrained model, with its image processor.
        images: columns `image` and `label`.
        seed: of the random parts.
        augment: random crops, others in every epoch; False: the images as they are.
        flip: whether the crops are mirrored.
    """
    processor = clip.processor.image_processor
    if not augment:
        kept = _KeptImages(images, processor)
        return lambda indices, epoch: _on_device(kept.batch(indices.tolist()), clip)
    augmented = AugmentedImages(images, processor, seed, flip=flip)

    def draw(indices: Tensor, epoch: int) -> dict[str, Tensor]:
        augmented.set_epoch(epoch)
        views = [augmented[index]["pixel_values"] for index in indices.tolist()]
        return _on_device({"pixel_values": torch.stack(views)}, clip)

    return draw


def _on_device(inputs: dict[str, Tensor], clip: FrozenCLIP) -> dict[str, Tensor]:
    return {name: each.to(clip.device) for name, each in inputs.items()}


class _KeptImages:
    """Images as the processor prepares them, each once, as far as there is room to keep them.

    Args:
        images: columns `image` and `label`.
        processor: the model's image processor.
    """

    def __init__(self, images: Dataset, processor: Any):
        self._prepared = PreparedImages(images, processor)
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._room = KEPT_BYTES

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        """The inputs of some images, stacked."""
        every = [self._inputs(index) for index in indices]
        return {name: torch.stack([each[name] for each in every]) for name in every[0]}

    def _inputs(self, index: int) -> dict[str, Tensor]:
        if index in self._kept:
            return self._kept[index]
        inputs = {name: value for name, value in self._prepared[index].items() if name != "labels"}
        size = sum(each.nbytes for each in inputs.values())
        if size <= self._room:
            self._kept[index] = inputs
            self._room -= size
        return inputs
