"""Averages over seeds and datasets, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """A metric over seeds, as a fraction.

    Attributes:
        mean: over the seeds.
        std: the sample standard deviation (divided by n - 1); None with one seed, or where it has no meaning.
        num_seeds: how many there are; 0 for a number that somebody else published.
    """

    mean: float
    std: float | None = None
    num_seeds: int = 0


def over_seeds(by_seed: dict[int, float]) -> Value | None:
    """Mean and sample standard deviation; None if there is no seed."""
    numbers = list(by_seed.values())
    if not numbers:
        return None
    return Value(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None, len(numbers))


def over_datasets(parts: Sequence[dict[int, float]]) -> Value | None:
    """Average over datasets of what each seed gave; None if there is no dataset, or one has no run.

    The standard deviation is that of the seeds' averages. Where datasets have different seeds there is none.
    """
    if not parts or not all(parts):
        return None
    if all(part.keys() == parts[0].keys() for part in parts):
        return over_seeds({seed: statistics.fmean(part[seed] for part in parts) for seed in parts[0]})
    return Value(statistics.fmean(statistics.fmean(part.values()) for part in parts), None, min(map(len, parts)))
