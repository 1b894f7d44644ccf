"""Tip-Adapter: zero-shot CLIP, and a cache of the training images' features that votes for their classes.

Shapes: N training images (the cache's keys), A views of each, K classes, P projection width.

Reference: Tip-Adapter (arXiv:2207.09519) and its code. What is done otherwise: nothing is chosen by test images, and
zero-shot logits have the model's own scale, where the original has a literal 100: that of the released CLIPs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...data.features import check_views
from ...progress import part_of_step
from ...recipes import Recipe
from ...towers import normalize
from ..compared_methods import ComparedMethod, LabelledImages, identifying_fields
from ..frozen_clip import FrozenCLIP
from ..templates import zero_shot_templates
from .feature_views import FeatureViews, training_views
from .gradient_method import FeatureMethod, training_labels
from .hand_written_prompts import text_logits
from .held_out import Fold, folds
from .tip_cache import TipClassifier, Trial, cache_keys, cache_logits, search
from .tip_values import OTHERWISE, PUBLISHED, TipValues
from .training_loop import train

if TYPE_CHECKING:
    from datasets import Dataset

TIP_LEARNING_RATE = 0.001
TIP_EPOCHS = 20
# The original's; of other data as many epochs as make the steps that EuroSAT has, whose images are a single batch.
PUBLISHED_EPOCHS = {**dict.fromkeys(PUBLISHED, TIP_EPOCHS), "eurosat": 100}
TIP_STEPS = 100
TIP_BATCH_SIZE = 256
EPSILON = 1e-4
WEIGHT_DECAY = 0.01


class _TipMethod(ComparedMethod):
    """What both have in common.

    Attributes:
        values: alpha and beta; None: the published ones for `data`.
        data: the dataset's name.
        views: the keys are means over so many augmented views of each image (the original: 10); None: of the images as
            they are.
        flip: whether views are mirrored.
        num_workers: processes that load the images of views.
    """

    values: TipValues | None
    data: str | None
    views: int | None
    flip: bool
    num_workers: int

    def settings(self) -> dict[str, Any]:
        """See `identifying_fields`."""
        return identifying_fields(self)

    @property
    def published(self) -> TipValues:
        """The values in use: those given, or the published ones."""
        return self.values or PUBLISHED.get(self.data or "", OTHERWISE)

    def start(self, clip: FrozenCLIP, images: LabelledImages, seed: int) -> tuple[TipClassifier, FeatureViews]:
        """The classifier before anything is learned or searched for, and the features of its images."""
        labels = training_labels(self, images).to(clip.device)
        views = training_views(clip, images.train, self.views, seed, self.flip, self.num_workers)
        templates = zero_shot_templates(images.data, images.zero_shot_template)
        keys, values = cache_keys(views.features), self.published
        return TipClassifier(clip, images.class_names, templates, keys, labels, values.alpha, values.beta), views

    def learn(self, tip: TipClassifier, views: FeatureViews, seed: int, folder: Path) -> None:
        """Train the keys of a classifier on the features that they were made of."""

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> TipClassifier:
        """Fill the cache, learn, and choose alpha and beta.

        Raises:
            ValueError: if there is no training image, or a prompt is too long.
        """
        tip, views = self.start(clip, images, seed)
        parts = [] if len(images.val) else folds(tip.labels.cpu().numpy(), seed)
        trials = self.left_out(tip, views, images.train, parts, seed, folder)
        with part_of_step(len(parts) / (len(parts) + 1), 1):
            self.learn(tip, views, seed, folder)
        if len(images.val):
            labels = torch.tensor(list(images.val["label"]), device=tip.labels.device)
            trials = [tip.trial(clip.image_embeds(images.val), labels)]
        if trials:
            tip.alpha, tip.beta = search(trials, self.published)
        else:
            warnings.warn(
                f"{self.name}: no images to choose alpha and beta by, so they are those given or published: "
                f"{tip.alpha} and {tip.beta}.",
                stacklevel=2,
            )
        return tip

    def left_out(
        self,
        tip: TipClassifier,
        views: FeatureViews,
        train_images: Dataset,
        parts: Sequence[Fold],
        seed: int,
        folder: Path,
    ) -> list[Trial]:
        """Each training image against a cache, learned anew, of those of other parts; see `folds`."""
        embeds, trials, fits = tip.clip.image_embeds(train_images), [], len(parts) + 1  # and one of all
        for number, (kept, left_out) in enumerate(parts):
            part = tip.part(torch.from_numpy(kept))
            with part_of_step(number / fits, (number + 1) / fits):
                self.learn(part, views.select(torch.from_numpy(kept), seed), seed, folder / f"without_part_{number}")
            trials.append(part.trial(embeds[left_out], tip.labels[left_out]))
        return trials


@dataclass(frozen=True)
class TipAdapter(_TipMethod):
    """Tip-Adapter without training: what is learned is alpha and beta.

    They are searched for on the validation images. Without any, on the training images, which are left out of the cache
    in turn, in 4 parts at most; where a class has only one image, too, they are the published ones, with a warning.

    Args:
        values: alpha and beta, and where to search; None: the published ones for `data`.
        data: the dataset's name.
        views: the keys are means over so many augmented views of each image (the original: 10); None: of the images as
            they are.
        flip: whether views are mirrored.
        num_workers: processes that load the images of views.
    """

    values: TipValues | None = None
    data: str | None = None
    views: int | None = None
    flip: bool = True
    num_workers: int = 0

    key = "tip-adapter"
    name = "Tip-Adapter"

    def __post_init__(self) -> None:
        check_views(self.views)


@dataclass(frozen=True)
class TipAdapterF(_TipMethod, FeatureMethod):
    """Tip-Adapter whose keys are trained, starting as those of Tip-Adapter.

    Trained with the published alpha and beta, AdamW and a cosine to zero, on cross-entropy. The last epoch counts: the
    original takes the one that is best on the test images, and the few validation images are needed for alpha and beta,
    which are searched for after it. Without validation images they are searched for as Tip-Adapter's: keys that are
    trained without a part of the images are tried on that part, which takes up to four trainings more.

    Args:
        learning_rate: where the cosine starts.
        num_epochs: passes over the images; None: 20 for the original's data, and 100 for EuroSAT; for other data 20, or
            as many more as make 100 steps.
        batch_size: images per step.
        data: the dataset's name.
        values: alpha and beta, and where to search; None: the published ones for `data`.
        views: the keys start as means over so many augmented views of each image (the original: 10), and learn from
            another one in every epoch; None: the images as they are.
        flip: whether views are mirrored.
        num_workers: processes that load the images of views.
    """

    learning_rate: float = TIP_LEARNING_RATE
    batch_size: int = TIP_BATCH_SIZE
    values: TipValues | None = None

    key = "tip-adapter-f"
    name = "Tip-Adapter-F"

    def make_recipe(self, num_shots: int, num_images: int | None = None) -> Recipe:
        """How to train; the same for any number of images per class.

        Args:
            num_shots: images per class.
            num_images: all that are trained on; None: many.
        """
        num_epochs = self.num_epochs
        if num_epochs is None:
            batches = TIP_STEPS if num_images is None else math.ceil(num_images / self.batch_size)
            longer = max(TIP_EPOCHS, math.ceil(TIP_STEPS / max(1, batches)))
            num_epochs = PUBLISHED_EPOCHS.get(self.data or "", longer)
        return Recipe(num_epochs, self.batch_size, self.learning_rate, keep_last=True)

    def training_steps(self, images: LabelledImages) -> int:
        """Those on all images and, without validation images, on all but a part of them, for each part."""
        labels = np.array(images.train["label"], dtype=np.int64)
        parts = [] if len(images.val) or not len(labels) else folds(labels, seed=1)
        counts = [len(labels), *(len(kept) for kept, _ in parts)]
        recipes = [(self.make_recipe(images.num_shots, count), count) for count in counts]
        return sum(recipe.num_epochs * recipe.steps_per_epoch(count) for recipe, count in recipes)

    def learn(self, tip: TipClassifier, views: FeatureViews, seed: int, folder: Path) -> None:
        """Train the keys."""
        values, keys = tip.values(tip.class_names), nn.Parameter(tip.keys)

        def loss_of(indices: Tensor, epoch: int) -> Tensor:
            seen = normalize(views.batch(indices, epoch))
            cached = cache_logits(seen @ keys.T, values, tip.beta)
            logits = text_logits(tip.clip, seen, tip.texts) + tip.alpha * cached
            return F.cross_entropy(logits, tip.labels[indices])

        recipe = self.make_recipe(0, len(keys))
        optimizer = AdamW([keys], lr=recipe.learning_rate, eps=EPSILON, weight_decay=WEIGHT_DECAY)
        total_steps = recipe.num_epochs * recipe.steps_per_epoch(len(keys))
        optimizers = optimizer, CosineAnnealingLR(optimizer, total_steps)
        train(loss_of, len(keys), recipe, optimizers, seed, folder)
        tip.keys = keys.detach()
