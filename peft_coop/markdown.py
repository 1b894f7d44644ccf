"""Text and tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence


def escape(text: str) -> str:
    """Make Markdown and HTML show `text` as it is, on one line; also inside a table."""
    one_line = " ".join(text.split())
    one_line = re.sub(r"[\\`*\[\]<>|~$]|&(?=[#\w])", r"\\\g<0>", one_line)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", one_line)  # an underscore within a word needs nothing


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells are escaped already."""
    return "\n".join(map(table_row, [heading, ["---"] * len(heading), *rows]))


def table_row(cells: Sequence[str]) -> str:
    """A line of a table; the cells are escaped already."""
    return f"| {' | '.join(cells)} |"
