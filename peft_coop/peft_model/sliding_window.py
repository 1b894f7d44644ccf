"""Pixels of images of any size: a window of the size that was trained on moves over them."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import SemanticSegmentationHead
from ..models import prompt_in_use
from ..towers import patch_size

STRIDE = 2 / 3  # of a window


@torch.no_grad()
def slide_inference(
    model: nn.Module,
    pixel_values: Tensor,
    window: int,
    stride: int | None = None,
    flip: bool = False,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Logits of every pixel, the mean of those of all windows that it is in.

    The last window of a row or column ends where the image does. Where an image is smaller than the window, the window
    is as large as the image, filled up with 0 to whole patches at the right and below; what was filled up is taken away
    again. The paper's stride is two thirds of the window.

    Shapes: B images, K classes.

    Args:
        model: with an adapter for segmentation, in evaluation mode.
        pixel_values: `[B, 3, H, W]`, as the image processor gives them; any height and width.
        window: side of the windows in pixels, a multiple of the patches'; as large as the images of training.
        stride: pixels from a window to the next; None: two thirds of the window.
        flip: read every image and its mirror image, and average the probabilities of both.
        size: height and width that the logits are enlarged to; None: H and W.

    Returns:
        `[B, K, *size]`; with `flip` the logarithm of the averaged probabilities. Averaged over several scales of an
        image, take the softmax of each.

    Raises:
        TypeError: if the model has no adapters.
        ValueError: if the adapter is for another task, the model is in training, or a number does not fit.

    Reference: DenseCLIP (arXiv:2112.01518), evaluated by mmsegmentation's "slide".
    """
    stride = max(1, int(window * STRIDE)) if stride is None else stride
    check_call(model, pixel_values, window, stride)
    wanted = tuple(pixel_values.shape[-2:]) if size is None else size
    logits = F.interpolate(over_windows(model, pixel_values, window, stride), wanted, mode="bilinear")
    if not flip:
        return logits
    mirrored = over_windows(model, pixel_values.flip(-1), window, stride).flip(-1)
    mirrored = F.interpolate(mirrored, wanted, mode="bilinear")
    return ((logits.softmax(1) + mirrored.softmax(1)) / 2).log()


def over_windows(model: nn.Module, pixel_values: Tensor, window: int, stride: int) -> Tensor:
    """Logits `[B, K, H, W]` of images `[B, 3, H, W]`, averaged over windows."""
    height, width = pixel_values.shape[-2:]
    side = patch_size(model)
    sizes = [min(window, whole_patches(length, side)) for length in (height, width)]
    missing = [max(0, size - length) for size, length in zip(sizes, (height, width), strict=True)]
    filled = F.pad(pixel_values, (0, missing[1], 0, missing[0]))
    total, counts = torch.zeros(()), filled.new_zeros(1, 1, *filled.shape[-2:])
    corners = [starts(length, size, stride) for length, size in zip(filled.shape[-2:], sizes, strict=True)]
    for top, left in product(*corners):
        part = (..., slice(top, top + sizes[0]), slice(left, left + sizes[1]))
        logits = F.interpolate(model(pixel_values=filled[part]).logits, sizes, mode="bilinear")
        if not total.ndim:
            total = logits.new_zeros(*logits.shape[:2], *filled.shape[-2:])
        total[part] += logits
        counts[part] += 1
    return (total / counts.to(total))[..., :height, :width]


def whole_patches(length: int, side: int) -> int:
    """The least multiple of a patch's side that is not below a length, two patches at least."""
    return max(2, -(-length // side)) * side


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis; the last one ends where the axis does."""
    return [*range(0, length - window, stride), length - window]


def check_call(model: nn.Module, pixel_values: Tensor, window: int, stride: int) -> None:
    """Check what `slide_inference` is given.

    Raises:
        TypeError, ValueError: see there.
    """
    layer, name = prompt_in_use(model)
    if not isinstance(layer.prompt.task_head, SemanticSegmentationHead):
        raise ValueError(f"Adapter {name!r} classifies no pixels: its task is {layer.prompt.task_head.task_type}.")
    if model.training:
        raise ValueError("`slide_inference` is for evaluation: call `model.eval()` first.")
    if pixel_values.ndim != 4:
        raise ValueError(f"`pixel_values` must be (images, 3, height, width), got {tuple(pixel_values.shape)}.")
    side = patch_size(model)
    if isinstance(window, bool) or not isinstance(window, int) or window < 2 * side or window % side:
        raise ValueError(
            f"`window` must be a multiple of the patches' {side} pixels, {2 * side} or more; got {window!r}."
        )
    if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride <= window:
        raise ValueError(f"`stride` must be from 1 to the window's {window} pixels, got {stride!r}.")
