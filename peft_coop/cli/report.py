"""`peft-coop report`: tables and figures of finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .messages import say
from .options import add_quiet

METRICS = ("accuracy", "macro_accuracy", "ece", "top5_accuracy", "mean_average_precision", "f1_macro", "f1_micro")
HELP = "default: accuracy, and of what has none, such as images with several labels, the first that there is"


def add_commands(commands: Any) -> None:
    """Add `report`."""
    parser = commands.add_parser(
        "report",
        help="tables and figures of finished runs",
        description="Print mean ± standard deviation over seeds, beside the papers' numbers where data and model are "
        "theirs, and write Markdown, LaTeX, CSV and figures.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders that hold results of `peft-coop benchmark`")
    parser.add_argument("--metric", choices=METRICS, default="accuracy", help=HELP)
    parser.add_argument("--output", type=Path, help="folder for files (default: `report` in the first folder)")
    add_quiet(parser)
    parser.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> None:
    """Read, print and write."""
    from ..evaluation import format_report, load_runs, write_report

    left_out: list[str] = []
    runs = load_runs(options.runs, left_out)
    for reason in left_out:
        say(reason)
    first = options.runs[0]
    output = options.output or (first if first.is_dir() else first.parent) / "report"
    write_report(runs, output, options.metric)
    print(format_report(runs, options.metric))
    say(f"wrote tables and figures to {output}")
