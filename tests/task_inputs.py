"""Images and labels as the tests draw them, in the form that a method's task has them."""

import torch
from torch import Tensor

from peft_coop.methods import METHODS

FRAMES = 2  # as `method_kinds.SMALL` has it
IGNORED = 255  # where a pixel has no label


def task_of(method: str) -> str:
    return METHODS[method].prompt.task_head.task_type


def as_given(method: str, images: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is given of each image, `[B, ...]`: a video is one that stands still, `[B, T, ...]`."""
    if task_of(method) != "VIDEO_CLS":
        return images
    return {name: torch.stack([each] * FRAMES, 1) for name, each in images.items()}


def labels_as_given(method: str, labels: Tensor, images: dict[str, Tensor]) -> Tensor:
    """Labels `[B]` of whole images; those of pixels are `[B, H, W]`, all but the last row of an image its own."""
    if task_of(method) != "SEMANTIC_SEG":
        return labels
    pixels = labels[:, None, None].repeat(1, *images["pixel_values"].shape[-2:])
    pixels[:, -1] = IGNORED
    return pixels
