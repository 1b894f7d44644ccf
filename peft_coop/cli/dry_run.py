"""`--dry-run`: the runs of a benchmark, and an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.planning import PlannedRun

HEADING = ("dataset", "method", "shots", "seed", "images", "steps", "estimate", "")


def format_plan(runs: Sequence[PlannedRun], seconds_per_image: float) -> str:
    """A line for every run, and the sum.

    Args:
        runs: what would be done.
        seconds_per_image: what the vision tower takes for an image.
    """
    from ..evaluation.planning import images_to_encode

    rows = [HEADING, *(_row(run) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADING))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    open_runs = [run for run in runs if not run.finished]
    encoded = images_to_encode(runs)
    steps = sum(run.seconds or 0.0 for run in open_runs)
    unknown = sorted({run.key.method_name for run in open_runs if run.seconds is None and run.num_steps != 0})
    return "\n".join(
        [
            *lines,
            "",
            f"{len(runs):,} runs: {len(runs) - len(open_runs):,} finished, {len(open_runs):,} to do, about "
            f"{duration(steps + encoded * seconds_per_image)} on this machine: {duration(steps)} for training steps, "
            f"{duration(encoded * seconds_per_image)} for the features of {encoded:,} images, where they are "
            "not kept from before.",
            f"Not in it: reading the images{', and ' + ', '.join(unknown) if unknown else ''}.",
        ]
    )


def _row(run: PlannedRun) -> tuple[str, ...]:
    estimate = "" if run.finished or run.seconds is None else duration(run.seconds)
    shots = run.key.settings["num_shots"]
    context = run.key.settings.get("n_ctx") or run.key.settings.get("ctx_init")
    name = f"{run.key.method_name} ({context})" if context else run.key.method_name
    drawn = (str(shots), str(run.key.seed)) if shots else ("–", "–")
    steps = "–" if run.num_steps is None else f"{run.num_steps:,}"
    return (run.key.data, name, *drawn, f"{run.num_train:,}", steps, estimate, "finished" if run.finished else "to do")


def duration(seconds: float) -> str:
    """A time as a human says it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
