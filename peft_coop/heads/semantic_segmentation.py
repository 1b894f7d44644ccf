"""Pixels into classes: a feature of each place of an image, its cosine with every class, and what is made of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..towers import PlaceFeatures, computing_dtype, features_of_places, open_places, scale_and_bias
from .base import Head
from .dense.pixel_losses import checked_labels, pixel_cross_entropy
from .dense.score_map import score_map
from .image_classification import sizes
from .outputs import PromptSegmenterOutput

if TYPE_CHECKING:
    from transformers import SegformerConfig

# What the Trainer leaves out where it counts labels.
NOT_COUNTED = -100
EXAMPLE = """\
image = Image.open("image.jpg").convert("RGB")  # any picture of yours
pixel_values = processor(image, do_center_crop=False, return_tensors="pt")["pixel_values"]
window = model.config.vision_config.image_size  # or the side of the images that it was trained on
logits = peft_coop.slide_inference(model, pixel_values, window, size=image.size[::-1])
classes = logits.argmax(1)[0]  # of every pixel
print([model.class_names[index] for index in classes.unique().tolist()])"""


@dataclass(frozen=True)
class GivenPixels:
    """Images as a call gives them: what is read of them is the prompt's choice.

    Attributes:
        pixel_values: `[B, 3, H, W]`.
        interpolate_pos_encoding: whether positions are resized where images are not of the tower's own size.
    """

    pixel_values: Tensor
    interpolate_pos_encoding: bool = True


class PlacesPrompt(Protocol):
    """What the head asks a prompt."""

    settings: Any

    def read(self, model: nn.Module, pixel_values: Tensor, interpolate_pos_encoding: bool) -> PlaceFeatures:
        """Images `[B, 3, H, W]` as the prompt reads them, place by place."""

    def segment(self, places: PlaceFeatures, text_features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[B, K, ., .]`, the score map `[B, K, h, w]` and the texts `[B, K, P]` that it was made with."""


class SemanticSegmentationHead(Head):
    """A class for every pixel.

    Without adapters it is zero-shot: the cosine of each place with each class at the model's own scale, one place for
    each patch. The loss is cross-entropy at the size of the labels, of the logits and, where these are made of a score
    map and not it, of the score map divided by the config's `tau`, which `aux_loss_weight` is the weight of.

    Shapes: B images, K classes, h and w places: one for each patch, P projection width.

    Reference: DenseCLIP (arXiv:2112.01518).
    """

    task_type = "SEMANTIC_SEG"
    pipeline_tag = "image-segmentation"
    beside_logits = ("loss_aux", "score_map", "text_embeds", "loss_parts")
    no_smoothing = (
        "The Trainer's `label_smoothing_factor` takes the last axis of logits for the classes, and of pixels they are "
        "(images, classes, height, width): leave it out. Where labels are to be smoothed, give the Trainer a "
        "`compute_loss_func` with `torch.nn.functional.cross_entropy(..., label_smoothing=…)` of logits in the labels' "
        "size."
    )

    def prepare(self, model: nn.Module) -> None:
        """See `Head.prepare`: the vision tower must have features of places."""
        open_places(model)

    def embed_images(
        self,
        model: nn.Module,
        pixel_values: Tensor | None,
        image_embeds: Tensor | None,
        prompts: Sequence[Tensor] = (),
        **of_images: Any,
    ) -> GivenPixels:
        """See `Head.embed_images`: `pixel_values` are `[B, 3, H, W]`, and nothing can be computed before.

        Raises:
            ValueError: if there are none, features are given, or something else that is not known.
        """
        if image_embeds is not None:
            raise ValueError(
                "`image_embeds` are a feature of a whole image, and its pixels are classified: give `pixel_values`."
            )
        if pixel_values is None:
            raise ValueError("`pixel_values` are missing: (images, 3, height, width).")
        unknown = sorted(of_images.keys() - {"interpolate_pos_encoding"})
        if unknown:
            raise ValueError(f"Images whose pixels are classified have no `{'`, no `'.join(unknown)}`.")
        return GivenPixels(pixel_values, **of_images)

    def compare(
        self, model: nn.Module, prompt: PlacesPrompt | None, images: GivenPixels, text_features: Tensor
    ) -> PromptSegmenterOutput:
        """See `Head.compare`."""
        pixels = (images.pixel_values, images.interpolate_pos_encoding)
        if prompt is not None:
            logits, scores, texts = prompt.segment(prompt.read(model, *pixels), text_features)
            return PromptSegmenterOutput(logits=logits, score_map=scores, text_embeds=texts)
        places = features_of_places(model, pixels[0], interpolate_pos_encoding=pixels[1]).places
        scores = score_map(places, text_features)
        scale, bias = scale_and_bias(model, scores)
        logits = scores * scale if bias is None else scores * scale + bias
        return PromptSegmenterOutput(
            logits=logits, score_map=scores, text_embeds=text_features.expand(places.shape[0], -1, -1)
        )

    def add_loss(self, outputs: ModelOutput, labels: Any, num_items: Tensor | int | None, settings: Any) -> None:
        """See `Head.add_loss`: `labels` are `[B, H, W]`, integers from 0 to K-1, or the config's `ignore_index`.

        The mean is over the pixels of this batch that have a label, and counts in an optimizer step of several batches
        by the share of pixels that the Trainer has counted: those with labels and without.
        """
        logits, scores = cast(Tensor, outputs.logits), cast(Tensor, outputs.score_map)
        labels, ignored = checked_labels(labels, logits, settings.ignore_index), settings.ignore_index
        share = self.share_of_items(outputs, labels, num_items)
        loss = pixel_cross_entropy(logits, labels, ignored)
        parts = {"cross_entropy": loss.detach()}
        outputs.loss_aux = None
        if has_own_head(outputs):
            outputs.loss_aux = pixel_cross_entropy(scores / settings.tau, labels, ignored)
            loss = loss + settings.aux_loss_weight * outputs.loss_aux
            parts["auxiliary"] = outputs.loss_aux.detach()
        outputs.loss, outputs.loss_parts = share * loss, parts

    def share_of_items(self, outputs: ModelOutput, labels: Any, num_items: Tensor | int | None) -> Tensor | float:
        """See `Head.share_of_items`: of the pixels, as the Trainer counts them.

        They are too many to be counted in half precision, which logits may have. Of a step without any it is 0.
        """
        if num_items is None or labels is None:
            return 1.0
        dtype = computing_dtype(cast(Tensor, outputs.logits))
        own, every = (
            torch.as_tensor(each).to(outputs.logits.device, dtype)
            for each in ((torch.as_tensor(labels) != NOT_COUNTED).sum(), num_items)
        )
        return own / every.clamp(min=1)

    def parts_beside(self, outputs: ModelOutput, settings: Any) -> tuple[str, ...]:
        """See `Head.parts_beside`."""
        return ("auxiliary",) if has_own_head(outputs) and settings.aux_loss_weight else ()

    def check_image_processor(self, image_processor: Any) -> None:
        """See `Head.check_image_processor`: it must not cut anything off, whose pixels would have no class."""
        if getattr(image_processor, "do_center_crop", False):
            raise ValueError(
                f"{type(image_processor).__name__} crops images, so that masks of what is left would be stretched over "
                "the whole: give one that resizes them to one size, `peft_coop.data.mask_image_processor(…, "
                '{"height": 640, "width": 640})`.'
            )

    def graph_config(self, settings: Any, image: Sequence[int], **fields: Any) -> SegformerConfig:
        """See `Head.graph_config`: logits `[B, K, h, w]` of pixels, to be enlarged, as SegFormer gives them."""
        from transformers import SegformerConfig

        fields |= {"semantic_loss_ignore_index": settings.ignore_index}
        return SegformerConfig(architectures=["SegformerForSemanticSegmentation"], **sizes(image), **fields)

    def example(self, settings: Any) -> str:
        """See `Head.example`."""
        return EXAMPLE


def has_own_head(outputs: ModelOutput) -> bool:
    """Whether logits are a head's, and not the score map itself."""
    return outputs.logits.shape != outputs.score_map.shape
