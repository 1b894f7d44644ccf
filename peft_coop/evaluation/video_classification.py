"""A learned video prompt as a classifier: the mean of what it says of several clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import PeftModel

from ..data import FrameRows, clips_to_test
from ..progress import stage
from ..towers import device_of
from .compared_methods import Classifier, Scorer
from .frozen_clip import FrozenCLIP
from .prompt_classifier import PromptClassifier

if TYPE_CHECKING:
    from datasets import Dataset

# Clips of each video whose probabilities are averaged, as in the original.
NUM_CLIPS = 5
BATCH_SIZE = 64  # clips


class VideoPromptClassifier(PromptClassifier):
    """A CLIP with a learned prompt that reads videos.

    Args:
        model: with its adapter.
        clip: whose features the frames have.
        num_clips: drawn of each video, the same for all methods; their probabilities are averaged.

    Raises:
        ValueError: if `num_clips` is below 1.
    """

    def __init__(self, model: PeftModel, clip: FrozenCLIP, num_clips: int = NUM_CLIPS):
        super().__init__(model, clip)
        self.num_clips = check_clips(num_clips)

    def scorer(self, class_names: Sequence[str]) -> Scorer:
        """See `Classifier.scorer`."""
        return Classifier.scorer(self, class_names)

    def _logits(self, images: Dataset, class_names: list[str] | None = None) -> np.ndarray:
        """Logs of the mean probabilities `[N, C]`, so that a softmax gives these."""
        frames = self.clip.frame_features(images)
        size = self.clip.batch_size or BATCH_SIZE
        with stage("classifying", len(images), "video") as progress:
            parts = []
            for start in range(0, len(frames), size):
                rows = range(start, min(start + size, len(frames)))
                parts.append(mean_probabilities(self.model, frames, rows, self.num_clips, class_names))
                progress.update(len(rows))
        return torch.cat(parts).log().cpu().numpy()


@torch.no_grad()
def mean_probabilities(
    model: PeftModel, frames: FrameRows, rows: range, num_clips: int, class_names: list[str] | None = None
) -> torch.Tensor:
    """Probabilities `[B, C]`, float64, of B videos: the mean over clips drawn from each.

    Args:
        model: with its prompt adapter, on any device.
        frames: features of the videos' frames.
        rows: the B videos.
        num_clips: drawn of each.
        class_names: the C classes; None: those of the active adapter.
    """
    model.eval()
    device, length = device_of(model.get_base_model()), model.active_peft_config.num_frames
    total: torch.Tensor | float = 0.0
    for number in range(num_clips):
        clips = clips_to_test(frames, length, number, rows=rows).to(device)
        total = total + model(image_embeds=clips, class_names=class_names).logits.double().softmax(-1)
    return torch.as_tensor(total) / num_clips


def check_clips(num_clips: int) -> int:
    """A number of clips.

    Raises:
        ValueError: if it is below 1.
    """
    if num_clips < 1:
        raise ValueError(f"`num_clips` must be 1 or more, got {num_clips}.")
    return num_clips
