"""Images into classes: one feature of each image, its cosine with every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..towers import cosine_logits, normalize, scale_and_bias
from .base import Head
from .given_images import features_of
from .losses import LOSS_NAMES, classification_loss, several_labels_loss
from .outputs import PromptClassifierOutput

if TYPE_CHECKING:
    from transformers import ViTConfig

READ = """\
image = Image.open("image.jpg").convert("RGB")  # any picture of yours
inputs = processor(image, return_tensors="pt")
"""
BEST = """\
with torch.no_grad():
    logits = model(**inputs).logits
print(model.class_names[logits.argmax().item()])"""
SEVERAL = """\
probabilities = model.probabilities(**inputs)[0].tolist()
print([name for name, each in zip(model.class_names, probabilities) if each >= LEAST])"""
OR_OTHER = """\
probabilities = model.probabilities(**inputs)[0]
n_classes = len(model.class_names)
is_other = peft_coop.models.answers_other(probabilities, n_classes, model.decision["min_probability"])
print("other" if is_other else model.class_names[probabilities[:n_classes].argmax().item()])"""
LEAST = 0.5  # probability of a class of several, where the settings say nothing else


def sizes(image: Sequence[int]) -> dict[str, Any]:
    """How configs of vision towers say which images they take.

    Args:
        image: the shape of one, `[3, H, W]`.
    """
    channels, height, width = image
    return {"num_channels": channels, "image_size": height if height == width else [height, width]}


def answer_of(settings: Any) -> str:
    """The lines of a model card that print what `model` answers to `inputs`, as the adapter decides.

    Args:
        settings: the config of the adapter.
    """
    if settings.has_several_labels:
        least = LEAST if settings.min_probability is None else settings.min_probability
        return SEVERAL.replace("LEAST", repr(least))
    return BEST if settings.min_probability is None and settings.other_names is None else OR_OTHER


class ImageClassificationHead(Head):
    """CLIP's own: the cosine of an image with each class, times the model's scale; cross-entropy.

    Shapes: B images, C classes, P projection width.
    """

    task_type = "IMAGE_CLS"
    pipeline_tag = "image-classification"
    beside_logits = ("image_embeds", "text_embeds", "loss_parts")

    def embed_images(
        self,
        model: nn.Module,
        pixel_values: Tensor | None,
        image_embeds: Tensor | None,
        prompts: Sequence[Tensor] = (),
        **of_images: Any,
    ) -> Tensor:
        """See `Head.embed_images`: of `pixel_values` `[B, 3, H, W]` or `image_embeds` `[B, P]`.

        Returns:
            `[B, P]`, L2-normalised.
        """
        return normalize(features_of(model, pixel_values, image_embeds, prompts, **of_images))

    def compare(self, model: nn.Module, prompt: Any, images: Tensor, text_features: Tensor) -> PromptClassifierOutput:
        """See `Head.compare`."""
        text_embeds = normalize(text_features)
        learned = None if prompt is None else prompt.scale_and_bias
        scale, bias = scale_and_bias(model, images) if learned is None else (each.to(images) for each in learned)
        logits = cosine_logits(images, text_embeds, scale, bias)
        return PromptClassifierOutput(logits=logits, image_embeds=images, text_embeds=text_embeds)

    def add_loss(self, outputs: ModelOutput, labels: Any, num_items: Tensor | int | None, settings: Any) -> None:
        """See `Head.add_loss`: `labels` are `[B]`, integers from 0 to C-1; or `[B, C]` of 0 and 1."""
        logits = cast(Tensor, outputs.logits)
        if settings.has_several_labels:
            outputs.loss = several_labels_loss(logits, labels, num_items)
        else:
            outputs.loss = classification_loss(logits, labels, num_items, settings.loss_type)

    def graph_config(self, settings: Any, image: Sequence[int], **fields: Any) -> ViTConfig:
        """See `Head.graph_config`: logits `[B, C]` of pixels, as a ViT gives them."""
        from transformers import ViTConfig

        return ViTConfig(architectures=["ViTForImageClassification"], **sizes(image), **fields)

    def example(self, settings: Any) -> str:
        """See `Head.example`."""
        return READ + answer_of(settings)

    def loss_name(self, settings: Any) -> str:
        """See `Head.loss_name`."""
        return LOSS_NAMES["sigmoid" if settings.has_several_labels else settings.loss_type]

    def share_of_items(self, outputs: ModelOutput, labels: Any, num_items: Tensor | int | None) -> Tensor | float:
        """See `Head.share_of_items`; of rows of 0 and 1 the Trainer counts every entry."""
        share = super().share_of_items(outputs, labels, num_items)
        n_axes = labels.ndim if isinstance(labels, Tensor) else np.ndim(labels)
        return share * outputs.logits.shape[-1] if num_items is not None and n_axes == 2 else share
