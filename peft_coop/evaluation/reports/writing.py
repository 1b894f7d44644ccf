"""Reports of finished runs: mean and standard deviation over seeds, beside the papers' numbers, and pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .figures import base_to_new_figure, few_shot_figure, save_figure
from .formats import latex, markdown, runs_csv
from .lines import distinct, model_label
from .runs import Run, load_runs
from .tables import Table, make_tables

__all__ = ["Run", "Table", "format_report", "load_runs", "make_tables", "write_report"]

NOTE = "Where there are several seeds: mean ± sample standard deviation (divided by n - 1)."
FIGURES = {"few-shot": few_shot_figure, "base-to-new": base_to_new_figure}


def format_report(runs: Sequence[Run], metric: str = "accuracy") -> str:
    """All tables as Markdown that reads well in a terminal.

    Args:
        runs: as `load_runs` reads them.
        metric: "accuracy", "macro_accuracy" or "ece".

    Raises:
        ValueError: if there is no run, or no such metric.
    """
    tables = make_tables(runs, metric)
    return "\n\n".join(["# Report", NOTE, *map(markdown, tables)]) + "\n"


def write_report(runs: Sequence[Run], folder: str | os.PathLike, metric: str = "accuracy") -> list[Path]:
    """Write `report.md`, `report.tex` (for booktabs), `report.csv` (every run and split) and figures as PNG and PDF.

    Args:
        runs: as `load_runs` reads them.
        folder: made if it is not there.
        metric: what tables and figures show; the CSV has all.

    Returns:
        The files.

    Raises:
        ValueError: if there is no run, or no such metric.
    """
    tables, text = make_tables(runs, metric), format_report(runs, metric)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    figures = _write_figures(runs, target, metric)
    pictures = [f"![{path.stem}]({path.name})" for path in figures if path.suffix == ".png"]
    contents = {
        "report.md": "\n\n".join([text.rstrip("\n"), *pictures]) + "\n",
        "report.tex": "\n\n".join([r"% \usepackage{booktabs}", f"% {NOTE}", *map(latex, tables)]) + "\n",
        "report.csv": runs_csv(runs),
    }
    for name, content in contents.items():
        (target / name).write_text(content, encoding="utf-8")
    return [*(target / name for name in contents), *figures]


def _write_figures(runs: Sequence[Run], folder: Path, metric: str) -> list[Path]:
    """One figure per protocol and model; the model is in the file's name where there are several."""
    paths = []
    for protocol, draw in FIGURES.items():
        own = [run for run in runs if run.protocol == protocol]
        models = distinct(run.model for run in own)
        for number, model in enumerate(models, start=1):
            name = re.sub(r"[^A-Za-z0-9.]+", "-", model_label(model))
            stem = protocol if len(models) == 1 else f"{protocol}_{number}-{name}"
            figure = draw([run for run in own if run.model == model], metric)
            for ending in ("png", "pdf"):
                paths.append(folder / f"{stem}.{ending}")
                save_figure(figure, paths[-1])
    return paths
