"""The other ways to fine-tune CLIP that CoOp's paper compares with.

Shapes: N images, B of them, K classes, P projection width.

Reference: CoOp (arXiv:2109.01134), "Comparison with other fine-tuning methods".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...recipes import make_optimizer
from ...towers import vision_parts
from ..compared_methods import LabelledImages, TimedSteps
from ..frozen_clip import FrozenCLIP
from .gradient_method import FeatureMethod, GradientMethod, training_labels
from .hand_written_prompts import TextClassifier, text_features, text_logits
from .training_loop import train
from .training_pixels import training_pixels

ENCODER_LEARNING_RATE = 1e-5
ENCODER_WEIGHT_DECAY = 0.1


class _TextFeatureMethod(FeatureMethod):
    """Learns to change the text features, with CoOp's recipe.

    Changed is what the text tower gives for the data's template, before it is normalised. Unlike in the paper, images
    are not augmented, unless `views` is given.
    """

    @abstractmethod
    def start(self, width: int) -> nn.Module:
        """What is learned, `[K, P]` to `[K, P]`; at the start it changes nothing."""

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> TextClassifier:
        """Learn the change.

        Raises:
            ValueError: if there is no training image, or a prompt is too long.
        """
        labels = training_labels(self, images).to(clip.device)
        recipe = self.make_recipe(images.num_shots)
        features = text_features(clip, images.class_names, [images.zero_shot_template])
        embeds_of = self.training_embeds(clip, images, seed)
        change = self.start(features.shape[-1]).to(clip.device)

        def loss_of(indices: Tensor, epoch: int) -> Tensor:
            return F.cross_entropy(text_logits(clip, embeds_of(indices, epoch), change(features)), labels[indices])

        steps = recipe.steps_per_epoch(len(labels))
        optimizers = make_optimizer(change.parameters(), steps, recipe.num_epochs, recipe.learning_rate)
        train(loss_of, len(labels), recipe, optimizers, seed, folder)
        return TextClassifier(clip, [images.zero_shot_template], change.requires_grad_(False))


class TextTransform(_TextFeatureMethod):
    """A linear layer behind the text tower, P by P and without a bias; it starts as the identity.

    All classes share it, so it takes new ones.
    """

    key = "text-transform"
    name = "text transformation"

    def start(self, width: int) -> nn.Module:
        """The identity."""
        return Transform(width)


class TextBias(_TextFeatureMethod):
    """A vector of width P added to what the text tower gives; it starts at zero.

    The paper speaks of a bias and does not say whether every class has one of its own. Here all share one, as in a
    linear layer, so it takes new classes.
    """

    key = "text-bias"
    name = "text bias"

    def start(self, width: int) -> nn.Module:
        """Zero."""
        return Shift(width)


class Transform(nn.Module):
    """Multiplies features `[K, P]` with a learned matrix."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, features: Tensor) -> Tensor:
        """Multiply with it."""
        return F.linear(features, self.weight)


class Shift(nn.Module):
    """Adds a learned vector to features `[K, P]`."""

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """Add it."""
        return features + self.bias


@dataclass(frozen=True)
class ImageEncoderFineTuning(GradientMethod):
    """The vision tower and its projection, trained against the fixed text features of the data's template.

    CoOp's paper finds that this costs accuracy, and gives no settings. Here they are those that fine-tuning CLIP is
    known to work with: AdamW at 1e-5, weight decay 0.1 and a cosine (WiSE-FT, arXiv:2109.01903), for as many epochs as
    CoOp. The tower is trained in float32; `Classifier.save` does not write it, since it is as large as a model.

    Args:
        learning_rate: where the cosine starts.
        num_epochs: passes over the images; None: the paper's number, for `data` and the number of shots.
        batch_size: images per step.
        data: the dataset's name, for the paper's number of epochs.
        augment: train on random crops and flips.
        flip: whether the augmentation mirrors images.
    """

    learning_rate: float = ENCODER_LEARNING_RATE
    augment: bool = False
    flip: bool = True

    key = "image-encoder"
    name = "fine-tuned image encoder"
    changes_vision = True

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> TextClassifier:
        """Train a copy of the vision tower.

        Raises:
            ValueError: if there is no training image or one cannot be read, or a prompt is too long.
        """
        labels = training_labels(self, images).to(clip.device)
        recipe = self.make_recipe(images.num_shots)
        features = text_features(clip, images.class_names, [images.zero_shot_template])
        pixels_of = training_pixels(clip, images.train, seed, self.augment, self.flip)
        model, parameters = self.trained_copy(clip)

        def loss_of(indices: Tensor, epoch: int) -> Tensor:
            image_embeds = F.normalize(model.get_image_features(**pixels_of(indices, epoch)).pooler_output, dim=-1)
            return F.cross_entropy(text_logits(clip, image_embeds, features), labels[indices])

        optimizer = AdamW(parameters, lr=recipe.learning_rate, weight_decay=ENCODER_WEIGHT_DECAY)
        total_steps = recipe.num_epochs * recipe.steps_per_epoch(len(labels))
        train(loss_of, len(labels), recipe, (optimizer, CosineAnnealingLR(optimizer, total_steps)), seed, folder)
        tuned = FrozenCLIP(model.requires_grad_(False), clip.processor, clip.name, clip.batch_size)
        return TextClassifier(tuned, [images.zero_shot_template])

    def timed_steps(self, clip: FrozenCLIP, images: LabelledImages) -> TimedSteps:
        """Forwards and backwards through the vision tower."""
        batch = min(self.batch_size, len(images.train))

        def make_step() -> Callable[[], None]:
            (model, _), pixels = self.trained_copy(clip), clip.blank_images(batch)
            return lambda: model.get_image_features(**pixels).pooler_output.sum().backward()

        return TimedSteps(self.training_steps(images), batch, make_step)

    def trained_copy(self, clip: FrozenCLIP) -> tuple[nn.Module, list[nn.Parameter]]:
        """A copy of the model in float32, and its weights that are trained, those of the vision side."""
        model = deepcopy(clip.model).float().requires_grad_(False)
        parameters = [weight for part in vision_parts(model) for weight in part.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        return model, parameters
