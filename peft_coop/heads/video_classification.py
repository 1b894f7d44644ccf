"""Videos into classes: a feature of each frame, one of the video, its cosine with every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..towers import computing_dtype, cosine_logits, find_family, image_features, normalize, scale_and_bias
from .base import Head
from .given_images import check_one_is_given, given_features
from .image_classification import answer_of, sizes
from .losses import LOSS_NAMES, classification_loss
from .outputs import VideoClassifierOutput

if TYPE_CHECKING:
    from transformers import VideoMAEConfig

EXAMPLE = """\
frames = [Image.open(f"frame_{index}.jpg").convert("RGB") for index in range(NUM_FRAMES)]  # of a video of yours
inputs = {"pixel_values": processor(frames, return_tensors="pt")["pixel_values"][None]}
"""


class FramesPrompt(Protocol):
    """What the head asks a prompt."""

    settings: Any

    def video_features(self, frames: Tensor) -> Tensor:
        """One feature `[B, P]` of each video, of those of its frames `[B, T, P]`; neither is normalised."""

    def scale(self, like: Tensor) -> Tensor | None:
        """The factor of the cosine, in the dtype of a tensor; None for products of features as they are."""


class VideoClassificationHead(Head):
    """The cosine of a video with each class, at the prompt's own scale; cross-entropy.

    Without adapters it is zero-shot: the mean of the frames' features, at the model's own scale.

    Shapes: B videos, T frames, C classes, P projection width.

    Reference: Prompting Visual-Language Models for Efficient Video Understanding (arXiv:2112.04478).
    """

    task_type = "VIDEO_CLS"
    pipeline_tag = "video-classification"
    beside_logits = ("video_embeds", "text_embeds", "loss_parts")

    def embed_images(
        self,
        model: nn.Module,
        pixel_values: Tensor | None,
        image_embeds: Tensor | None,
        prompts: Sequence[Tensor] = (),
        **of_images: Any,
    ) -> Tensor:
        """See `Head.embed_images`: of `pixel_values` `[B, T, 3, H, W]` or `image_embeds` `[B, T, P]`.

        Returns:
            `[B, T, P]`, the frames' projected features, not normalised.
        """
        check_one_is_given(pixel_values, image_embeds)
        if image_embeds is not None:
            return given_features(model, image_embeds, "frames")
        pixel_values = cast(Tensor, pixel_values)
        of_frame = ("patches", "pixels") if find_family(model).needs_image_inputs else ("3", "height", "width")
        if pixel_values.ndim != 2 + len(of_frame) or not pixel_values.shape[1]:
            expected = ", ".join(("batch", "frames", *of_frame))
            raise ValueError(f"`pixel_values` of videos must be ({expected}), got {tuple(pixel_values.shape)}.")
        size = pixel_values.shape[:2]
        of_frames = {
            name: each.flatten(0, 1) if isinstance(each, Tensor) and each.shape[:2] == size else each
            for name, each in of_images.items()
        }
        frames = image_features(model, pixel_values.flatten(0, 1), prompts, **of_frames).unflatten(0, size)
        return frames.to(computing_dtype(frames))

    def compare(
        self, model: nn.Module, prompt: FramesPrompt | None, images: Tensor, text_features: Tensor
    ) -> VideoClassifierOutput:
        """See `Head.compare`; `images` are the frames' features `[B, T, P]`."""
        scale: Tensor | None
        if prompt is None:
            videos, (scale, bias) = images.mean(1), scale_and_bias(model, images)
        else:
            videos, scale, bias = prompt.video_features(images), prompt.scale(images), None
        if scale is None:
            scale = images.new_ones(())
            videos, texts = (each.to(computing_dtype(images)) for each in (videos, text_features))
        else:
            videos, texts = normalize(videos), normalize(text_features)
        logits = cosine_logits(videos, texts, scale, bias)
        return VideoClassifierOutput(logits=logits, video_embeds=videos, text_embeds=texts)

    def add_loss(self, outputs: ModelOutput, labels: Any, num_items: Tensor | int | None, settings: Any) -> None:
        """See `Head.add_loss`: `labels` are `[B]`, integers from 0 to C-1."""
        outputs.loss = classification_loss(cast(Tensor, outputs.logits), labels, num_items, settings.loss_type)

    def loss_name(self, settings: Any) -> str:
        """See `Head.loss_name`."""
        return LOSS_NAMES[settings.loss_type]

    def input_shape(self, settings: Any, image: Sequence[int]) -> tuple[int, ...]:
        """See `Head.input_shape`: `[T, 3, H, W]`."""
        return (settings.num_frames, *image)

    def graph_config(self, settings: Any, image: Sequence[int], **fields: Any) -> VideoMAEConfig:
        """See `Head.graph_config`: logits `[B, C]` of frames `[B, T, 3, H, W]`, as VideoMAE gives them.

        Its `frame_sampling` says which frames: "linspace", those at the rounded `linspace(0, N - 1, T)` of N.
        """
        from transformers import VideoMAEConfig

        fields |= {"num_frames": settings.num_frames, "frame_sampling": "linspace"}
        return VideoMAEConfig(architectures=["VideoMAEForVideoClassification"], **sizes(image), **fields)

    def example(self, settings: Any) -> str:
        """See `Head.example`."""
        return EXAMPLE.replace("NUM_FRAMES", str(settings.num_frames)) + answer_of(settings)
