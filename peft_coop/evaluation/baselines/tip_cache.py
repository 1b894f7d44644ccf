"""A cache of training images' features that votes for their classes, beside zero-shot CLIP.

Shapes: N training images (the cache's keys), A views of each, B other images, K classes, P projection width.

Reference: Tip-Adapter (arXiv:2207.09519).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...towers import normalize
from ..compared_methods import Classifier
from ..frozen_clip import FrozenCLIP
from ..templates import zero_shot_templates
from .hand_written_prompts import text_features, text_logits
from .tip_values import TipValues

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 4096  # images whose affinities to all keys are in memory


@dataclass(frozen=True)
class Trial:
    """Images that values are tried on.

    Attributes:
        zero_shot: logits `[B, K]`.
        affinity: cosines with the keys, `[B, N]`.
        values: the keys' classes, `[N, K]`.
        labels: the truth, `[B]`.
    """

    zero_shot: Tensor
    affinity: Tensor
    values: Tensor
    labels: Tensor


def cache_keys(features: Tensor) -> Tensor:
    """Keys `[N, P]` of features `[N, A, P]`: the mean of an image's views, not normalised before but after it."""
    return normalize(features.mean(dim=1))


def cache_logits(affinity: Tensor, values: Tensor, beta: float) -> Tensor:
    """What the cache says, `[B, K]`: each key votes for its class with exp(-beta (1 - cosine)).

    Args:
        affinity: cosines with the keys, `[B, N]`.
        values: the keys' classes, `[N, K]`, one or zero.
        beta: how fast a vote falls with the distance.
    """
    return torch.exp(beta * (affinity - 1)) @ values


def search(trials: Sequence[Trial], values: TipValues) -> tuple[float, float]:
    """The alpha and beta that get most images right; of equally good ones the first, smallest beta first.

    Args:
        trials: what to try on.
        values: what to try.
    """
    most, best = -1, (values.alpha, values.beta)
    for beta in values.betas:
        cached = [cache_logits(trial.affinity, trial.values, beta) for trial in trials]
        for alpha in values.alphas:
            right = sum(
                int(((trial.zero_shot + alpha * logits).argmax(dim=1) == trial.labels).sum())
                for trial, logits in zip(trials, cached, strict=True)
            )
            if right > most:
                most, best = right, (alpha, beta)
    return best


class TipClassifier(Classifier):
    """Zero-shot CLIP and a cache; for a class of which the cache has no image, zero-shot CLIP alone.

    Args:
        clip: the pretrained model.
        class_names: the classes of the labels.
        templates: hand-written prompts, averaged.
        keys: `[N, P]`.
        labels: `[N]`.
        alpha: the cache's weight.
        beta: see `cache_logits`.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        class_names: Sequence[str],
        templates: Sequence[str],
        keys: Tensor,
        labels: Tensor,
        alpha: float,
        beta: float,
    ):
        self.clip = clip
        self.class_names = list(class_names)
        self.templates = list(templates)
        self.keys = keys
        self.labels = labels
        self.alpha = alpha
        self.beta = beta

    @cached_property
    def texts(self) -> Tensor:
        """Text features `[K, P]` of the classes of the labels."""
        return text_features(self.clip, self.class_names, self.templates)

    def part(self, kept: Tensor) -> TipClassifier:
        """With a cache of some of the images, by their numbers."""
        part = copy(self)
        part.keys, part.labels = self.keys[kept], self.labels[kept]
        return part

    @torch.no_grad()
    def trial(self, embeds: Tensor, labels: Tensor) -> Trial:
        """What to choose alpha and beta by.

        Args:
            embeds: L2-normalised image features, `[B, P]`.
            labels: the truth, `[B]`.
        """
        zero_shot = text_logits(self.clip, embeds, self.texts)
        return Trial(zero_shot, embeds @ self.keys.T, self.values(self.class_names), labels)

    def for_data(self, data: str, zero_shot_template: str) -> TipClassifier:
        """With the prompts of that dataset, and the same cache."""
        templates = zero_shot_templates(data, zero_shot_template)
        return TipClassifier(self.clip, self.class_names, templates, self.keys, self.labels, self.alpha, self.beta)

    @torch.no_grad()
    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """Logits `[B, K]` over any classes."""
        features = text_features(self.clip, class_names, self.templates)
        values = self.values(class_names)
        rows = [
            text_logits(self.clip, embeds, features)
            + self.alpha * cache_logits(embeds @ self.keys.T, values, self.beta)
            for embeds in self.clip.image_embeds(images).split(ROWS_AT_ONCE)
        ]
        return torch.cat(rows).cpu().numpy()

    def values(self, class_names: Sequence[str]) -> Tensor:
        """The keys' classes, `[N, K]`: a column of zeros for a class of which there is no key."""
        columns = list(range(len(self.class_names)))
        if list(class_names) != self.class_names:  # of duplicates the first counts, unless all are asked for
            known = {name: number for number, name in reversed(list(enumerate(self.class_names)))}
            columns = [known.get(name, -1) for name in class_names]
        return (self.labels[:, None] == torch.tensor(columns, device=self.labels.device)).to(self.keys)

    def save(self, folder: Path) -> None:
        """Write `keys`, `labels`, `alpha` and `beta` to `tip_adapter.safetensors`."""
        numbers = {"alpha": self.alpha, "beta": self.beta}
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file({**tensors, "keys": self.keys, "labels": self.labels}, folder / "tip_adapter.safetensors")
