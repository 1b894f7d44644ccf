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
# The model of the papers on compositions, and what they report.
COMPOSITION_MODEL = "clip-vit-large-patch14"
PUBLISHED_METRICS = ("seen", "unseen", "HM", "AUC")
NOTHING_PUBLISHED: list[Value | None] = [None] * len(PUBLISHED_METRICS)
# Fields of a recipe, which are among a run's settings only where they are not the paper's.
RECIPE_FIELDS = {"num_epochs", "batch_size", "learning_rate"}
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


def published_compositions(model: str, data: str, world: str) -> dict[str, list[Value]]:
    """Seen and unseen accuracy, HM and AUC by the papers' name of a method, as fractions; none for others.

    Args:
        model: Hub name or path; the papers' is ViT-L/14.
        data: the dataset's name.
        world: "closed" or "open", calibrated or not.
    """
    if not model.rstrip("/").endswith(COMPOSITION_MODEL):
        return {}
    rows = published()["compositions"].get(data, {}).get(world.partition(",")[0], {})
    return {name: [Value(number / 100) for number in row] for name, row in rows.items()}


def published_compositions_note(data: str, world: str) -> str:
    """Where the published numbers of a table are from."""
    source, by_method = published()["source"], published()["source_of_compositions"]
    names = published()["compositions"][data][world.partition(",")[0]]
    parts = dict.fromkeys(by_method[name] for name in names)
    open_world = " In the open world they are with feasibility calibration." if world.startswith("open") else ""
    return f"Published, all second-hand: {'; '.join(source[part] for part in parts)}.{open_world}"


@cache
def published() -> dict[str, Any]:
    """The tables, in percent, with their sources."""
    return json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))


def _fractions(row: Sequence[float]) -> Row:
    base, new, mean = (Value(number / 100) for number in row)
    return base, new, mean
