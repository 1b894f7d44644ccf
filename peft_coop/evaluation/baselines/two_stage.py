"""The two-stage recipe: LayerNorm tuning of both towers, and then a vector of its own for each class.

Shapes: N training images, K classes, P projection width.

Reference: 2SFS (arXiv:2503.11609) and its code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from ...progress import part_of_step
from ...towers import normalize
from ..compared_methods import LabelledImages, TimedSteps
from ..frozen_clip import FrozenCLIP
from .gradient_method import training_labels
from .hand_written_prompts import text_features, text_logits
from .tower_tuning import LayerNormTuning, TunedClassifier, embeds, tuned_clip
from .training_pixels import training_pixels

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class TwoStage(LayerNormTuning):
    """LayerNorm tuning of both towers, and then, with the towers fixed, the matrix of the classes alone.

    The matrix starts as the normalised text features of the tuned tower. A class that was learned has its row; one that
    was not has its text, as after the first stage.

    Args:
        learning_rate: of AdamW in each stage, with a weight decay of 0.01; a cosine from there to 1e-6, over its steps.
        num_epochs: passes over the images, of both stages together; None: 300 steps for each image that a class has.
        batch_size: images per step; the last one of an epoch may have fewer.
        augment: train on random crops and flips, as the paper does.
        flip: whether the augmentation mirrors images.
        first_share: the share of the steps that is the first stage's; each stage has one at least.

    Raises:
        ValueError: if a number is not above 0, or `first_share` is not below 1.
    """

    first_share: float = 0.6

    key = "two-stage"
    name = "two-stage tuning"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.first_share < 1:
            raise ValueError(f"`first_share` must be above 0 and below 1, got {self.first_share}.")

    def training_steps(self, images: LabelledImages) -> int:
        """See `ComparedMethod.training_steps`."""
        return sum(self.steps_of_stages(images))

    def steps_of_stages(self, images: LabelledImages) -> tuple[int, int]:
        """How many steps each stage takes on these images."""
        every = super().training_steps(images)
        first = max(1, int(every * self.first_share))
        return first, max(1, every - first)

    def timed_steps(self, clip: FrozenCLIP, images: LabelledImages) -> TimedSteps:
        """Those of the first stage: in the second, nothing but a matrix learns."""
        return replace(super().timed_steps(clip, images), count=self.steps_of_stages(images)[0])

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> TwoStageClassifier:
        """Tune a copy of the towers, and then learn the classes.

        Raises:
            ValueError: as `TowerTuning.fit`.
        """
        first, second = self.steps_of_stages(images)
        share = first / (first + second * self.augment)  # without crops a step of the second stage takes no time
        with part_of_step(0, share):
            model = self.tune(clip, images, seed, folder / "towers", first)
        tuned = tuned_clip(model, clip)
        with part_of_step(share, 1):
            classes = self.learn_classes(tuned, images, seed, folder / "classes", second)
        return TwoStageClassifier(tuned, images.zero_shot_template, model, images.class_names, classes)

    def learn_classes(
        self, tuned: FrozenCLIP, images: LabelledImages, seed: int, folder: Path, num_steps: int
    ) -> Tensor:
        """The second stage: the matrix `[K, P]`, whose rows are not normalised."""
        labels = training_labels(self, images).to(tuned.device)
        features = text_features(tuned, images.class_names, [images.zero_shot_template])
        classes = nn.Parameter(normalize(features))
        embeds_of = self.fixed_embeds(tuned, images, seed)

        def loss_of(indices: Tensor, epoch: int) -> Tensor:
            return F.cross_entropy(text_logits(tuned, embeds_of(indices, epoch), classes), labels[indices])

        self.run(loss_of, len(labels), self.optimizers([classes], num_steps), seed, folder, num_steps)
        return classes.detach()

    def fixed_embeds(self, tuned: FrozenCLIP, images: LabelledImages, seed: int) -> Callable[[Tensor, int], Tensor]:
        """What gives normalised features of the images at some indices in an epoch, by towers that learn no more."""
        if not self.augment:
            return tuned.image_embeds_by_epoch(images.train, None, seed)
        pixels_of = training_pixels(tuned, images.train, seed, self.augment, self.flip)

        @torch.no_grad()
        def embed(indices: Tensor, epoch: int) -> Tensor:
            return embeds(tuned.model, pixels_of(indices, epoch))

        return embed


class TwoStageClassifier(TunedClassifier):
    """Compares images, by tuned towers, with the learned classes, and with the texts of others.

    Args:
        clip: the tuned model.
        template: the hand-written prompt, of classes that were not learned.
        model: the same, with PEFT's adapter.
        class_names: the K classes that were learned.
        classes: their vectors, `[K, P]`.
    """

    def __init__(self, clip: FrozenCLIP, template: str, model: PeftModel, class_names: Sequence[str], classes: Tensor):
        super().__init__(clip, template, model)
        self.class_names = list(class_names)
        self.classes = classes

    def for_data(self, data: str, zero_shot_template: str) -> TwoStageClassifier:
        """With the prompt of that dataset, and what was learned."""
        return TwoStageClassifier(self.clip, zero_shot_template, self.model, self.class_names, self.classes)

    @torch.no_grad()
    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """Logits `[N, K]` over any classes."""
        rows = self.class_vectors(list(class_names))
        return text_logits(self.clip, self.clip.image_embeds(images), rows).cpu().numpy()

    def class_vectors(self, class_names: list[str]) -> Tensor:
        """What stands for each class; of names that were learned twice the first, unless all are asked for in order."""
        if class_names == self.class_names:
            return self.classes
        learned = {name: self.classes[index] for index, name in reversed(list(enumerate(self.class_names)))}
        unknown = [name for name in class_names if name not in learned]
        if unknown:
            learned |= dict(zip(unknown, text_features(self.clip, unknown, self.templates), strict=True))
        return torch.stack([learned[name] for name in class_names])

    def save(self, folder: Path) -> None:
        """Write the adapter, and `classes.safetensors` with the matrix and, as metadata, the names."""
        super().save(folder)
        names = {"class_names": json.dumps(self.class_names)}
        save_file({"classes": self.classes.contiguous()}, folder / "classes.safetensors", names)
