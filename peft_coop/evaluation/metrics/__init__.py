"""Metrics for the `evaluate` library, which load without a network.

`evaluate.load(metric_path("ece"))` gives a metric, and so does `peft_coop.evaluation.metrics.ece.ECE()`. The modules
here import the package by its name, because `evaluate` runs a copy of them that lies elsewhere.
"""

from __future__ import annotations

from pathlib import Path

METRICS = ("accuracy", "macro_accuracy", "base_to_new", "ece", "czsl", "mean_iou")

__all__ = ["METRICS", "metric_path"]


def metric_path(name: str) -> str:
    """The file of a metric, for `evaluate.load`.

    Args:
        name: one of `METRICS`.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in METRICS:
        raise ValueError(f"A metric is one of {METRICS}, got {name!r}.")
    return str(Path(__file__).with_name(f"{name}.py"))
