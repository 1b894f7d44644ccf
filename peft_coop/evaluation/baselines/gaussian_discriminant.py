"""Gaussian discriminant analysis of the frozen image features, mixed with zero-shot CLIP.

Shapes: N training features, B images, K classes, P projection width.

Reference: "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation" (arXiv:2402.04087) and its code.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...data.features import check_views
from ...towers import normalize
from ..compared_methods import Classifier, ComparedMethod, LabelledImages, columns_of, identifying_fields
from ..frozen_clip import FrozenCLIP
from ..templates import zero_shot_templates
from .feature_views import training_views
from .gradient_method import training_labels
from .hand_written_prompts import text_features, text_logits
from .held_out import folds

if TYPE_CHECKING:
    from datasets import Dataset

# What is tried for the weight of the Gaussians: of equally good ones the first is taken, so that images which do not
# tell the weights apart choose the one that stands where there are none. The original starts from it, too, but takes
# the smallest of equally good ones: on the few images here these are often many.
ALPHAS = (0.1, 0.01, 1.0, 0.001, 10.0, 0.0001, 100.0)
ROUNDING = 1e-12  # share of all variance that is none


def gaussian_classifier(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """A linear classifier by one Gaussian for each class, all equally likely and with one covariance.

    The precision is P ((N - 1) S + tr(S) I)^-1, where S is the covariance of the features about their classes' means:
    an estimate that shrinks towards the identity. Where each class has a single feature, nothing is known of S. Then it
    is taken to be the same in all directions, with the variance of all features: the likeliest class is the nearest.

    Args:
        features: `[N, P]`, float64.
        labels: `[N]`.
        num_classes: K.

    Returns:
        Weights `[K, P]` and biases `[K]`; a class without a feature has minus infinity.

    Raises:
        ValueError: if the features are of fewer than two classes, or all the same.
    """
    present = labels.unique()
    if len(present) < 2:
        raise ValueError(f"Gaussian discriminant analysis needs images of two classes or more, got {len(present)}.")
    means = features.new_zeros(num_classes, features.shape[1])
    means[present] = torch.stack([features[labels == label].mean(dim=0) for label in present])
    precision_means = _precision(features, means[labels]) @ means[present].T  # [P, K that are there]
    weight, bias = torch.zeros_like(means), features.new_full((num_classes,), -torch.inf)
    weight[present] = precision_means.T
    bias[present] = -(means[present] * precision_means.T).sum(dim=1) / 2
    return weight, bias


def _precision(features: Tensor, means: Tensor) -> Tensor:
    """The precision `[P, P]` of features `[N, P]` about the mean of each one's class, `[N, P]`."""
    number, width = features.shape
    identity = torch.eye(width).to(features)
    centred = features - means
    variance = centred.square().sum() / (number - 1)
    whole = (features - features.mean(dim=0)).square().sum() / (number - 1)
    if whole == 0:
        raise ValueError(f"Gaussian discriminant analysis needs features that differ, and all {number} are the same.")
    if variance <= ROUNDING * whole:
        return identity * width / ((number - 1) * whole / width + whole)
    covariance = centred.T @ centred / (number - 1)
    return width * torch.linalg.inv((number - 1) * covariance + variance * identity)


def gaussian_logits(embeds: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits `[B, K]` of normalised features `[B, P]`, in float64 on the CPU: these differ by hundreds."""
    return embeds.cpu().double() @ weight.T + bias


@dataclass(frozen=True)
class Trial:
    """Images that a weight is tried on.

    Attributes:
        zero_shot: logits `[B, K]`.
        gaussian: the Gaussians' `[B, K]`.
        labels: the truth, `[B]`.
    """

    zero_shot: Tensor
    gaussian: Tensor
    labels: Tensor

    def num_right(self, alpha: float) -> int:
        """Images that are right with this weight of the Gaussians."""
        return int(((self.zero_shot + alpha * self.gaussian).argmax(dim=1) == self.labels).sum())


@dataclass(frozen=True)
class GaussianDiscriminant(ComparedMethod):
    """Zero-shot CLIP, and the likelihoods of the image under Gaussians of its features.

    The weight of the Gaussians is the power of ten that is best on the validation images. Without any, on the training
    images in turn (cross-validation, in 4 parts at most); where a class has only one image, too, it is 0.1, with a
    warning. The original's variant for new classes is not here: what is learned is for the classes of the images.

    Args:
        data: the dataset's name.
        views: estimate from so many augmented views of each image (the original: 10); None: the images as they are.
        flip: whether views are mirrored.
        num_workers: processes that load the images of views.
    """

    data: str | None = None
    views: int | None = None
    flip: bool = True
    num_workers: int = 0

    key = "gda"
    name = "GDA with zero-shot"
    takes_new_classes = False

    def __post_init__(self) -> None:
        check_views(self.views)

    def settings(self) -> dict[str, Any]:
        """See `identifying_fields`."""
        return identifying_fields(self)

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> GaussianClassifier:
        """Estimate means and covariance, and choose the weight.

        Raises:
            ValueError: if the training images are of fewer than two classes, or a prompt is too long.
        """
        labels = training_labels(self, images)
        features = training_views(clip, images.train, self.views, seed, self.flip, self.num_workers).features
        features = normalize(features).cpu().double()  # [N, A, P]
        templates = zero_shot_templates(images.data, images.zero_shot_template)
        texts = text_features(clip, images.class_names, templates)

        def gaussians(kept: np.ndarray | slice) -> tuple[Tensor, Tensor]:
            seen, of = features[kept].flatten(0, 1), labels[kept].repeat_interleave(features.shape[1])
            return gaussian_classifier(seen, of, len(images.class_names))

        def trial(embeds: Tensor, truth: Tensor, learned: tuple[Tensor, Tensor]) -> Trial:
            return Trial(text_logits(clip, embeds, texts).cpu().double(), gaussian_logits(embeds, *learned), truth)

        everything = gaussians(slice(None))
        if len(images.val):
            trials = [trial(clip.image_embeds(images.val), torch.tensor(list(images.val["label"])), everything)]
        else:
            embeds = clip.image_embeds(images.train)
            parts = folds(labels.numpy(), seed)
            trials = [trial(embeds[left_out], labels[left_out], gaussians(kept)) for kept, left_out in parts]
        return GaussianClassifier(clip, images.class_names, templates, *everything, self.choose(trials))

    def choose(self, trials: Sequence[Trial]) -> float:
        """The weight that gets most images of the trials right."""
        if trials:
            return max(ALPHAS, key=lambda alpha: sum(trial.num_right(alpha) for trial in trials))
        warnings.warn(
            f"{self.name}: no images to choose the weight of the Gaussians by, so it is {ALPHAS[0]}.", stacklevel=3
        )
        return ALPHAS[0]


class GaussianClassifier(Classifier):
    """Zero-shot CLIP and Gaussians.

    Args:
        clip: the pretrained model.
        class_names: the K classes of the Gaussians.
        templates: hand-written prompts, averaged.
        weight: `[K, P]`, float64.
        bias: `[K]`, float64.
        alpha: the weight of the Gaussians.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        class_names: Sequence[str],
        templates: Sequence[str],
        weight: Tensor,
        bias: Tensor,
        alpha: float,
    ):
        self.clip = clip
        self.class_names = list(class_names)
        self.templates = list(templates)
        self.weight = weight
        self.bias = bias
        self.alpha = alpha

    def for_data(self, data: str, zero_shot_template: str) -> GaussianClassifier:
        """With the prompts of that dataset, and the same Gaussians."""
        templates = zero_shot_templates(data, zero_shot_template)
        return GaussianClassifier(self.clip, self.class_names, templates, self.weight, self.bias, self.alpha)

    @torch.no_grad()
    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """Logits `[B, K]`; minus infinity for classes that had no training image.

        Raises:
            ValueError: if a class is none of those that it was learned from.
        """
        columns = columns_of(class_names, self.class_names, "Gaussian discriminant analysis")
        embeds = self.clip.image_embeds(images)
        zero_shot = text_logits(self.clip, embeds, text_features(self.clip, class_names, self.templates))
        gaussian = gaussian_logits(embeds, self.weight, self.bias)[:, columns]
        return (zero_shot.cpu() + self.alpha * gaussian).float().numpy()

    def save(self, folder: Path) -> None:
        """Write `weight`, `bias` and `alpha` to `gda.safetensors`."""
        tensors = {"weight": self.weight, "bias": self.bias, "alpha": torch.tensor(self.alpha, dtype=torch.float64)}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "gda.safetensors")
