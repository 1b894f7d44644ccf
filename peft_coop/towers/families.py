"""Where each family of dual encoders keeps its parts, and how it reads a text: data, so that no forward has to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def exponential(model: nn.Module, like: Tensor) -> Tensor:
    """CLIP's factor of the cosine, `exp(logit_scale)`, in the dtype of `like`."""
    return model.logit_scale.to(like).exp()


@dataclass(frozen=True)
class Family:
    """Names of the parts of a dual encoder, as dotted paths from it, and how it reads and compares.

    Attributes:
        model_class: name of its class in transformers.
        embeddings: turns token ids into hidden states; holds the prompts of the adapters.
        token_embedding: the table of token embeddings, from `embeddings` down.
        text_parts: what a text passes through.
        image_parts: what an image passes through.
        shares_prefixes: whether the text tower is causal and its layers are CLIP's, so that prompts are encoded as a
            prefix tree; the others go through the model's own text forward.
        reads_at_end: whether the feature is read where EOS stands.
        reserved_positions: positions of the text tower that no token can have.
        pads_to_limit: whether texts are padded to all of the tower's positions; else to the longest one.
        takes_mask: whether the text tower is given an attention mask.
        image_inputs: what images have beside `pixel_values`.
        projection_dim: P, from the model's config.
        logit_scale: gives the factor of the cosine, in the dtype of a tensor.
        logit_bias: name of what is added to the logits; None for nothing.
    """

    model_class: str
    embeddings: str = "text_model.embeddings"
    token_embedding: str = "token_embedding"
    text_parts: tuple[str, ...] = ("text_model", "text_projection")
    image_parts: tuple[str, ...] = ("vision_model", "visual_projection")
    shares_prefixes: bool = True
    reads_at_end: bool = True
    reserved_positions: int = 0
    pads_to_limit: bool = False
    takes_mask: bool = False
    image_inputs: tuple[str, ...] = ()
    projection_dim: str = "projection_dim"
    logit_scale: Callable[[nn.Module, Tensor], Tensor] = exponential
    logit_bias: str | None = None


FAMILIES = {
    "clip": Family("CLIPModel"),
    "metaclip_2": Family("MetaClip2Model"),
}


def find_family(model: nn.Module) -> Family:
    """Look up the family of a dual encoder.

    Raises:
        ValueError: if the model is of another family, or is only one tower of a dual encoder.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    supported = ", ".join(f"{family.model_class} ({name!r})" for name, family in FAMILIES.items())
    got = f"{type(model).__name__} (model type {model_type!r})"
    family = FAMILIES.get(model_type or "")
    if family is None:
        raise ValueError(f"Prompts can be learned for {supported}; got {got}.")
    missing = [part for part in (*family.text_parts, *family.image_parts) if not hasattr(model, part)]
    if missing:
        raise ValueError(
            f"A prompt classifier needs a dual encoder with a text tower and a vision tower, and {got} has no "
            f"{', no '.join(f'`{part}`' for part in missing)}. Load the checkpoint as {family.model_class}."
        )
    return family


def token_embedding(model: nn.Module) -> nn.Embedding:
    """The table of token embeddings of a dual encoder, with prompts in it or without."""
    family = find_family(model)
    table = model.get_submodule(family.embeddings)
    for part in family.token_embedding.split("."):  # a layer that holds prompts hands on what it wraps
        table = getattr(table, part)
    return table


def text_limit(model: nn.Module) -> int:
    """How many tokens a text can have, with those around it."""
    return model.config.text_config.max_position_embeddings - find_family(model).reserved_positions


def projection_dim(model: nn.Module) -> int:
    """P, the width of projected features."""
    width = model.config
    for part in find_family(model).projection_dim.split("."):
        width = getattr(width, part)
    return width


def device_of(model: nn.Module) -> torch.device:
    """Where the text side is."""
    return token_embedding(model).weight.device
