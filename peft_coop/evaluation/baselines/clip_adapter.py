"""CLIP-Adapter: a small network behind the vision tower, mixed with what the tower gives.

Shapes: N training images, B images, K classes, P projection width.

Reference: CLIP-Adapter (arXiv:2110.04544) and its code, which has no settings of its training: here they are CoOp's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ...recipes import make_optimizer
from ...towers import normalize
from ..compared_methods import Classifier, LabelledImages
from ..frozen_clip import FrozenCLIP
from .feature_views import training_views
from .gradient_method import FeatureMethod, training_labels
from .hand_written_prompts import text_features, text_logits
from .training_loop import train

if TYPE_CHECKING:
    from datasets import Dataset

RATIO = 0.2
REDUCTION = 4


class FeatureAdapter(nn.Module):
    """Two linear layers without biases, each with a ReLU behind it; `state_dict` has the original's names.

    Args:
        width: of the features, P.
        ratio: how much of what comes out is the layers', and not the feature itself.
        reduction: P over the width between the layers.
    """

    def __init__(self, width: int, ratio: float = RATIO, reduction: int = REDUCTION):
        super().__init__()
        hidden = max(1, width // reduction)
        self.ratio = ratio
        self.fc = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False), nn.ReLU()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Adapt image features `[B, P]`, which are not normalised, and neither is what comes out.

        Without biases, features of another length come out longer by the same factor: cosines are the same.
        """
        return self.ratio * self.fc(features) + (1 - self.ratio) * features


@dataclass(frozen=True)
class CLIPAdapter(FeatureMethod):
    """An adapter of the image features, trained against the fixed text features of the data's template.

    It does not know the classes, so it takes new ones.

    Args:
        learning_rate: where the cosine starts.
        num_epochs: passes over the images; None: CoOp's number, for `data` and the number of shots.
        batch_size: images per step.
        data: the dataset's name, for the number of epochs.
        ratio: how much of a feature is the adapter's.
        reduction: P over the width between the adapter's layers.
        views: augmented views of each image, another one in every epoch; None: the images as they are.
        flip: whether views are mirrored.
        num_workers: processes that load the images of views.

    Raises:
        ValueError: if a number is not above 0, or `ratio` is above 1.
    """

    ratio: float = RATIO
    reduction: int = REDUCTION

    key = "clip-adapter"
    name = "CLIP-Adapter"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio <= 1:
            raise ValueError(f"`ratio` must be above 0 and at most 1, got {self.ratio}.")
        if self.reduction < 1:
            raise ValueError(f"`reduction` must be 1 or more, got {self.reduction}.")

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> AdaptedClassifier:
        """Train the adapter.

        Raises:
            ValueError: if there is no training image, or a prompt is too long.
        """
        labels = training_labels(self, images).to(clip.device)
        views = training_views(clip, images.train, self.views, seed, self.flip, self.num_workers)
        texts = text_features(clip, images.class_names, [images.zero_shot_template])
        adapter = self.start(views.features.shape[-1], seed).to(clip.device)

        def loss_of(indices: Tensor, epoch: int) -> Tensor:
            adapted = normalize(adapter(views.batch(indices, epoch)))
            return F.cross_entropy(text_logits(clip, adapted, texts), labels[indices])

        recipe = self.make_recipe(images.num_shots)
        steps = recipe.steps_per_epoch(len(labels))
        optimizers = make_optimizer(adapter.parameters(), steps, recipe.num_epochs, recipe.learning_rate)
        train(loss_of, len(labels), recipe, optimizers, seed, folder)
        return AdaptedClassifier(clip, images.zero_shot_template, adapter.requires_grad_(False))

    def start(self, width: int, seed: int) -> FeatureAdapter:
        """A random adapter of features of a width; the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return FeatureAdapter(width, self.ratio, self.reduction)


class AdaptedClassifier(Classifier):
    """Compares adapted image features with the text features of the class names.

    Args:
        clip: the pretrained model.
        template: the hand-written prompt.
        adapter: of the image features.
    """

    def __init__(self, clip: FrozenCLIP, template: str, adapter: FeatureAdapter):
        self.clip = clip
        self.template = template
        self.adapter = adapter

    def for_data(self, data: str, zero_shot_template: str) -> AdaptedClassifier:
        """With the prompt of that dataset, and the same adapter."""
        return AdaptedClassifier(self.clip, zero_shot_template, self.adapter)

    @torch.no_grad()
    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """Logits `[B, K]` over any classes."""
        adapted = normalize(self.adapter(self.clip.image_features(images)))
        return text_logits(self.clip, adapted, text_features(self.clip, class_names, [self.template])).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write the layers' weights to `clip_adapter.safetensors`, under the original's names."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.adapter.state_dict(), folder / "clip_adapter.safetensors")
