"""Alpha and beta of Tip-Adapter: the published ones, and where they are searched for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class TipValues:
    """Alpha and beta, and where they are searched for.

    Attributes:
        alpha: the cache's weight where it is not searched for, and in the training of Tip-Adapter-F.
        largest_alpha: where the search ends; it begins at 0.1.
        largest_beta: likewise.
        beta: how fast a key's vote falls with its distance, where it is not searched for and in the training.
        alpha_steps: values of alpha that are tried.
        beta_steps: values of beta that are tried.

    Raises:
        ValueError: if a number is not above 0 and finite.
    """

    alpha: float
    largest_alpha: float
    largest_beta: float
    beta: float = 1.0
    alpha_steps: int = 20
    beta_steps: int = 200

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < getattr(self, field.name) < math.inf:
                raise ValueError(f"`{field.name}` must be above 0 and finite, got {getattr(self, field.name)}.")

    @property
    def alphas(self) -> list[float]:
        """What is tried for alpha; the end is not among them, as in the original."""
        return _steps(self.largest_alpha, self.alpha_steps)

    @property
    def betas(self) -> list[float]:
        """What is tried for beta."""
        return _steps(self.largest_beta, self.beta_steps)


def _steps(end: float, count: int) -> list[float]:
    return [0.1 + number * (end - 0.1) / count for number in range(count)]


# The original's configurations, for 16 images per class and a ResNet-50.
PUBLISHED = {
    "imagenet": TipValues(1.17, 3, 7),
    "caltech101": TipValues(3, 5, 12),
    "dtd": TipValues(2, 13, 13),
    "eurosat": TipValues(2, 10, 12),
    "fgvc_aircraft": TipValues(5, 30, 30),
    "food101": TipValues(1.17, 10, 10),
    "oxford_flowers": TipValues(10, 50, 50),
    "oxford_pets": TipValues(1.17, 3, 7),
    "stanford_cars": TipValues(3, 10, 20),
    "sun397": TipValues(1.17, 10, 12),
    "ucf101": TipValues(3, 3, 7),
}
# Of other data: the medians of the eleven.
OTHERWISE = TipValues(2, 10, 12)
