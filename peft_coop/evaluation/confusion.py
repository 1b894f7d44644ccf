"""The confusion matrix as a text, a CSV and a picture, with each class's accuracy."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np

from .predictions import Predictions, check_suffix
from .word_tables import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = (".png", ".pdf", ".svg")
# The most classes that a text has a matrix of; of more it tells the commonest mistakes, so many of them.
PRINTED_CLASSES = 20
MISTAKES = 20
# The most characters of a class's name.
PRINTED_NAME = 24
# The most classes for which a picture has numbers in its cells, and names at its sides.
NUMBERED_CLASSES = 25
NAMED_CLASSES = 100
CELL, SMALLEST, LARGEST = 0.34, 3.0, 14.0  # inches


def format_per_class(predictions: Predictions) -> str:
    """Every class with its images and its accuracy in percent, the worst first."""
    rows = sorted(predictions.per_class(), key=lambda row: (row["accuracy"] is None, row["accuracy"]))
    width = max(len(_short(row["class"])) for row in rows)
    lines = [f"  {'class':<{width}}  accuracy    right of images"]
    for row in rows:
        share = "–" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}%"
        lines.append(f"  {_short(row['class']):<{width}}  {share:>8}  {row['right']:>7,} of {row['images']:,}")
    return "\n".join(lines)


def format_confusion(predictions: Predictions) -> str:
    """The matrix, a row for each true class; of more than 20 classes the commonest mistakes instead."""
    names, counts = predictions.class_names, predictions.confusion()
    if len(names) > PRINTED_CLASSES:
        return format_mistakes(predictions)
    letters = ascii_uppercase[: len(names)]
    cell = max(len(f"{counts.max():,}"), 2) + 2
    width = max(len(_short(name)) for name in names)
    lines = [f"  {'true class':<{width + 4}}" + "".join(f"{letter:>{cell}}" for letter in letters) + "   predicted"]
    for letter, name, row in zip(letters, names, counts, strict=True):
        cells = "".join(f"{count or '·':>{cell}}" for count in row)
        lines.append(f"  {letter:>2}  {_short(name):<{max(width, 10 - 4)}}{cells}")
    return "\n".join(lines)


def format_mistakes(predictions: Predictions) -> str:
    """The pairs of classes that were taken for each other most often."""
    counts = predictions.confusion()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MISTAKES]
    pairs = [(counts.flat[place], *divmod(int(place), len(counts))) for place in order if counts.flat[place]]
    if not pairs:
        return "  no mistake"
    names = predictions.class_names
    lines = [f"  the commonest of {counts.sum():,} mistakes: images, true class → predicted class"]
    return "\n".join(lines + [f"  {count:>6,}  {names[true]} → {names[taken]}" for count, true, taken in pairs])


def write_confusion(predictions: Predictions, path: str | os.PathLike) -> None:
    """Write the matrix as a CSV with its counts, or as a picture of each true class's shares.

    Args:
        predictions: of any number of classes; a picture names up to 100 of them.
        path: a file whose name ends in ".csv", ".png", ".pdf" or ".svg"; its folder is made if need be.

    Raises:
        ValueError: if the name ends otherwise.
    """
    suffix = check_suffix(path, (".csv", *PICTURES))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if suffix in PICTURES:
        _draw(predictions, path)
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["true class", *predictions.class_names, "images", "accuracy"])
        for row, about in zip(predictions.confusion().tolist(), predictions.per_class(), strict=True):
            accuracy = "" if about["accuracy"] is None else about["accuracy"]
            table.writerow([about["class"], *row, about["images"], accuracy])


def _draw(predictions: Predictions, path: str | os.PathLike) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = predictions.confusion()
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = min(max(CELL * len(counts), SMALLEST), LARGEST)
    figure = Figure(figsize=(side + 2.4, side + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    _name_classes(axes, predictions)
    if len(counts) <= NUMBERED_CLASSES:
        _number_cells(axes, 100 * shares)
    figure.colorbar(image, ax=axes, shrink=0.7, label="% of the true class's images")
    figure.savefig(path, dpi=150)


def _name_classes(axes: Axes, predictions: Predictions) -> None:
    """Class names at both sides, each true class with its accuracy."""
    names = [drawable(name, PRINTED_NAME) for name in predictions.class_names]
    places: Sequence[int] = range(len(names))
    if len(names) > NAMED_CLASSES:  # they would be printed over each other
        axes.set(xticks=[], yticks=[])
    else:
        size = max(4.0, min(9.0, 72 * LARGEST / len(names) * 0.8))
        shares = [
            "–" if row["accuracy"] is None else f"{100 * row['accuracy']:.0f}%" for row in predictions.per_class()
        ]
        rows = [f"{name}  {share:>4}" for name, share in zip(names, shares, strict=True)]
        axes.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(places, rows, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class, and its accuracy")


def _number_cells(axes: Axes, percents: Any) -> None:
    """Rounded percents in the cells; what rounds to 0 stays empty."""
    for row, column in np.argwhere(percents >= 0.5):
        share = percents[row, column]
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color="w" if share > 55 else "k")


def _short(name: str) -> str:
    return name if len(name) <= PRINTED_NAME else f"{name[: PRINTED_NAME - 1]}…"
