"""Tables as Markdown and LaTeX, runs as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from ...markdown import escape as escape_markdown
from ...markdown import table_row
from .averages import Value
from .finished_runs import TEXTS, Run, metrics_of
from .grouped_runs import distinct
from .paper_tables import PaperTable
from .table_rows import Cell, Table

MISSING = "–"
# Characters in a line of a column's heading in LaTeX.
HEADING_WIDTH = 11
# Columns of numbers that fit a page in a font that is easy to read.
FEW_COLUMNS = 4
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
    escaped = [[escape_markdown(text) for text in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*escaped, strict=True)]
    head, *body = (_markdown_row(row, widths) for row in escaped)
    rule = table_row(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    note = ["", table.note] if table.note else []
    return "\n".join([f"## {escape_markdown(table.title)}", "", head, rule, *body, *note])


def latex(table: PaperTable) -> str:
    r"""A `table` in the style of the package booktabs; adjustbox makes it smaller where it would not fit the page.

    Its `\label` is its kind, data and model, such as "tab:base-to-new-clip-vit-base-patch16".
    """
    names, numbers = table.headings
    best = table.best()
    groups, row = [], 0
    for group in table.groups:
        groups.append([_latex_row(*each, best, row + number) for number, each in enumerate(group)])
        row += len(group)
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escape_latex(table.caption)}}}",
        f"\\label{{tab:{slug(table.label)}}}",
        r"\par\smallskip",
        r"\small" if len(numbers) <= FEW_COLUMNS else r"\scriptsize\setlength{\tabcolsep}{3pt}",
        r"\begin{adjustbox}{max width=\linewidth, max totalheight=0.85\textheight}",
        f"\\begin{{tabular}}{{{'l' * len(names)}{'r' * len(numbers)}}}",
        r"\toprule",
        " & ".join([*map(escape_latex, names), *map(_latex_heading, numbers)]) + r" \\",
        r"\midrule",
        "\n\\midrule\n".join("\n".join(group) for group in groups),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def slug(text: str) -> str:
    """A text of letters, digits, dots and hyphens, for labels and the names of files."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _latex_heading(text: str) -> str:
    """A method's name, in as many lines as it needs to be no wider than its numbers."""
    lines = textwrap.wrap(escape_latex(text), HEADING_WIDTH, break_long_words=False, break_on_hyphens=False)
    broken = r" \\ ".join(lines)
    return f"\\shortstack[r]{{{broken}}}" if len(lines) > 1 else broken


def _latex_row(names: Sequence[str], cells: Sequence[Value | None], best: set[tuple[int, int]], row: int) -> str:
    numbers = [_latex_number(value, (row, column) in best) for column, value in enumerate(cells)]
    return " & ".join([*map(escape_latex, names), *numbers]) + r" \\"


def _latex_number(value: Value | None, is_best: bool) -> str:
    if value is None:
        return "--"
    mean = f"{100 * value.mean:.2f}"
    spread = "" if value.std is None else f"{{\\tiny\\,$\\pm$\\,{100 * value.std:.2f}}}"
    return (f"\\textbf{{{mean}}}" if is_best else mean) + spread


def escape_latex(text: str) -> str:
    """Text for LaTeX, with its special characters as characters and its quotes as a pair."""
    escaped = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r'"([^"]*)"', r"``\1''", escaped)


def runs_csv(runs: Sequence[Run]) -> str:
    """One row per run and split: what the run is, every metric as a fraction, every setting as `settings.NAME`."""
    names = distinct(name for run in runs for name in run.settings)
    metrics = distinct(name for run in runs for name in metrics_of(run.protocol))
    fields = [*TEXTS, "seed", "split", *metrics, "num_examples", *(f"settings.{name}" for name in names)]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(run, split) for run in runs for split in run.results)
    return text.getvalue()


def _csv_row(run: Run, split: str) -> dict[str, Any]:
    of_split = run.results[split]
    measured = {name: of_split.get(name) for name in (*metrics_of(run.protocol), "num_examples")}
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
    mean = f"{100 * cell.mean:.2f}"
    return mean if cell.std is None else f"{mean} ± {100 * cell.std:.2f}"


def _markdown_row(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
    return table_row([row[0].ljust(widths[0]), *numbers])
