"""The features that baselines learn from: of each training image, or of augmented views of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...data.augmented_features import ViewOrder
from ..frozen_clip import FrozenCLIP

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class FeatureViews:
    """Features of training images.

    Attributes:
        features: `[N, A, P]`, not normalised: N images, A views of each, P projection width.
        order: which view belongs to an epoch.
    """

    features: Tensor
    order: ViewOrder

    def select(self, images: Tensor, seed: int) -> FeatureViews:
        """Those of some of the images, by their numbers."""
        features = self.features[images]
        return FeatureViews(features, ViewOrder(features.shape[0], features.shape[1], seed))

    def batch(self, indices: Tensor, epoch: int) -> Tensor:
        """Features `[B, P]` of the images at some indices, `[B]`: of another view of each in every epoch."""
        return self.features[indices, torch.from_numpy(self.order(epoch))[indices]]


def training_views(
    clip: FrozenCLIP, images: Dataset, views: int | None, seed: int, flip: bool, num_workers: int
) -> FeatureViews:
    """Features of training images, computed once, float32.

    Args:
        clip: the pretrained model.
        images: columns `image` and `label`.
        views: augmented views of each image; None: the images as they are.
        seed: of the views, and of the order in which they come again.
        flip: whether views are mirrored.
        num_workers: processes that load the images of views.
    """
    if views is None:
        features = clip.image_features(images)[:, None]
    else:
        features = clip.augmented_features(images, views, seed, flip, num_workers).all_views()
        features = features.to(clip.device, torch.float32)
    return FeatureViews(features, ViewOrder(features.shape[0], features.shape[1], seed))
