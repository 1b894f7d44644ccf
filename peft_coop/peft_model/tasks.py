"""The `PeftModel` of each task, which `get_peft_model` and `PeftModel.from_pretrained` return."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.utils import ModelOutput

from ..heads import PromptClassifierOutput
from .adapters import PeftModelWithPrompts
from .sliding_window import slide_inference


class PeftModelForImageClassification(PeftModelWithPrompts):
    """A dual encoder with learned prompts, as an image classifier.

    What forward takes and returns is documented at `PromptClassifierMixin`, the class of the model inside; the
    classifier's other methods (`set_classes`, `class_names`, `get_text_features`, …) are reached from here as well.
    """

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        image_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> PromptClassifierOutput | CLIPOutput:
        """Classify images into the active adapter's classes.

        Shapes: B images, C classes, N given texts, P projection width.

        Args:
            pixel_values: `[B, 3, H, W]`.
            labels: `[B]`, integers from 0 to C-1; where an image has any number of classes `[B, C]`, 1 and 0.
            image_embeds: `[B, P]`, instead of `pixel_values`; normalised or not.
            input_ids: `[N, L]`: compare the images with these texts, the learned context put into them.
            attention_mask: `[N, L]`, accepted with `input_ids`.
            **kwargs: as `PromptClassifierMixin.forward`.

        Returns:
            A `PromptClassifierOutput` with `logits` `[B, C]`; with `input_ids` a `CLIPOutput`.
        """
        given = {"pixel_values": pixel_values, "labels": labels, "image_embeds": image_embeds}
        given |= {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        return super().forward(**given)


class PeftModelForVideoClassification(PeftModelWithPrompts):
    """A dual encoder with learned prompts, as a classifier of videos; see `PeftModelForImageClassification`."""

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        image_embeds: Tensor | None = None,
        class_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """Classify videos into the active adapter's classes.

        Shapes: B videos, T frames, C classes, P projection width.

        Args:
            pixel_values: `[B, T, 3, H, W]`.
            labels: `[B]`, integers from 0 to C-1.
            image_embeds: `[B, T, P]`, instead of `pixel_values`: what `get_image_features` gives for the frames.
            class_ids: `[S]`, the classes that this call is about, each once; all of them by default. `labels` stay
                numbers of all classes, and logits are `[B, S]`, in this order.
            **kwargs: as `PromptClassifierMixin.forward`.

        Returns:
            A `VideoClassifierOutput` with `logits` `[B, C]`.
        """
        given = {"pixel_values": pixel_values, "labels": labels, "image_embeds": image_embeds, "class_ids": class_ids}
        return super().forward(**given, **kwargs)


class PeftModelForSemanticSegmentation(PeftModelWithPrompts):
    """A dual encoder with learned prompts that says of each pixel what it shows.

    See `PeftModelForImageClassification`.
    """

    def forward(self, pixel_values: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any) -> ModelOutput:
        """Classify the pixels of images into the active adapter's classes.

        Shapes: B images, C classes.

        Args:
            pixel_values: `[B, 3, H, W]`.
            labels: `[B, H, W]`, integers from 0 to C-1, or the config's `ignore_index`.
            **kwargs: as `PromptClassifierMixin.forward`.

        Returns:
            A `PromptSegmenterOutput` with `logits` of every class at a coarser grid than the pixels.
        """
        return super().forward(pixel_values=pixel_values, labels=labels, **kwargs)

    def slide_inference(
        self,
        pixel_values: Tensor,
        window: int,
        stride: int | None = None,
        flip: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Logits of every pixel of images of any size, see `peft_coop.slide_inference`."""
        return slide_inference(self, pixel_values, window, stride, flip, size)
