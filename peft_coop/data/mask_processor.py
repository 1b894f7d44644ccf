"""The image processor for segmentation: transformers' own, with a CLIP's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .mask_augmentation import LONG_EDGE
from .masks import MaskRows, MaskValues
from .preparation import resampling_of

if TYPE_CHECKING:
    from datasets import Dataset


def mask_image_processor(image_processor: Any, size: int | dict[str, int]) -> Any:
    """The `SegformerImageProcessor` of transformers with a CLIP's normalisation: it takes masks, and reads out logits.

    It resizes with Pillow, also where torchvision is installed, so that the numbers are the same everywhere.
    `post_process_semantic_segmentation` gives a map of classes for each image, of its own size.

    Args:
        image_processor: the CLIP's.
        size: in pixels: of the shorter edge, the longer one being 2,048 at most; or "height" and "width", to which
            every image is squeezed or stretched, as transformers' pipeline needs it: multiples of the vision tower's
            patches.
    """
    from transformers import SegformerImageProcessorPil

    edges = {"shortest_edge": size, "longest_edge": LONG_EDGE} if isinstance(size, int) else dict(size)
    return SegformerImageProcessorPil(
        size=edges,
        resample=resampling_of(image_processor),
        do_rescale=image_processor.do_rescale,
        rescale_factor=image_processor.rescale_factor,
        do_normalize=image_processor.do_normalize,
        image_mean=list(image_processor.image_mean),
        image_std=list(image_processor.image_std),
        do_reduce_labels=False,
    )


class PreparedMasks(torch.utils.data.Dataset):
    """Images with masks to evaluate on within the Trainer, where all of them must have one size.

    An item has `pixel_values`, `[3, H, W]`, and `labels`, `[H, W]`. Squeezed to one size, they give other numbers than
    images read in their own ratio do; `peft_coop.evaluation.segmentation.pixel_scores` has those of the papers.

    Args:
        dataset: with columns `image` and `mask`.
        values: what the masks' values mean.
        processor: of `mask_image_processor`, with a height and a width.

    Raises:
        ValueError: if a column is missing or holds no images, or the processor has no such size; from indexing, if an
            image or a mask cannot be read.
    """

    def __init__(self, dataset: Dataset, values: MaskValues, processor: Any):
        if not {"height", "width"} <= {name for name, value in dict(processor.size).items() if value is not None}:
            raise ValueError(f"The processor must have a height and a width as its size, got {dict(processor.size)}.")
        self._rows = MaskRows(dataset, values)
        self._processor = processor

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image, labels = self._rows[index]
        inputs = self._processor([image], [labels], return_tensors="pt")
        return {name: each[0] for name, each in inputs.items()}
