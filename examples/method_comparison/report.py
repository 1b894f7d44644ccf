"""The table and the figures of `run.py`: accuracy over seconds, and over bytes of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from experiments import every_method

from peft_coop.evaluation import TowerTuning
from peft_coop.evaluation.reports.styles import method_colors

COLUMNS = ("accuracy in %", "seconds", "steps", "peak memory in MB", "trainable parameters", "checkpoint in bytes")


def write_report(results: Path, folder: Path) -> str:
    """Write `results.md` and two figures.

    Args:
        results: folder of the records.
        folder: for the files.

    Returns:
        The table.
    """
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*.json"))]
    by_method: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_method.setdefault(record["run_info"]["experiment_name"].partition("/")[0], []).append(record)
    rows = {key: summary(by_method[key]) for key in every_method() if key in by_method}
    heading = f"| method | {' | '.join(COLUMNS)} |"
    table = "\n".join([heading, "|---|" + "---:|" * len(COLUMNS), *(line(key, row) for key, row in rows.items())])
    (folder / "results.md").write_text(table + "\n", encoding="utf-8")
    draw(rows, "seconds", "seconds of training (one thread)", folder / "accuracy-over-seconds.png")
    draw(rows, "bytes", "bytes of the checkpoint", folder / "accuracy-over-bytes.png")
    return table


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds; the accuracies as they are, in percent."""
    train = [record["train_info"] for record in records]
    own = "train_cpu_time" if records[0]["meta_info"]["system_info"]["accelerator"] == "none" else "train_time"
    return {
        "accuracies": [100 * each["metrics"][-1]["test accuracy"] for each in train],
        "seconds": mean(each[own] for each in train),
        "steps": train[0]["metrics"][-1]["step"],
        "memory": mean(each["accelerator_memory_max"] for each in train),
        "numbers": train[0]["num_trainable_params"],
        "bytes": train[0]["file_size"],
    }


def line(key: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    spread = f" ± {stdev(row['accuracies']):.1f}" if len(row["accuracies"]) > 1 else ""
    cells = [
        every_method()[key].name,
        f"{mean(row['accuracies']):.1f}{spread}",
        f"{row['seconds']:.0f}",
        f"{row['steps']:,}",
        f"{row['memory'] / 1e6:.0f}",
        f"{row['numbers']:,}",
        f"{row['bytes']:,}",
    ]
    return "| " + " | ".join(cells) + " |"


def draw(rows: dict[str, dict[str, Any]], name: str, label: str, path: Path) -> None:
    """Circles for prompts, squares for what tunes the towers' weights, a line for what learns nothing."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = {"ia3": "#c7a500", **method_colors()}
    for key, row in rows.items():
        method, height = every_method()[key], mean(row["accuracies"])
        if not method.learns:
            axes.axhline(height, color=colours[key], linestyle="--", linewidth=1, label=method.name)
            continue
        style = {"color": colours[key], "marker": "s" if isinstance(method, TowerTuning) else "o", "linestyle": "none"}
        axes.plot(row[name], height, label=method.name, markersize=8, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy in %")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
