"""How well what was exported answers: what gives logits of pixels, whatever runs it, on the data of its task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from ..data.images import ImageRows
from ..data.preparation import prepare_images, prepare_inputs
from ..data.video_clips import clip_to_test
from ..data.videos import VideoRows
from ..progress import stage
from .video_classification import NUM_CLIPS

if TYPE_CHECKING:
    from datasets import Dataset

# Gives logits, a first axis of B and then the classes, of `pixel_values`, float32 and on the CPU, and of what else the
# image processor gives, by its names.
Run = Callable[..., np.ndarray]
BATCH_SIZE = 32


def image_accuracy(run: Run, images: Dataset, image_processor: Any, batch_size: int | None = None) -> float:
    """The share of images whose class has the highest logit.

    Args:
        run: gives logits `[B, C]` of `pixel_values` `[B, 3, H, W]`.
        images: with columns `image` and `label`.
        image_processor: the model's.
        batch_size: images at once; None: 32.
    """
    rows, labels, right, at_once = ImageRows(images), images["label"], 0, batch_size or BATCH_SIZE
    with stage("classifying", len(rows), "image") as progress:
        for start in range(0, len(rows), at_once):
            indices = range(start, min(start + at_once, len(rows)))
            best = run(**prepare_inputs([rows[index] for index in indices], image_processor)).argmax(-1)
            right += sum(int(found) == labels[index] for found, index in zip(best, indices, strict=True))
            progress.update(len(indices))
    return right / len(rows)


def video_accuracy(
    run: Run, videos: Dataset, image_processor: Any, clip_length: int, num_clips: int = NUM_CLIPS
) -> float:
    """The share of videos whose class is the likeliest over several clips, those that `VideoPromptClassifier` draws.

    Args:
        run: gives logits `[B, C]` of `pixel_values` `[B, T, 3, H, W]`.
        videos: with columns `video` and `label`.
        image_processor: the model's.
        clip_length: T.
        num_clips: of each video; their probabilities are averaged.
    """
    rows, labels, right = VideoRows(videos), videos["label"], 0
    with stage("classifying", len(rows), "video") as progress:
        for row in range(len(rows)):
            frames = prepare_images(list(rows.frames(row)), image_processor)
            clips = torch.stack([clip_to_test(frames, clip_length, number, row) for number in range(num_clips)])
            probabilities = torch.from_numpy(run(clips)).double().softmax(-1).mean(0)
            right += int(probabilities.argmax()) == labels[row]
            progress.update()
    return right / len(rows)


class RunSegmenter(nn.Module):
    """What a `Segmenter` asks of a model, answered by something that takes images of one size only.

    Args:
        run: gives logits `[B, K, h, w]` of `pixel_values` `[B, 3, S, S]`.
        model: the dual encoder that it was made of.
        side: S, in pixels.
    """

    def __init__(self, run: Run, model: nn.Module, side: int):
        super().__init__()
        self.run, self.model, self.side = run, model, side
        self.config = model.config

    def forward(self, pixel_values: Tensor) -> SemanticSegmenterOutput:
        """Logits `[B, K, h, w]` of images that are S wide and high, or less: these are filled up, and the rest cut."""
        height, width = pixel_values.shape[-2:]
        filled = F.pad(pixel_values.cpu(), (0, self.side - width, 0, self.side - height))
        logits = torch.from_numpy(self.run(filled)).to(pixel_values.device)
        kept = [round(n * size / self.side) for n, size in zip(logits.shape[-2:], (height, width), strict=True)]
        return SemanticSegmenterOutput(logits=logits[..., : kept[0], : kept[1]])
