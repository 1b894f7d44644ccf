"""The rows of a table of comma-separated values, as people and their programs write it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class TableRows:
    """A table.

    Attributes:
        columns: their names, without the spaces around them.
        rows: of each that is not blank the line where it ends, and its values by column, likewise.
        delimiter: what stands between values.
    """

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    delimiter: str


def read_rows(path: Path, needed: Sequence[str]) -> TableRows:
    """Read a table in UTF-8, with or without a byte order mark, whose first line names the columns.

    Values stand apart by commas; by semicolons or tabs, where that makes a needed column of the first line. Rows
    without any value are left out, and so is a column that has neither a name nor a value.

    Args:
        path: of the file.
        needed: columns of which there should be one, in any case.

    Raises:
        ValueError: if it is no such text, a quotation mark is left open, a column has no name or that of another, or a
            row has another number of values; names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}): save it as 'CSV UTF-8'."
        ) from error
    delimiter = _delimiter(text, needed)
    lines = list(_parsed(path, text, delimiter))
    if not lines:
        return TableRows([], [], delimiter)
    (_, first), rows = lines[0], [(number, row) for number, row in lines[1:] if any(row)]
    for number, row in rows:
        if len(row) != len(first):
            raise ValueError(f"Line {number} of {path} has not as many values as the first line has columns.")
    kept = [place for place, name in enumerate(first) if name or any(row[place] for _, row in rows)]
    columns = [first[place] for place in kept]
    _check_columns(path, columns)
    return TableRows(columns, [(n, {first[place]: row[place] for place in kept}) for n, row in rows], delimiter)


def _delimiter(text: str, needed: Sequence[str]) -> str:
    first = text.lstrip("\r\n").split("\n", 1)[0]
    for delimiter in DELIMITERS:
        if {name.strip(' "\r').lower() for name in first.split(delimiter)} & set(needed):
            return delimiter
    return DELIMITERS[0]


def _parsed(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not empty with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for row in reader:
            if any("\n" in value or "\r" in value for value in row):
                raise csv.Error("a value goes over several lines")
            if row:
                yield reader.line_num, [value.strip() for value in row]
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"The row that begins in line {begins} of {path} cannot be read: {error}. Is a quotation mark left open?"
        ) from error


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse columns that cannot be told apart."""
    if "" in columns:
        raise ValueError(f"Column {columns.index('') + 1} of {path} has values and no name: name it, or remove it.")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Two columns of {path} are called {twice!r}: which counts?")
