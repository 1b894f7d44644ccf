"""The loss of a classifier: cross-entropy, and what a method adds to it in training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods import LossTerm, Prompt
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
    try:
        labels = torch.as_tensor(labels)  # lists and arrays, too
    except (TypeError, ValueError) as error:
        raise TypeError(f"`labels` must be {len(logits)} integers, one per image, got {labels!r}.") from error
    if labels.shape != logits.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"`labels` must be {len(logits)} integers, one per image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    labels = labels.to(logits.device).long()
    # One look at the values, since each makes the processor wait for a GPU.
    if not torch.compiler.is_compiling() and ((labels < 0) | (labels >= n_cls)).any():
        wrong = sorted({label for label in labels.tolist() if not 0 <= label < n_cls})
        raise ValueError(f"`labels` must lie between 0 and {n_cls - 1} ({n_cls} classes), got {wrong}.")
    if loss_type == "sigmoid":
        total = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, n_cls).to(logits), reduction="sum")
        num_items = len(logits) if num_items is None else num_items
    elif num_items is None:
        return F.cross_entropy(logits, labels)
    else:
        total = F.cross_entropy(logits, labels, reduction="sum")
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)


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


def with_terms(
    loss: Tensor | None, name: str, terms: Mapping[str, LossTerm], share: Tensor | float
) -> tuple[Tensor | None, dict[str, Tensor] | None]:
    """Add a method's terms to the classification's loss.

    Args:
        loss: scalar, as it is returned; None where it is computed outside the model.
        name: what it is called among the parts.
        terms: by name.
        share: of the batch in what the loss is averaged over; below 1 where gradients are accumulated.

    Returns:
        The whole loss, and its parts by name: detached, before weighting, averaged over the batch. None for none.

    Raises:
        TypeError, ValueError: if a term is none, is no scalar, or has the name of the classification's loss.
    """
    for each, term in terms.items():
        check_term(each, term, name)
    parts = {each: term.value.detach() for each, term in terms.items()}
    if loss is None:
        own_loss = [] if name == LOSS_NAMES["softmax"] else [name]  # what is computed outside is cross-entropy
        warn_of_a_loss_outside([*own_loss, *(each for each, term in terms.items() if term.weight)])
        return None, parts or None
    parts = {name: loss.detach() / share} | parts
    for term in terms.values():
        if term.weight:
            loss = loss + share * term.weight * term.value
    return loss, parts


def check_term(name: str, term: LossTerm, taken: str) -> None:
    """Check what a method's `extra_losses` has given.

    Args:
        name: of the term.
        term: the term.
        taken: the name of the classification's own loss.

    Raises:
        TypeError, ValueError: see `with_terms`.
    """
    if not isinstance(term, LossTerm):
        raise TypeError(f"`extra_losses` must give a `LossTerm` by name, got {type(term).__name__} for {name!r}.")
    if term.value.ndim:
        raise ValueError(f"The term {name!r} of the loss must be a scalar, got shape {tuple(term.value.shape)}.")
    if name == taken:
        raise ValueError(f"A term of the loss cannot be called {name!r}: the classification's own loss is.")


def warn_of_a_loss_outside(names: Sequence[str]) -> None:
    """Warn that terms of the loss are missing where the model is trained without labels."""
    if names:
        warnings.warn(
            f"The model is trained without `labels`, and a loss that is computed outside it lacks the method's own "
            f"{', '.join(names)}: give it `labels`. The Trainer keeps them to itself with `label_smoothing_factor` or "
            "`compute_loss_func`.",
            stacklevel=2,
        )


def share_of_items(logits: Tensor, num_items: Tensor | int | None) -> Tensor | float:
    """The share of a batch in the images of an optimizer step; 1 where nobody said how many these are.

    Args:
        logits: `[B, C]`, whose precision and device the share has.
        num_items: images of the step.
    """
    if num_items is None:
        return 1.0
    return len(logits) / (num_items.to(logits) if isinstance(num_items, Tensor) else num_items)


def warn_of_evaluation_mode(prompt: Prompt) -> None:
    """Warn if a loss that can be trained lacks what its method adds in training mode."""
    if type(prompt).extra_losses is not Prompt.extra_losses and not torch.compiler.is_compiling():
        warnings.warn(
            f"In evaluation mode the loss lacks what {prompt.settings.method} adds in training: call "
            "`model.train()` before the loop, or compute what is not trained on under `torch.no_grad()`.",
            stacklevel=2,
        )
