"""The image processor for segmentation: transformers' own, with a CLIP's settings."""

from __future__ import annotations

from typing import Any

from .mask_augmentation import LONG_EDGE
from .preparation import resampling_of


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
