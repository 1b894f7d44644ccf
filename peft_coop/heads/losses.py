"""The losses that heads share: of logits against labels, and of images against texts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..towers import Family

# What `loss_parts` call the loss of each type.
LOSS_NAMES = {"softmax": "cross_entropy", "sigmoid": "sigmoid"}


def classification_loss(
    logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None, loss_type: str = "softmax"
) -> Tensor:
    """The loss of `[B, C]` logits, averaged over the batch or divided by `num_items`.

    Args:
        logits: `[B, C]`.
        labels: `[B]`.
        num_items: images of the whole optimizer step; None: B.
        loss_type: "softmax" for cross-entropy; "sigmoid" for the sum over the classes of the binary cross-entropy of
            each, as SigLIP (arXiv:2303.15343) has it over texts.

    Raises:
        ValueError: if `labels` are not B integers from 0 to C-1.
    """
    n_cls = logits.shape[-1]
    labels = class_labels(labels, n_cls, len(logits)).to(logits.device)
    if loss_type == "sigmoid":
        total = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, n_cls).to(logits), reduction="sum")
        num_items = len(logits) if num_items is None else num_items
    elif num_items is None:
        return F.cross_entropy(logits, labels)
    else:
        total = F.cross_entropy(logits, labels, reduction="sum")
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)


def class_labels(labels: Any, n_cls: int, n_images: int | None = None) -> Tensor:
    """Check the labels of images that have one class each, and return them as `torch.long`.

    Args:
        labels: `[B]`, integers from 0 to C-1; also a list or an array.
        n_cls: C.
        n_images: B; None: any number.

    Raises:
        TypeError, ValueError: if they are none.
    """
    expected = "integers" if n_images is None else f"{n_images} integers"
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`labels` must be {expected}, one per image, got {labels!r}.") from error
    has_shape = labels.ndim == 1 and n_images in (None, len(labels))
    if not has_shape or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"`labels` must be {expected}, one per image, got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    labels = labels.long()
    # One look at the values, since each makes the processor wait for a GPU.
    if not torch.compiler.is_compiling() and ((labels < 0) | (labels >= n_cls)).any():
        wrong = sorted({label for label in labels.tolist() if not 0 <= label < n_cls})
        raise ValueError(f"`labels` must lie between 0 and {n_cls - 1} ({n_cls} classes), got {wrong}.")
    return labels


def several_labels_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """The loss of `[B, C]` logits where an image has any number of classes.

    The sum over the classes of the binary cross-entropy of each, averaged over the batch, as SigLIP
    (arXiv:2303.15343) has it over texts.

    Args:
        logits: `[B, C]`.
        labels: `[B, C]`, 1 for each class that an image has and 0 for the others; numbers or bool.
        num_items: entries of the labels of the whole optimizer step, as the Trainer counts them: C for each image;
            None: those of this batch.

    Raises:
        TypeError, ValueError: if `labels` are no such rows.
    """
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`labels` must be rows of 0 and 1, a column for each class, got {labels!r}.") from error
    if labels.shape != logits.shape:
        raise ValueError(
            f"`labels` must be {tuple(logits.shape)}, a row of 0 and 1 for each image, since an image may have several "
            f"of the {logits.shape[-1]} classes; got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    labels = labels.to(logits.device)
    if not torch.compiler.is_compiling() and ((labels != 0) & (labels != 1)).any():
        wrong = labels[(labels != 0) & (labels != 1)][0].item()
        raise ValueError(f"`labels` must be 0 or 1 for each class, got {wrong}.")
    total = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
    if num_items is None:
        return total / len(logits)
    return total * logits.shape[-1] / (num_items.to(total) if isinstance(num_items, Tensor) else num_items)


def contrastive_loss(logits_per_image: Tensor, family: Family) -> Tensor:
    """The loss of `[B, B]` logits of images against texts, where each image has the text of its own index.

    Args:
        logits_per_image: `[B, B]`.
        family: whether each pair is judged for itself, as by SigLIP (arXiv:2303.15343), or against the others, as by
            CLIP (arXiv:2103.00020).
    """
    pairs = torch.arange(len(logits_per_image), device=logits_per_image.device)
    if family.logit_bias is not None:
        return classification_loss(logits_per_image, pairs, loss_type="sigmoid")
    smoothing = family.label_smoothing
    of_images = F.cross_entropy(logits_per_image, pairs, label_smoothing=smoothing)
    return (of_images + F.cross_entropy(logits_per_image.t(), pairs, label_smoothing=smoothing)) / 2
