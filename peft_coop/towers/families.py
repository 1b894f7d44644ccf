"""Where each family of dual encoders keeps its parts, and how it reads a text: data, so that no forward has to look."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn


def exponential(model: nn.Module, like: Tensor) -> Tensor:
    """CLIP's factor of the cosine, `exp(logit_scale)`, in the dtype of `like`."""
    return model.logit_scale.to(like).exp()


def clamped_exponential(model: nn.Module, like: Tensor) -> Tensor:
    """AIMv2's: the same, between 1 and `max_logit_scale`."""
    return model.logit_scale.to(like).clamp(0, math.log(model.config.max_logit_scale)).exp()


def inverse_temperature(model: nn.Module, like: Tensor) -> Tensor:
    """ALIGN's: `1 / temperature`."""
    return 1 / model.temperature.to(like)


@dataclass(frozen=True)
class Family:
    """Names of the parts of a dual encoder, as dotted paths from it, and how it reads and compares.

    Attributes:
        model_class: name of its class in transformers.
        embeddings: turns token ids into hidden states; holds the prompts of the adapters.
        token_embedding: the table of token embeddings, from `embeddings` down.
        text_parts: what a text passes through.
        image_parts: what an image passes through.
        text_layers: where the list of the text tower's layers is: the first of these that is there.
        vision_layers: likewise, of a vision tower that can read prompts: a ViT without a mask over its tokens.
        vision_embeddings: gives the vision tower's tokens, with their positions and without any norm behind them.
        vision_kinds: model types of the vision towers that can read prompts, where a family takes any; None: its own.
        no_vision_prompts: why its vision tower cannot read prompts; None where it can.
        place_features: the norm and the projection that make the pooled token's state a feature, and likewise every
            other token's: of a ViT with CLIP's parts. None where there are none.
        place_kinds: model types of the vision towers that have these, where a family takes any; None: its own.
        no_place_features: why the places of an image have no features; None where they have.
        shares_prefixes: whether the text tower is causal and its layers are CLIP's, so that prompts are encoded as a
            prefix tree; the others go through the model's own text forward.
        reads_at_end: whether the feature is read where EOS stands.
        pads_to_limit: whether texts are padded to all of the tower's positions; else to the longest one.
        mask: what the own text forward is given: None, "padding" for where a text stands, "causal" for what stands
            before each token, where padding alone would leave it to the attention in use.
        image_inputs: what `get_image_features` takes beside `pixel_values`.
        needs_image_inputs: whether it needs all of that.
        projection_dim: P, in the model's config.
        logit_scale: gives the factor of the cosine, in the dtype of a tensor.
        logit_bias: name of what is added to the logits; None for nothing. With one, pairs are judged by a sigmoid.
        label_smoothing: of the loss that compares given texts and images.
    """

    model_class: str
    embeddings: str = "text_model.embeddings"
    token_embedding: str = "token_embedding"
    text_parts: tuple[str, ...] = ("text_model", "text_projection")
    image_parts: tuple[str, ...] = ("vision_model", "visual_projection")
    text_layers: tuple[str, ...] = ("text_model.encoder.layers", "text_model.encoder.layer")
    vision_layers: tuple[str, ...] = ("vision_model.encoder.layers",)
    vision_embeddings: str = "vision_model.embeddings"
    vision_kinds: tuple[str, ...] | None = None
    no_vision_prompts: str | None = None
    place_features: tuple[str, str] | None = None
    place_kinds: tuple[str, ...] | None = None
    no_place_features: str | None = None
    shares_prefixes: bool = False
    reads_at_end: bool = False
    pads_to_limit: bool = False
    mask: str | None = None
    image_inputs: tuple[str, ...] = ("interpolate_pos_encoding",)
    needs_image_inputs: bool = False
    projection_dim: str = "projection_dim"
    logit_scale: Callable[[nn.Module, Tensor], Tensor] = exponential
    logit_bias: str | None = None
    label_smoothing: float = 0.0


# How families are alike.
CLIP_VIT: dict[str, Any] = {"place_features": ("vision_model.post_layernorm", "visual_projection")}
TREE: dict[str, Any] = {"shares_prefixes": True, "reads_at_end": True}
CAUSAL: dict[str, Any] = {"reads_at_end": True, "mask": "causal"}
BERT: dict[str, Any] = {"token_embedding": "word_embeddings", "mask": "padding"}
SIGLIP: dict[str, Any] = {
    "text_parts": ("text_model",),
    "image_parts": ("vision_model",),
    "pads_to_limit": True,
    "projection_dim": "text_config.projection_size",
    "logit_bias": "logit_bias",
    "no_place_features": "its feature of an image is made by a layer of attention over all tokens",
}
NAFLEX: dict[str, Any] = {
    "image_inputs": ("pixel_attention_mask", "spatial_shapes"),
    "needs_image_inputs": True,
    "no_vision_prompts": "its images have a mask over their patches, in which prompts have no place",
}

FAMILIES: dict[str, Family] = {
    "clip": Family("CLIPModel", **TREE, **CLIP_VIT),
    "metaclip_2": Family("MetaClip2Model", **TREE, **CLIP_VIT),
    "clipseg": Family("CLIPSegModel", **TREE, **CLIP_VIT),
    "owlvit": Family("OwlViTModel", **TREE, **CLIP_VIT),
    "owlv2": Family("Owlv2Model", **TREE, **CLIP_VIT),
    "groupvit": Family(
        "GroupViTModel",
        **CAUSAL,
        image_inputs=(),
        no_vision_prompts="it merges an image's tokens into groups between its layers, and is no plain ViT",
        no_place_features="it merges an image's tokens into groups between its layers",
    ),
    "aimv2": Family(
        "Aimv2Model",
        **CAUSAL,
        logit_scale=clamped_exponential,
        no_place_features="its feature of an image is made by a layer of attention over all tokens",
    ),
    "siglip": Family("SiglipModel", **SIGLIP),
    "siglip2": Family("Siglip2Model", **SIGLIP, **NAFLEX),
    "chinese_clip": Family("ChineseCLIPModel", **BERT, **CLIP_VIT),
    "altclip": Family(
        "AltCLIPModel",
        **BERT,
        **CLIP_VIT,
        embeddings="text_model.roberta.embeddings",
        text_layers=("text_model.roberta.encoder.layers", "text_model.roberta.encoder.layer"),
    ),
    "align": Family(
        "AlignModel",
        **BERT,
        image_parts=("vision_model",),
        image_inputs=(),
        logit_scale=inverse_temperature,
        label_smoothing=0.1,
        no_vision_prompts="it is an EfficientNet, which has no tokens",
        no_place_features="it is an EfficientNet, which has no tokens",
    ),
    "vision-text-dual-encoder": Family(
        "VisionTextDualEncoderModel",
        **BERT,
        **CLIP_VIT,
        place_kinds=("clip_vision_model",),
        image_inputs=(),
        vision_layers=("vision_model.encoder.layers", "vision_model.layers", "vision_model.encoder.layer"),
        vision_kinds=("vit", "deit", "dinov2", "clip_vision_model"),
    ),
    "tipsv2": Family(
        "Tipsv2Model",
        text_parts=("text_model",),
        image_parts=("vision_model",),
        mask="padding",
        image_inputs=(),
        vision_layers=("vision_model.encoder.layer", "vision_model.encoder.layers"),
        projection_dim="text_config.hidden_size",
        logit_scale=inverse_temperature,
        no_place_features="its tokens are not projected, and several of them are no places of the image",
    ),
}

# Models with images and texts that are no such dual encoders, by class or model type.
REASONS = {
    "XCLIPModel": "its images are videos, and each of them changes the texts",
    "VideoPrismClipModel": "its images are videos",
    "ClapModel": "it compares texts with sounds",
    "ClvpModelForConditionalGeneration": "it compares texts with speech",
    "BlipModel": "transformers has deprecated it, and no published checkpoint has weights for its projections",
    "BlipForImageTextRetrieval": "it has no scale of logits",
    "Blip2Model": "its Q-Former gives many features for an image",
    "Blip2ForImageTextRetrieval": "its Q-Former gives many features for an image",
    "BridgeTowerForContrastiveLearning": "its texts are read together with an image",
    "Sam3Model": "its texts tell a detector what to find",
    "FlavaModel": "its own forward gives no logits of images and texts",
    "FlavaForPreTraining": "its own forward is a pretraining's",
    "CLIPSegForImageSegmentation": "its CLIP is a part of it: give `model.clip`",
    "OwlViTForObjectDetection": "its dual encoder is a part of it: give `model.owlvit`",
    "Owlv2ForObjectDetection": "its dual encoder is a part of it: give `model.owlv2`",
}


def find_family(model: nn.Module) -> Family:
    """Look up the family of a dual encoder.

    Raises:
        ValueError: if the model is of no known family, or is only a part of a dual encoder, or more than one.
    """
    family = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", None) or "")
    if family is None or all(each.__name__ != family.model_class for each in type(model).__mro__):
        raise ValueError(refusal(model))
    return family


def refusal(model: nn.Module) -> str:
    """Why prompts cannot be learned for a model, and for which they can."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    names = {type(model).__name__, *(each.__name__ for each in type(model).__mro__)}
    reason = next((REASONS[name] for name in REASONS if name in names), None)
    if reason is None and model_type in FAMILIES:
        reason = f"load the checkpoint as {FAMILIES[model_type].model_class}, which has both towers"
    elif (reason is None and "text" in str(model_type)) or "vision" in str(model_type):
        reason = "it is one tower: load the dual encoder, or put two towers together with `peft_coop.join_towers`"
    supported = ", ".join(f"{family.model_class} ({name})" for name, family in FAMILIES.items())
    got = f"{type(model).__name__} (model type {model_type!r})"
    return (
        f"Prompts can be learned for dual encoders with a text tower and a vision tower; got {got}"
        f"{f': {reason}' if reason else ''}. Supported are {supported}."
    )


def token_embedding(model: nn.Module) -> nn.Embedding:
    """The table of token embeddings of a dual encoder, with prompts in it or without.

    Raises:
        ValueError: if the model is of no known family, or its text tower is not as the family's are.
    """
    family = find_family(model)
    try:
        table = model.get_submodule(family.embeddings)
        for part in family.token_embedding.split("."):  # a layer that holds prompts hands on what it wraps
            table = getattr(table, part)
    except AttributeError as error:
        tower = type(model.get_submodule(family.text_parts[0])).__name__
        raise ValueError(
            f"Prompts cannot be learned for a {type(model).__name__} with the text tower {tower}, which has no "
            f"`{family.embeddings}.{family.token_embedding}`: accepted are text towers with these embeddings, such as "
            "BERT's and RoBERTa's."
        ) from error
    return table


def text_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of a dual encoder's text tower.

    Raises:
        ValueError: if the model is of no known family, or its text tower has none.
    """
    family = find_family(model)
    layers = _first_list(model, family.text_layers)
    if layers is None:
        tower = type(model.get_submodule(family.text_parts[0])).__name__
        raise ValueError(f"The text tower {tower} has no layers at {' or '.join(family.text_layers)}.")
    return layers


def vision_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of a dual encoder's vision tower, before which prompts can stand.

    Raises:
        ValueError: if the model is of no known family, or its vision tower cannot read prompts.
    """
    family = find_family(model)
    tower, kind = type(model.get_submodule(family.image_parts[0])).__name__, model.config.vision_config.model_type
    reason = family.no_vision_prompts
    if reason is None and family.vision_kinds is not None and kind not in family.vision_kinds:
        reason = f"accepted beside other families' own are vision towers of the types {', '.join(family.vision_kinds)}"
    layers = _first_list(model, family.vision_layers)
    if reason is None and layers is None:
        reason = f"it has no layers at {' or '.join(family.vision_layers)}"
    if reason is not None:
        raise ValueError(f"The vision tower {tower} of {type(model).__name__} cannot read prompts: {reason}.")
    return cast(nn.ModuleList, layers)


def norm_and_projection(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The norm and the projection by which every place of an image has a feature in the space of the texts.

    Raises:
        ValueError: if the model is of no known family, or its vision tower has none.
    """
    family = find_family(model)
    tower, kind = type(model.get_submodule(family.image_parts[0])).__name__, model.config.vision_config.model_type
    reason = family.no_place_features
    if reason is None and family.place_kinds is not None and kind not in family.place_kinds:
        reason = f"accepted are vision towers of the types {', '.join(family.place_kinds)}"
    if reason is not None or family.place_features is None:
        able = ", ".join(each.model_class for each in FAMILIES.values() if each.place_features is not None)
        raise ValueError(
            f"The vision tower {tower} of {type(model).__name__} has no features for the places of an image: {reason}. "
            f"Those of {able} have."
        )
    norm, projection = (model.get_submodule(path) for path in family.place_features)
    return norm, projection


def _first_list(model: nn.Module, paths: tuple[str, ...]) -> nn.ModuleList | None:
    """The first list of modules that is at one of some dotted paths."""
    for path in paths:
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return found
    return None


def text_limit(model: nn.Module) -> int:
    """How many tokens a text can have, with those around it."""
    embeddings = model.get_submodule(find_family(model).embeddings)
    # RoBERTa counts positions from the padding's id on.
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return model.config.text_config.max_position_embeddings - (0 if padding is None else padding + 1)


def projection_dim(model: nn.Module) -> int:
    """P, the width of projected features."""
    width = model.config
    for part in find_family(model).projection_dim.split("."):
        width = getattr(width, part)
    return width


def device_of(model: nn.Module) -> torch.device:
    """Where the text side is."""
    return token_embedding(model).weight.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """Of the text side's weights."""
    return token_embedding(model).weight.dtype
