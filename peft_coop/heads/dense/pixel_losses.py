"""How far a map of logits is from a picture of labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import maybe_autocast

from ...towers import computing_dtype


def pixel_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Cross-entropy of logits, enlarged to the size of the labels, averaged over the pixels that have a label.

    In float32 or float64, also under autocast. Without any such pixel it is 0, and so are its gradients.

    Args:
        logits: `[B, K, h, w]`.
        labels: `[B, H, W]`, integers from 0 to K-1, or `ignore_index`.
        ignore_index: the label of pixels that do not count.

    Returns:
        A scalar.
    """
    with maybe_autocast(logits.device.type, enabled=False):
        logits = logits.to(computing_dtype(logits))
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        total = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
        return total / (labels != ignore_index).sum().clamp(min=1)


def checked_labels(labels: Tensor, logits: Tensor, ignore_index: int) -> Tensor:
    """Check labels of pixels, and return them as `torch.long` on the device of their logits.

    Args:
        labels: `[B, H, W]`.
        logits: `[B, K, h, w]`.
        ignore_index: the label of pixels that do not count.

    Raises:
        TypeError, ValueError: if they are not B pictures of integers from 0 to K-1 or `ignore_index`.
    """
    n_images, n_classes = logits.shape[:2]
    try:
        labels = torch.as_tensor(labels)  # lists and arrays, too
    except (TypeError, ValueError) as error:
        raise TypeError(f"`labels` must be integers of shape (images, height, width), got {labels!r}.") from error
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if labels.ndim != 3 or len(labels) != n_images or not whole:
        raise ValueError(
            f"`labels` must be integers of shape ({n_images}, height, width), one for every pixel, got {labels.dtype} "
            f"of shape {tuple(labels.shape)}."
        )
    labels = labels.to(logits.device).long()
    if not torch.compiler.is_compiling():
        wrong = (labels != ignore_index) & ((labels < 0) | (labels >= n_classes))
        if wrong.any():
            raise ValueError(
                f"`labels` must lie between 0 and {n_classes - 1} ({n_classes} classes), or be {ignore_index} where a "
                f"pixel does not count (`ignore_index`); got {labels[wrong].unique().tolist()}."
            )
    return labels
