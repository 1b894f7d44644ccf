"""The table and the figure of `compare.py`: accuracy over seconds."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

COLOURS = ["#555555", "#9ecae1", "#4292c6", "#08519c", "#d95f0e"]


def write_report(runs: list[dict[str, Any]], ways: list[str], folder: Path) -> str:
    """Write `results.md` and `accuracy-over-seconds.png`.

    Args:
        runs: `data`, `shots`, `seed`, `way`, `accuracy` as a fraction, and `seconds`.
        ways: in the order of the rows.
        folder: for the files.

    Returns:
        The table.
    """
    tasks = list(dict.fromkeys((run["data"], run["shots"]) for run in runs))
    cells = {(task, way): [run for run in runs if (run["data"], run["shots"], run["way"]) == (*task, way)]
             for task in tasks for way in ways}  # fmt: skip
    heading = "| training | " + " | ".join(f"{_named(task)} | seconds" for task in tasks) + " |"
    lines = [heading, "|---|" + "---:|---:|" * len(tasks)]
    for way in ways:
        lines.append("| " + " | ".join([way, *(_cell(cells[task, way]) for task in tasks)]) + " |")
    table = "\n".join(lines)
    (folder / "results.md").write_text(table + "\n", encoding="utf-8")
    _draw(tasks, ways, cells, folder / "accuracy-over-seconds.png")
    return table


def _named(task: tuple[str, int]) -> str:
    data, shots = task
    return f"{data}, {shots} shot{'s' * (shots != 1)}"


def _cell(runs: list[dict[str, Any]]) -> str:
    """Mean and sample standard deviation of the accuracy in percent, and the mean of the seconds."""
    if not runs:
        return "– | –"
    accuracies = [100 * run["accuracy"] for run in runs]
    spread = f" ± {stdev(accuracies):.1f}" if len(runs) > 1 else ""
    return f"{mean(accuracies):.1f}{spread} | {mean(run['seconds'] for run in runs):.1f}"


def _draw(tasks: list[tuple[str, int]], ways: list[str], cells: dict, path: Path) -> None:
    """A panel for each task: every seed as a dot, the mean as a line across its own way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.3 * len(tasks), 2.9), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        for way, colour in zip(ways, COLOURS, strict=True):
            runs = cells[task, way]
            if not runs:
                continue
            seconds, accuracies = ([run[name] for run in runs] for name in ("seconds", "accuracy"))
            accuracies = [100 * each for each in accuracies]
            panel.plot(seconds, accuracies, "o", color=colour, markersize=3, alpha=0.5)
            panel.plot(
                mean(seconds), mean(accuracies), "_", color=colour, markersize=16, markeredgewidth=2.5, label=way
            )
        panel.set_xscale("log")
        panel.set_title(_named(task), fontsize=9)
        panel.set_xlabel("seconds of training", fontsize=8)
        panel.tick_params(labelsize=7, which="both")
    panels[0].set_ylabel("accuracy in %", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(ways), fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
