"""What a prompt classifier returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import ModelOutput


@dataclass
class PromptClassifierOutput(ModelOutput):
    """Output of a prompt classifier.

    Shapes: B images, C classes, P projection width.

    Attributes:
        loss: scalar, mean cross-entropy over the batch and, in training, the method's further terms; only with
            `labels`.
        logits: `[B, C]`, `exp(logit_scale)` times the cosine similarity, in float32 (float64 where the model is).
        image_embeds: `[B, P]`, L2-normalised.
        text_embeds: `[C, P]`, or `[B, C, P]` when the context depends on the image, or each image has its own adapter;
            L2-normalised.
        loss_parts: in training, the loss's terms by name, before weighting, and what the method reports beside them;
            detached scalars.
        class_names: the classes that the columns of `logits` and the rows of `text_embeds` are, where a call or a
            training step (`num_contrast`) has chosen them; None where they are the adapter's own, in their order.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
    class_names: list[str] | None = None


@dataclass
class VideoClassifierOutput(ModelOutput):
    """Output of a classifier of videos.

    Shapes: B videos, C classes, P projection width.

    Attributes:
        loss: scalar, mean cross-entropy over the batch; only with `labels`.
        logits: `[B, C]`, the cosine similarity divided by the temperature, in float32 (float64 where the model is).
        video_embeds: `[B, P]`, L2-normalised unless the prompt compares features as they are.
        text_embeds: `[C, P]`, likewise.
        loss_parts: see `PromptClassifierOutput`.
        class_names: likewise.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
    class_names: list[str] | None = None


@dataclass
class PromptSegmenterOutput(SemanticSegmenterOutput):
    """Output of a classifier of pixels.

    Shapes: B images of H x W pixels, K classes, h and w places: one for each patch, P projection width.

    Attributes:
        loss: scalar, cross-entropy over the pixels with a label, and the weighted `loss_aux`; only with `labels`.
        logits: `[B, K, 4h, 4w]`, with patches of 16 pixels `[B, K, H/4, W/4]`; `[B, K, h, w]` without a head behind
            the score map, and while adapters are disabled.
        loss_aux: scalar, cross-entropy of the score map divided by `tau`, not weighted; None where the logits are made
            of the score map alone.
        score_map: `[B, K, h, w]`, cosines of places and classes.
        text_embeds: `[B, K, P]`, what the places were compared with, not normalised: of each class in each image.
        loss_parts: see `PromptClassifierOutput`.
        class_names: likewise.
    """

    loss_aux: Tensor | None = None
    score_map: Tensor | None = None
    text_embeds: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
    class_names: list[str] | None = None
