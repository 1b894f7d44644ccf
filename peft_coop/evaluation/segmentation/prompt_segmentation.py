"""Prompt methods that classify pixels, as methods of an experiment; and CLIP itself, place by place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from PIL.Image import Image as Picture
from torch import nn

from ...data import AugmentedMasks, mask_image_processor
from ...methods import METHODS, Method
from ..compared_methods import ComparedMethod, LabelledImages, TimedSteps
from ..frozen_clip import FrozenCLIP
from ..prompt_learning import PromptLearning
from ..reports.figures import save_figure
from .pictures import score_map_figure
from .segmenters import MaskedImages, Segmenter
from .windows import Windows

PROTOCOL = "segmentation"
# The picture beside an adapter.
SCORE_MAPS = "score_maps.png"
CROP_SIZE = 640
"""Side of a window in pixels; the papers' for ViT-B."""


class PromptSegmenter(Segmenter):
    """A CLIP with a learned prompt and head.

    See `Segmenter` for the arguments; `model` has its adapter.
    """

    def save(self, folder: Path) -> None:
        """Write the adapter, beside it the image processor, for windows of its size, and a picture of an example."""
        self.model.save_pretrained(folder)
        side = self.windows.crop_size
        own = self.clip.processor.image_processor
        mask_image_processor(own, {"height": side, "width": side}).save_pretrained(folder)
        if self.example is not None:
            write_score_maps(self, *self.example, folder / SCORE_MAPS)


def write_score_maps(segmenter: Segmenter, image: Picture, labels: np.ndarray, path: Path) -> None:
    """Draw an image, its classes, and how close each of its places is to each class; see `score_map_figure`.

    Args:
        segmenter: with score maps.
        image: in RGB, H by W.
        labels: `[H, W]`, the true classes.
        path: a file; its ending says which kind, such as ".png" or ".pdf".
    """
    maps = segmenter.score_maps(image)
    save_figure(score_map_figure(image, segmenter.segment(image), maps, segmenter.class_names, labels), path)


@dataclass(frozen=True)
class PromptSegmentation(PromptLearning):
    """A prompt that classifies pixels, learned by one of `METHODS`: trained on random parts of the images.

    See `PromptLearning` for the other attributes; `augment` and `views` are not asked.

    Attributes:
        windows: how images are read; their side is that of the parts that are trained on.
    """

    windows: Windows = field(default_factory=lambda: Windows(CROP_SIZE))

    changes_vision = True  # reads pixels in every step

    def settings(self) -> dict[str, Any]:
        """The prompt's settings, the windows and, where it is not the paper's, the recipe."""
        settings = {name: value for name, value in super().settings().items() if name != "augment"}
        return {**settings, "flip": self.flip, **self.windows.settings()}

    def timed_steps(self, clip: FrozenCLIP, images: LabelledImages) -> TimedSteps:
        """Forwards and backwards through both towers and the head."""
        batch = min(self.recipe_for(images.num_shots).batch_size, len(images.train))
        make_step = step_on_pixels(lambda: self._new_model(clip, images), batch, self.windows.crop_size, clip.device)
        return TimedSteps(self.training_steps(images), batch, make_step)

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> PromptSegmenter:  # type: ignore[override]
        """See `ComparedMethod.fit`."""
        model = self.train_model(clip, images, seed, folder).eval()
        return PromptSegmenter(model, clip, self.windows, images.class_names)

    def _training_images(self, clip: FrozenCLIP, images: LabelledImages, seed: int) -> AugmentedMasks:
        return training_masks(clip, images, self.windows, seed, self.flip)


@dataclass(frozen=True)
class DenseZeroShot(ComparedMethod):
    """CLIP without learning: the feature of each patch compared with the hand-written prompts.

    Args:
        windows: how images are read.
    """

    windows: Windows = field(default_factory=lambda: Windows(CROP_SIZE))

    key = "dense-zero-shot"
    name = "zero-shot CLIP, patch by patch"
    learns = False
    changes_vision = True
    reads = "places"

    def takes_part_in(self, protocol: str) -> bool:
        """Only in segmentation."""
        return protocol == PROTOCOL

    def settings(self) -> dict[str, Any]:
        """The windows."""
        return self.windows.settings()

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> Segmenter:  # type: ignore[override]
        """Read the classes with the data's template."""
        model = zero_shot_model(clip, images.class_names, images.zero_shot_template)
        return Segmenter(model, clip, self.windows, images.class_names)


def zero_shot_model(clip: FrozenCLIP, class_names: Sequence[str], template: str) -> PeftModel:
    """A CLIP that classifies pixels without learning: any method's adapter, disabled."""
    from copy import deepcopy

    config = segmentation_methods()[0].config(
        class_names=list(class_names), zero_shot_template=template, head="none", train_vision=False
    )
    model = get_peft_model(deepcopy(clip.model), config).eval()
    model.base_model.disable_adapter_layers()
    return model


def segmentation_methods() -> list[Method]:
    """Those of `METHODS` that classify pixels."""
    return [method for method in METHODS.values() if PROTOCOL in method.protocols]


def training_masks(
    clip: FrozenCLIP, images: LabelledImages, windows: Windows, seed: int, flip: bool = True
) -> AugmentedMasks:
    """Random parts of images and masks.

    Raises:
        TypeError: if the images have no masks.
    """
    if not isinstance(images, MaskedImages):
        raise TypeError(f"Pixels are learned from `MaskedImages`, got {type(images).__name__}.")
    processor = clip.processor.image_processor
    return AugmentedMasks(images.train, images.values, processor, windows.crop_size, seed, flip)


def step_on_pixels(
    make_model: Callable[[], nn.Module], batch: int, side: int, device: torch.device | str
) -> Callable[[], Callable[[], None]]:
    """What makes a training step to take the time of: forwards and backwards with the labels of all pixels.

    Args:
        make_model: gives a new model.
        batch: images of a step.
        side: of an image, in pixels.
        device: where the model is.
    """

    def make_step() -> Callable[[], None]:
        model = make_model().train()
        pixels = torch.zeros(batch, 3, side, side, device=device)
        labels = torch.zeros(batch, side, side, dtype=torch.long, device=device)
        return lambda: model(pixel_values=pixels, labels=labels).loss.backward()

    return make_step
