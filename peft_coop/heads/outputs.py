"""What a prompt classifier returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
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
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None


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
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
