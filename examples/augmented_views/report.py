"""The table and the figure of `compare.py`: accuracy and seconds."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

COLOURS = ["#555555", "#9ecae1", "#4292c6", "#08519c", "#d95f0e"]


def write_report(runs: list[dict[str, Any]], ways: list[str], folder: Path) -> str:
    """Write `results.md` and `accuracy.png`.

    Args:
        runs: `data`, `shots`, `seed`, `way`, `accuracy` as a fraction, and `seconds`.
        ways: in the order of the columns.
        folder: for the files.

    Returns:
        The table.
    """
    tasks = list(dict.fromkeys((run["data"], run["shots"]) for run in runs))
    cells = {(task, way): [run for run in runs if (run["data"], run["shots"], run["way"]) == (*task, way)]
             for task in tasks for way in ways}  # fmt: skip
    lines = ["| | " + " | ".join(f"`{way}`" if way.startswith("--") else way for way in ways) + " |"]
    lines.append("|---|" + "---:|" * len(ways))
    for task in tasks:
        lines.append("| " + " | ".join([_named(task), *(_cell(cells[task, way]) for way in ways)]) + " |")
    table = "\n".join(lines)
    (folder / "results.md").write_text(table + "\n", encoding="utf-8")
    _draw(tasks, ways, cells, folder / "accuracy.png")
    return table


def _named(task: tuple[str, int]) -> str:
    data, shots = task
    return f"{data}, {shots} shot{'s' * (shots != 1)}"


def _cell(runs: list[dict[str, Any]]) -> str:
    """Mean and sample standard deviation of the accuracy in percent, and the mean of the seconds."""
    if not runs:
        return "–"
    accuracies = [100 * run["accuracy"] for run in runs]
    spread = f" ± {stdev(accuracies):.1f}" if len(runs) > 1 else ""
    return f"{mean(accuracies):.1f}{spread} ({mean(run['seconds'] for run in runs):.1f} s)"


def _draw(tasks: list[tuple[str, int]], ways: list[str], cells: dict, path: Path) -> None:
    """A panel for each task: every seed's accuracy as a dot, their mean as a line, and the seconds below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.5 * len(tasks), 2.6), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        names = []
        for place, (way, colour) in enumerate(zip(ways, COLOURS, strict=True)):
            runs = cells[task, way]
            accuracies = [100 * run["accuracy"] for run in runs]
            panel.plot([place] * len(runs), accuracies, "o", color=colour, markersize=3.5, alpha=0.6)
            seconds = "–"
            if runs:
                panel.plot(place, mean(accuracies), "_", color=colour, markersize=18, markeredgewidth=2.5)
                seconds = f"{mean(run['seconds'] for run in runs):.2g} s"
            names.append(f"{way.removeprefix('--').replace(' features', '')}\n{seconds}")
        panel.set_xticks(range(len(ways)), names, fontsize=6)
        panel.margins(x=0.12)
        panel.set_title(_named(task), fontsize=9)
        panel.tick_params(axis="y", labelsize=7)
    panels[0].set_ylabel("accuracy in %", fontsize=8)
    figure.savefig(path, dpi=150)
