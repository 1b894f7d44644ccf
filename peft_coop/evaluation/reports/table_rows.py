"""A table, free of any format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .averages import Value
from .grouped_runs import Line

Cell = Value | str | None


@dataclass(frozen=True)
class Table:
    """What a report prints.

    Attributes:
        title: what was measured, on what.
        columns: headings, the labels' included.
        rows: a label and the cells after it; None where nothing was measured.
        note: what has to be known to read it, or nothing.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    note: str = ""


def make_table(
    title: str, headings: list[str], lines: Sequence[Line], cells: Callable[[Line], Sequence[Cell]], note: str = ""
) -> Table:
    """A table with a row for each line, and how many seeds it has."""
    measured = [(line.label, cells(line)) for line in lines]
    rows = [(label, [*row, _seeds(row)]) for label, row in measured]
    return Table(title, ["method", *headings, "seeds"], rows, note)


def _seeds(row: Sequence[Cell]) -> str:
    """How many seeds the cells of a row have."""
    counts = sorted({cell.num_seeds for cell in row if isinstance(cell, Value) and cell.num_seeds})
    return f"{counts[0]}–{counts[-1]}" if len(counts) > 1 else "".join(map(str, counts))
