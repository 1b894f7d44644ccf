"""Pictures of results, of the sizes and fonts of a paper: a column or a page wide."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bars import base_to_new_figure, transfer_figure
from .curves import few_shot_figure
from .dots import ablation_figure
from .finished_runs import Run
from .segmentation_tables import segmentation_figure
from .trade_offs import composition_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FIGURES",
    "ablation_figure",
    "base_to_new_figure",
    "composition_figure",
    "few_shot_figure",
    "plot_ablation",
    "plot_base_to_new",
    "plot_composition",
    "plot_few_shot",
    "plot_transfer",
    "save_figure",
    "transfer_figure",
]

# By protocol.
FIGURES: dict[str, Callable[[Sequence[Run], str], Figure]] = {
    "few-shot": few_shot_figure,
    "base-to-new": base_to_new_figure,
    "cross-dataset": transfer_figure,
    "domain": transfer_figure,
    "ablation": ablation_figure,
    "composition": composition_figure,
    "segmentation": segmentation_figure,
    "video-few-shot": few_shot_figure,
    "video-base-to-new": base_to_new_figure,
    "several-labels-few-shot": few_shot_figure,
}


def plot_few_shot(runs: Sequence[Run], path: str | os.PathLike, metric: str = "accuracy") -> None:
    """Draw a metric over training images per class: a panel for each dataset, with the average if there are several.

    Args:
        runs: of the few-shot protocol, and of one model.
        path: the file; its ending says which kind, such as ".png" or ".pdf".
        metric: "accuracy", "macro_accuracy" or "ece".

    Raises:
        ValueError: if there is no such run or metric.
    """
    save_figure(few_shot_figure(runs, metric), path)


def plot_base_to_new(runs: Sequence[Run], path: str | os.PathLike, metric: str = "accuracy") -> None:
    """Draw a pair of bars for each method, base and new classes, with their harmonic mean.

    Args:
        runs: of the base-to-new protocol, and of one model.
        path: the file; its ending says which kind, such as ".png" or ".pdf".
        metric: "accuracy", "macro_accuracy" or "ece".

    Raises:
        ValueError: if there is no such run or metric.
    """
    save_figure(base_to_new_figure(runs, metric), path)


def plot_transfer(runs: Sequence[Run], path: str | os.PathLike, metric: str = "accuracy") -> None:
    """Draw a bar for each method, on what was learned from and on each target.

    Args:
        runs: of the cross-dataset or domain protocol, of one model and one source.
        path: the file; its ending says which kind, such as ".png" or ".pdf".
        metric: "accuracy", "macro_accuracy" or "ece".

    Raises:
        ValueError: if there is no such run or metric.
    """
    save_figure(transfer_figure(runs, metric), path)


def plot_ablation(runs: Sequence[Run], path: str | os.PathLike, metric: str = "accuracy") -> None:
    """Draw a dot for each combination of settings, a panel for each dataset.

    Args:
        runs: of the ablation protocol, of any models.
        path: the file; its ending says which kind, such as ".png" or ".pdf".
        metric: "accuracy", "macro_accuracy" or "ece".

    Raises:
        ValueError: if there is no such run or metric.
    """
    save_figure(ablation_figure(runs, metric), path)


def plot_composition(runs: Sequence[Run], path: str | os.PathLike) -> None:
    """Draw the accuracy on seen pairs over that on unseen pairs, a panel for each world.

    Args:
        runs: of the composition protocol, of one model and one dataset.
        path: the file; its ending says which kind, such as ".png" or ".pdf".

    Raises:
        ValueError: if there is no such run, or they are of several datasets.
    """
    save_figure(composition_figure(runs), path)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure to a file, the same bytes for the same figure."""
    import matplotlib

    undated: dict[str, Any] = {"CreationDate": None} if Path(path).suffix == ".pdf" else {}
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # publishers refuse the default, Type 3 fonts
        figure.savefig(path, dpi=300, metadata=undated)
