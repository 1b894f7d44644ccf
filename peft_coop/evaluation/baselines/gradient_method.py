"""What baselines share that learn by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...data.features import check_views
from ...recipes import LEARNING_RATE, Recipe, epochs_by_shots
from ..compared_methods import ComparedMethod, LabelledImages, identifying_fields
from ..frozen_clip import FrozenCLIP


@dataclass(frozen=True)
class GradientMethod(ComparedMethod):
    """Learns by gradient descent.

    Attributes:
        learning_rate: where the cosine starts.
        num_epochs: passes over the images; None: the paper's number, for `data` and the number of shots.
        batch_size: images per step.
        data: the dataset's name, for the paper's number of epochs.
    """

    learning_rate: float = LEARNING_RATE
    num_epochs: int | None = None
    batch_size: int = 32
    data: str | None = None

    def __post_init__(self) -> None:
        self.make_recipe(num_shots=1)  # what is wrong with the numbers is said here

    def settings(self) -> dict[str, Any]:
        """See `identifying_fields`."""
        return identifying_fields(self)

    def training_steps(self, images: LabelledImages) -> int:
        """See `ComparedMethod.training_steps`."""
        recipe = self.make_recipe(images.num_shots)
        return math.ceil(recipe.num_epochs * recipe.steps_per_epoch(len(images.train)))

    def make_recipe(self, num_shots: int) -> Recipe:
        """How to train on so many images per class."""
        num_epochs = self.num_epochs
        if num_epochs is None:
            num_epochs = epochs_by_shots(num_shots, self.data)
        return Recipe(num_epochs, self.batch_size, self.learning_rate)


@dataclass(frozen=True)
class FeatureMethod(GradientMethod):
    """Learns by gradient descent on image features that are computed once.

    Attributes:
        views: augmented views of each training image, another one in every epoch; None: the images as they are.
        flip: whether views are mirrored.
        num_workers: processes that load the images of views.
    """

    views: int | None = None
    flip: bool = True
    num_workers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_views(self.views)

    def training_embeds(self, clip: FrozenCLIP, images: LabelledImages, seed: int) -> Callable[[Tensor, int], Tensor]:
        """What gives features `[B, P]`, L2-normalised, of the training images at some indices in an epoch."""
        return clip.image_embeds_by_epoch(images.train, self.views, seed, self.flip, self.num_workers)


def training_labels(method: ComparedMethod, images: LabelledImages) -> Tensor:
    """Labels `[N]` of the training images.

    Raises:
        ValueError: if there are none.
    """
    if not len(images.train):
        raise ValueError(f"{method.name!r} learns from labelled images, and there is no training image.")
    return torch.tensor(list(images.train["label"]))
