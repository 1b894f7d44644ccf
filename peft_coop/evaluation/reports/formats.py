"""Tables as Markdown and LaTeX, runs as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from .lines import Value, distinct
from .runs import METRICS, TEXTS, Run
from .tables import Cell, Table

MISSING = "–"
# In one pass, so that no replacement is replaced again.
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
}


def markdown(table: Table) -> str:
    """A heading and a table whose columns stand below each other in a terminal too."""
    rows = [table.columns, *([label, *map(_text, cells)] for label, cells in table.rows)]
    escaped = [[_escape_markdown(text) for text in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*escaped, strict=True)]
    head, *body = (_markdown_row(row, widths) for row in escaped)
    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    note = ["", table.note] if table.note else []
    return "\n".join([f"## {_escape_markdown(table.title)}", "", head, rule, *body, *note])


def latex(table: Table) -> str:
    """A `table` with a `tabular` in the style of the package booktabs."""
    caption = escape_latex(f"{table.title}. {table.note}".strip())
    rows = [_latex_row([label, *map(_text, cells)]) for label, cells in table.rows]
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{caption}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _latex_row(table.columns),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def escape_latex(text: str) -> str:
    """Text for LaTeX, with its special characters as characters and its quotes as a pair."""
    escaped = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r'"([^"]*)"', r"``\1''", escaped)


def runs_csv(runs: Sequence[Run]) -> str:
    """One row per run and split: what the run is, every metric as a fraction, every setting as `settings.NAME`."""
    names = distinct(name for run in runs for name in run.settings)
    fields = [*TEXTS, "seed", "split", *METRICS, "num_examples", *(f"settings.{name}" for name in names)]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(run, split) for run in runs for split in run.results)
    return text.getvalue()


def _csv_row(run: Run, split: str) -> dict[str, Any]:
    measured = {name: run.results[split][name] for name in (*METRICS, "num_examples")}
    settings = {f"settings.{name}": _csv_value(value) for name, value in run.settings.items()}
    return {name: getattr(run, name) for name in TEXTS} | {"seed": run.seed, "split": split} | measured | settings


def _csv_value(value: Any) -> Any:
    """Texts and numbers as they are, nothing for None, the rest as JSON."""
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    return json.dumps(value, ensure_ascii=False)


def _text(cell: Cell) -> str:
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    return _percent(cell)


def _percent(value: Value) -> str:
    mean = f"{100 * value.mean:.2f}"
    return mean if value.std is None else f"{mean} ± {100 * value.std:.2f}"


def _escape_markdown(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _markdown_row(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
    return "| " + " | ".join(cells) + " |"


def _latex_row(row: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, row)) + r" \\"
