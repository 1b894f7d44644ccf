"""The same pyramid, neck and head as DenseCLIP's on a CLIP's vision tower, and no text: the baseline."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import set_seed
from transformers.modeling_outputs import SemanticSegmenterOutput

from ...heads.dense import FPN, Pyramid, SemanticFPNHead, pixel_cross_entropy
from ...recipes import Recipe
from ...towers import features_of_places, vision_layers, vision_parts, vision_width
from ..compared_methods import ComparedMethod, LabelledImages, TimedSteps
from ..frozen_clip import FrozenCLIP
from ..prompt_training import train_with_recipe
from .prompt_segmentation import CROP_SIZE, PROTOCOL, segmentation_methods, step_on_pixels, training_masks
from .segmenters import MaskedImages, Segmenter
from .windows import Windows

# Of the layers that are read, as shares of all: 3, 5, 7 and 11 of 12, counted from 0.
DEPTHS = (1 / 3, 1 / 2, 2 / 3, 1)
FILE = "head.safetensors"


class PlainHeadModel(nn.Module):
    """A vision tower, a pyramid of its maps, a neck and a Semantic FPN head.

    Args:
        clip: a dual encoder; a copy of one's own.
        num_classes: K.
        out_indices: the four layers that are read.
        channels: of neck and head.
        train_vision: train its vision tower, too.
        ignore_index: the label of pixels of no class.
    """

    def __init__(
        self,
        clip: nn.Module,
        num_classes: int,
        out_indices: tuple[int, ...],
        channels: int,
        train_vision: bool,
        ignore_index: int,
    ):
        super().__init__()
        self.clip = clip.requires_grad_(False)
        for part in vision_parts(clip) if train_vision else ():
            part.requires_grad_(True)
        self.config = clip.config
        self.out_indices = out_indices
        self.train_vision = train_vision
        self.ignore_index = ignore_index
        width = vision_width(clip)
        self.pyramid = Pyramid(width)
        self.neck = FPN([width] * len(out_indices), channels)
        self.head = SemanticFPNHead(channels, channels, num_classes)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> SemanticSegmenterOutput:
        """Logits `[B, K, 4h, 4w]` of h by w patches, and with labels `[B, H, W]` the cross-entropy."""
        maps = features_of_places(self.clip, pixel_values, self.out_indices).maps
        logits = self.head(self.neck(self.pyramid(maps)))
        loss = None if labels is None else pixel_cross_entropy(logits, labels, self.ignore_index)
        return SemanticSegmenterOutput(loss=loss, logits=logits)

    def train(self, mode: bool = True) -> PlainHeadModel:
        """Set training mode; a frozen tower stays in evaluation mode."""
        super().train(mode)
        if not self.train_vision:
            self.clip.eval()
        return self

    def param_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """As the paper has them: a tenth of the learning rate for the tower and the pyramid."""
        slow = [*self.clip.parameters(), *self.pyramid.parameters()]
        fast = [*self.neck.parameters(), *self.head.parameters()]
        return [
            {"params": [each for each in own if each.requires_grad], "lr": rate, "weight_decay": weight_decay}
            for own, rate in ((slow, learning_rate / 10), (fast, learning_rate))
        ]


class PlainSegmenter(Segmenter):
    """See `Segmenter`; `model` is a `PlainHeadModel`."""

    def save(self, folder: Path) -> None:
        """Write what was trained."""
        trained = {name for name, each in self.model.named_parameters() if each.requires_grad}
        state = self.model.state_dict()
        tensors = {name: state[name] for name in state if name in trained or not name.startswith("clip.")}
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: each.contiguous().clone() for name, each in tensors.items()}, folder / FILE)


@dataclass(frozen=True)
class PlainHead(ComparedMethod):
    """DenseCLIP's pyramid, neck and head on the vision tower alone, without texts and score map.

    It is trained as the method that classifies pixels is: with its recipe.

    Attributes:
        windows: how images are read; their side is that of the parts that are trained on.
        train_vision: train the vision tower, too, with a tenth of the learning rate.
        channels: of neck and head.
        recipe: fields of `Recipe` that differ from the paper's.
        flip: mirror half of the training images.
        num_workers: processes that load images.

    Raises:
        ValueError: if a number is not above 0.

    Reference: the baseline of DenseCLIP (arXiv:2112.01518), CLIP with a Semantic FPN head.
    """

    windows: Windows = field(default_factory=lambda: Windows(CROP_SIZE))
    train_vision: bool = True
    channels: int = 256
    recipe: dict[str, Any] = field(default_factory=dict)
    flip: bool = True
    num_workers: int = 0

    key = "dense-head"
    name = "the same head, without text"
    changes_vision = True
    reads = "places"

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"`channels` must be 1 or more, got {self.channels}.")
        self.recipe_for(1)  # what is wrong with the numbers is said here

    def takes_part_in(self, protocol: str) -> bool:
        """Only in segmentation."""
        return protocol == PROTOCOL

    def settings(self) -> dict[str, Any]:
        """Its fields."""
        own = {"train_vision": self.train_vision, "channels": self.channels, "flip": self.flip}
        return {**own, **self.windows.settings(), **self.recipe}

    def recipe_for(self, num_images: int) -> Recipe:
        """How it is trained on so many images."""
        return replace(segmentation_methods()[0].recipe(num_images, None, PROTOCOL), **self.recipe)

    def training_steps(self, images: LabelledImages) -> int:
        """See `ComparedMethod.training_steps`."""
        recipe = self.recipe_for(images.num_shots)
        return recipe.num_epochs * recipe.steps_per_epoch(len(images.train))

    def timed_steps(self, clip: FrozenCLIP, images: LabelledImages) -> TimedSteps:
        """Forwards and backwards through the vision tower and the head."""
        batch = min(self.recipe_for(images.num_shots).batch_size, len(images.train))
        make_step = step_on_pixels(lambda: self._new_model(clip, images), batch, self.windows.crop_size, clip.device)
        return TimedSteps(self.training_steps(images), batch, make_step)

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> PlainSegmenter:  # type: ignore[override]
        """See `ComparedMethod.fit`."""
        set_seed(seed)
        model = self._new_model(clip, images)
        train = training_masks(clip, images, self.windows, seed, self.flip)
        recipe = self.recipe_for(images.num_shots)
        train_with_recipe(model, train, recipe, seed, folder, dataloader_num_workers=self.num_workers)
        return PlainSegmenter(model.eval(), clip, self.windows, images.class_names)

    def _new_model(self, clip: FrozenCLIP, images: LabelledImages) -> PlainHeadModel:
        if not isinstance(images, MaskedImages):
            raise TypeError(f"Pixels are learned from `MaskedImages`, got {type(images).__name__}.")
        num_layers = len(vision_layers(clip.model))
        layers = tuple(math.ceil(depth * num_layers) - 1 for depth in DEPTHS)
        model = PlainHeadModel(
            deepcopy(clip.model),
            len(images.class_names),
            layers,
            self.channels,
            self.train_vision,
            images.values.ignore_index,
        )
        return model.to(clip.device)
