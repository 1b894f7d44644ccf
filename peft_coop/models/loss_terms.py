"""What a method adds to the loss of its task in training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..heads import LOSS_NAMES
from ..methods import LossTerm, Prompt


def with_terms(
    loss: Tensor | None, name: str, terms: Mapping[str, LossTerm], share: Tensor | float, beside: Sequence[str] = ()
) -> tuple[Tensor | None, dict[str, Tensor] | None]:
    """Add a method's terms to the classification's loss.

    Args:
        loss: scalar, as it is returned; None where it is computed outside the model.
        name: what it is called among the parts.
        terms: by name.
        share: of the batch in what the loss is averaged over; below 1 where gradients are accumulated.
        beside: further parts that the loss has of itself, see `Head.parts_beside`.

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
        warn_of_a_loss_outside([*own_loss, *beside, *(each for each, term in terms.items() if term.weight)])
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


def warn_of_smoothing(no_smoothing: str) -> None:
    """Say what the Trainer will fail at in its own words, where it has kept the labels of a step to itself.

    Args:
        no_smoothing: see `Head`; empty for nothing.
    """
    if no_smoothing and not torch.compiler.is_compiling():
        warnings.warn(no_smoothing, stacklevel=2)


def warn_of_evaluation_mode(prompt: Prompt) -> None:
    """Warn if a loss that can be trained lacks what its method adds in training mode."""
    if type(prompt).extra_losses is not Prompt.extra_losses and not torch.compiler.is_compiling():
        warnings.warn(
            f"In evaluation mode the loss lacks what {prompt.settings.method} adds in training: call "
            "`model.train()` before the loop, or compute what is not trained on under `torch.no_grad()`.",
            stacklevel=2,
        )
