"""Videos classified one by one: what transformers' video pipeline needs to serve a prompt, and a function for loops."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import VideoClassificationPipeline
from transformers.modeling_outputs import ImageClassifierOutput

from .data.frame_sampling import spread_frames
from .data.preparation import prepare_inputs
from .data.videos import num_frames_of, read_video
from .models import OTHER, decided_logits


def read_clip(path: str | os.PathLike, image_processor: Any, num_frames: int) -> Tensor:
    """Frames that are spread over a whole video, made ready for the vision tower: the same always.

    A file is decoded twice, once to count its frames, so that none of them must be kept.

    Args:
        path: a video file, or a folder of frames.
        image_processor: the model's.
        num_frames: T; a video with fewer has its last one repeated.

    Returns:
        `pixel_values`, `[1, T, 3, H, W]`.

    Raises:
        ValueError: if the video cannot be read; names it.
    """
    stored: dict[str, Any] = {"path": os.path.abspath(path), "frames": []}
    chosen = spread_frames(num_frames_of(stored), num_frames)
    wanted = set(chosen.tolist())
    pictures = {number: frame for number, frame in enumerate(read_video(stored)) if number in wanted}
    inputs = prepare_inputs([pictures[number] for number in chosen.tolist()], image_processor)
    return inputs["pixel_values"][None]


@torch.no_grad()
def classify_video(model: nn.Module, image_processor: Any, path: str | os.PathLike) -> dict[str, float]:
    """Probabilities of a video's classes, by their names, the highest first: at the temperature of the adapter.

    Where the adapter has names of what is none of the classes, there is an entry "other", too.

    Args:
        model: with a learned video prompt.
        image_processor: the model's.
        path: a video file, or a folder of frames.

    Raises:
        ValueError: if the model's prompt reads no videos, or the video cannot be read.
    """
    length = clip_length(model)
    if length is None:
        raise ValueError(f"`model` must have a prompt that reads videos, got {type(model).__name__}.")
    pixel_values = read_clip(path, image_processor, length).to(next(model.parameters()).device)
    return by_name(model, model.probabilities(pixel_values=pixel_values)[0])


def by_name(model: nn.Module, scores: Tensor) -> dict[str, float]:
    """Scores of a model's classes, `[C]`, or `[C + 1]` with "other" last, by name, the highest first."""
    rows = zip([*model.class_names, OTHER][: len(scores)], scores.tolist(), strict=True)
    return dict(sorted(rows, key=lambda row: row[1], reverse=True))


def clip_length(model: nn.Module) -> int | None:
    """Frames of the clips that a model's prompt reads; None where it reads no videos."""
    layer = getattr(model, "prompt_layer", None)
    return None if layer is None else getattr(layer.prompt.settings, "num_frames", None)


class PromptVideoClassificationPipeline(VideoClassificationPipeline):
    """transformers' video classification pipeline, for video prompts and all other models.

    transformers' own takes the first frames of a video. A prompt is given as many frames as it was learned with, spread
    over the whole video; also from a folder of frames. Probabilities are those that it decides by, as
    `PromptImageClassificationPipeline` has them.
    """

    def preprocess(self, video: str, num_frames: int | None = None, frame_sampling_rate: int | None = None) -> Any:
        """See transformers' own; `video` is a file or a folder.

        Raises:
            ValueError: if it is an address, or cannot be read; if another number of frames is asked for than the prompt
                was learned with.
        """
        length = clip_length(self.model)
        if length is None:
            return super().preprocess(video, num_frames, 1 if frame_sampling_rate is None else frame_sampling_rate)
        if frame_sampling_rate is not None:
            raise ValueError(
                f"The prompt reads {length} frames that are spread over a video; `frame_sampling_rate` is for other "
                f"models, got {frame_sampling_rate}."
            )
        if "://" in str(video):
            raise ValueError(f"A video must be a file or a folder of frames of this machine, got {video!r}.")
        pixel_values = read_clip(video, self.image_processor, length if num_frames is None else num_frames)
        return {"pixel_values": pixel_values.to(self.dtype)}

    def _forward(self, model_inputs: Any) -> Any:
        if clip_length(self.model) is None:
            return super()._forward(model_inputs)
        others = self.model.decision["other_names"]
        if others:
            model_inputs = {**model_inputs, "class_names": [*self.model.class_names, *others]}
        return ImageClassifierOutput(logits=super()._forward(model_inputs).logits)

    def postprocess(self, model_outputs: Any, top_k: int = 5, function_to_apply: str | None = None) -> Any:
        """See transformers' own; "none" gives the logits of the classes as forward has them."""
        decision = {} if clip_length(self.model) is None else self.model.decision
        if all(value is None for value in decision.values()):
            return super().postprocess(model_outputs, top_k, function_to_apply)
        n_cls, logits = len(self.model.class_names), model_outputs["logits"]
        temperature = None if function_to_apply == "none" else decision["calibration_temperature"]
        if function_to_apply in (None, "softmax"):
            scores = decided_logits(logits, n_cls, temperature).softmax(-1)
        else:
            scores = decided_logits(logits[:, :n_cls], n_cls, temperature)
            scores = scores.sigmoid() if function_to_apply == "sigmoid" else scores
        rows = [{"score": score, "label": name} for name, score in by_name(self.model, scores[0]).items()]
        return rows[:top_k]
