"""Two towers that were loaded separately, as one dual encoder of their family's own class."""

from __future__ import annotations

import math

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

# The model types of a text and a vision tower, and the class of the dual encoder that has both.
JOINED = {
    ("clip_text_model", "clip_vision_model"): "CLIPModel",
    ("metaclip_2_text_model", "metaclip_2_vision_model"): "MetaClip2Model",
    ("siglip_text_model", "siglip_vision_model"): "SiglipModel",
    ("siglip2_text_model", "siglip2_vision_model"): "Siglip2Model",
}


def join_towers(
    text_tower: PreTrainedModel,
    vision_tower: PreTrainedModel,
    *,
    logit_scale: float,
    logit_bias: float | None = None,
) -> PreTrainedModel:
    """Make one dual encoder of two towers, such as `CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection`.

    It holds the towers' own modules, no copies of them. What towers alone do not have must be given, since each guess
    would be wrong without a word: OpenAI's CLIPs have a scale of 100, a new `CLIPModel` starts at 14.3.

    Args:
        text_tower: with its projection, from one of the families in `JOINED`.
        vision_tower: of the same family, with its projection.
        logit_scale: the factor of the cosine itself, not its logarithm.
        logit_bias: what SigLIP adds to its logits; None for CLIP.

    Returns:
        A `CLIPModel`, `SiglipModel` or the like, in evaluation mode; its name or path is the text tower's.

    Raises:
        ValueError: if the towers are not of one family, have no projection or projections of two widths, the scale is
            not above 0, or a bias is missing or given where there is none.
    """
    model_class = _class_of(text_tower, vision_tower)
    _check_projections(text_tower, vision_tower)
    config = model_class.config_class(text_config=text_tower.config, vision_config=vision_tower.config)
    config._name_or_path = text_tower.config._name_or_path  # where the tokenizer is
    if hasattr(text_tower.config, "projection_dim"):
        config.projection_dim = text_tower.config.projection_dim
    with torch.device("meta"):  # no memory for weights that are put aside at once
        model = model_class(config)
    parts = {text_tower: ("text_model", "text_projection"), vision_tower: ("vision_model", "visual_projection")}
    for tower, names in parts.items():
        for name in names:
            if hasattr(model, name):  # SigLIP's towers hold their projection
                setattr(model, name, getattr(tower, name, tower))
    _set_scale(model, text_tower, logit_scale, logit_bias)
    return model.eval()


def _class_of(text_tower: PreTrainedModel, vision_tower: PreTrainedModel) -> type[PreTrainedModel]:
    types = text_tower.config.model_type, vision_tower.config.model_type
    if types not in JOINED:
        pairs = "; ".join(f"{text} with {vision}" for text, vision in JOINED)
        raise ValueError(
            f"These towers cannot be joined: {type(text_tower).__name__} ({types[0]!r}) and "
            f"{type(vision_tower).__name__} ({types[1]!r}). Accepted are, in this order: {pairs}."
        )
    return getattr(transformers, JOINED[types])


def _check_projections(text_tower: PreTrainedModel, vision_tower: PreTrainedModel) -> None:
    if hasattr(text_tower.config, "projection_size"):
        widths = text_tower.config.projection_size, vision_tower.config.hidden_size
    else:
        for tower, name in ((text_tower, "text_projection"), (vision_tower, "visual_projection")):
            if not hasattr(tower, name):
                kind = type(tower).__name__
                raise ValueError(f"{kind} has no `{name}`: load the checkpoint as {kind}WithProjection.")
        widths = text_tower.config.projection_dim, vision_tower.config.projection_dim
    if widths[0] != widths[1]:
        raise ValueError(f"The towers' features differ in width: {widths[0]} of texts and {widths[1]} of images.")


def _set_scale(model: PreTrainedModel, like: PreTrainedModel, logit_scale: float, logit_bias: float | None) -> None:
    if not 0 < logit_scale < math.inf:
        raise ValueError(f"`logit_scale` must be above 0 and finite, got {logit_scale}.")
    has_bias = hasattr(model, "logit_bias")
    if has_bias != (logit_bias is not None):
        need = "needs `logit_bias`" if has_bias else f"has no `logit_bias`, got {logit_bias}"
        raise ValueError(f"{type(model).__name__} {need}.")
    values = {"logit_scale": math.log(logit_scale)} | ({"logit_bias": logit_bias} if logit_bias is not None else {})
    for name, value in values.items():
        full = torch.full_like(getattr(model, name), value, device=like.device, dtype=like.dtype)
        setattr(model, name, nn.Parameter(full))
