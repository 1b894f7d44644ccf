"""Reports of finished runs: mean and standard deviation over seeds, beside the papers' numbers, and pictures."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..output_folders import put
from ..run_folders import ADAPTER
from .figures import FIGURES, save_figure
from .finished_runs import Run, load_runs
from .formats import latex, markdown, runs_csv, slug
from .grouped_runs import distinct, make_lines, model_label
from .paper_tables import make_paper_tables
from .table_rows import Table
from .tables import make_tables, runs_by_model

__all__ = ["Run", "Table", "format_report", "load_runs", "make_tables", "write_report"]

NOTE = (
    "Where there are several seeds: mean ± sample standard deviation (divided by n - 1). The original's scripts print "
    "the population's (divided by n), which is smaller by a fifth for three seeds."
)
PACKAGES = r"% \usepackage{booktabs,adjustbox}"


def format_report(runs: Sequence[Run], metric: str = "accuracy") -> str:
    """All tables as Markdown that reads well in a terminal.

    Args:
        runs: as `load_runs` reads them.
        metric: "accuracy", "macro_accuracy" or "ece"; of videos also "top5_accuracy"; of several labels per image
            "mean_average_precision", "f1_macro" or "f1_micro". A protocol without it shows its first.

    Raises:
        ValueError: if there is no run, or no such metric.
    """
    tables = make_tables(runs, metric)
    return "\n\n".join(["# Report", NOTE, *map(markdown, tables)]) + "\n"


def write_report(runs: Sequence[Run], folder: str | os.PathLike, metric: str = "accuracy") -> list[Path]:
    r"""Write `report.md`, `report.tex`, `report.csv` (every run and split) and figures as PNG and PDF.

    `report.tex` is for `\input`, with the packages booktabs and adjustbox: a table for each protocol and model, which
    fits a page, with a `\label` and the best in bold. Figures are a column (3.25 inches) or a page (6.75 inches) wide.

    Args:
        runs: as `load_runs` reads them.
        folder: made if it is not there.
        metric: what tables and figures show; the CSV has all.

    Returns:
        The files.

    Raises:
        ValueError: if there is no run, no such metric, or a file is in the way that someone else has written, or
            changed; then nothing is written.
    """
    with tempfile.TemporaryDirectory() as draft:
        names = [path.name for path in _write_files(runs, Path(draft), metric)]
        put(Path(draft), Path(folder))
    return [Path(folder) / name for name in names]


def _write_files(runs: Sequence[Run], target: Path, metric: str) -> list[Path]:
    text, tables = format_report(runs, metric), make_paper_tables(runs, metric)
    figures = [*_write_figures(runs, target, metric), *_copy_pictures(runs, target)]
    pictures = [f"![{path.stem}]({path.name})" for path in figures if path.suffix == ".png"]
    contents = {
        "report.md": "\n\n".join([text.rstrip("\n"), *pictures]) + "\n",
        "report.tex": "\n\n".join([PACKAGES, f"% {NOTE}", *map(latex, tables)]) + "\n",
        "report.csv": runs_csv(runs),
    }
    for name, content in contents.items():
        (target / name).write_text(content, encoding="utf-8")
    return [*(target / name for name in contents), *figures]


def _write_figures(runs: Sequence[Run], folder: Path, metric: str) -> list[Path]:
    paths = []
    for protocol, draw in FIGURES.items():
        for suffix, own in _runs_by_figure(runs, protocol).items():
            figure = draw(own, metric)
            for ending in ("png", "pdf"):
                paths.append(folder / f"{protocol}{suffix}.{ending}")
                save_figure(figure, paths[-1])
    return paths


def _copy_pictures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """The pictures that runs have made of what they learned: of each line of a table that of its first seed."""
    paths = []
    for data in distinct(run.data for run in runs):
        for number, line in enumerate(make_lines([run for run in runs if run.data == data]), start=1):
            first = min(line.runs, key=lambda run: run.seed)
            for picture in sorted((first.path.parent / ADAPTER).glob("*.png")):
                paths.append(folder / f"{slug(data)}_{number}-{slug(line.method)}_{picture.name}")
                shutil.copyfile(picture, paths[-1])
    return paths


def _runs_by_figure(runs: Sequence[Run], protocol: str) -> dict[str, list[Run]]:
    """The runs of each figure, by what its file's name ends with where there are several."""
    by_model = runs_by_model(runs, protocol)
    if protocol in ("cross-dataset", "domain", "composition"):
        parts = [[run for run in own if run.data == data] for own in by_model for data in distinct(r.data for r in own)]
        names = [f"{own[0].data} {model_label(own[0].model)}" for own in parts]
    else:
        parts, names = by_model, [model_label(own[0].model) for own in by_model]
    if len(parts) < 2:
        return dict(zip([""], parts, strict=False))
    return {
        f"_{number}-{slug(name)}": own for number, (name, own) in enumerate(zip(names, parts, strict=True), start=1)
    }
