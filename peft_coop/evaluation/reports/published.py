"""Numbers from the papers, to print beside one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ...methods import METHODS
from .averages import Value

# The papers' model and shots.
MODEL = "clip-vit-base-patch16"
NUM_SHOTS = 16
Row = tuple[Value, Value, Value]


def paper_names() -> dict[str, str]:
    """The keys of methods, and how the papers call them."""
    return {"zero-shot": "CLIP"} | {key: method.title for key, method in METHODS.items()}


def published_base_to_new(model: str, datasets: Sequence[str]) -> dict[str, Row]:
    """Base accuracy, new accuracy and H by the papers' name of a method, as fractions; none for other data or models.

    Args:
        model: Hub name or path; the papers' is ViT-B/16.
        datasets: one of the papers', or all eleven for the average.
    """
    if not model.rstrip("/").endswith(MODEL):
        return {}
    table = published()["base_to_new"]
    if len(datasets) == 1:
        rows = {} if datasets[0] == "average" else table.get(datasets[0], {})
    elif set(datasets) == table.keys() - {"average"}:
        rows = table["average"] | published()["average_of_later_methods"]
    else:
        rows = {}
    return {name: _fractions(row) for name, row in rows.items()}


@cache
def published() -> dict[str, Any]:
    """The tables, in percent, with their sources."""
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))


def _fractions(row: Sequence[float]) -> Row:
    base, new, mean = (Value(number / 100) for number in row)
    return base, new, mean
