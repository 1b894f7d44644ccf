"""The prompt methods that commands offer: those of `METHODS`, and before that is imported those of its list of titles.

The arguments are read, and `--help` is printed, before anything heavy is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PACKAGE = __package__.partition(".")[0]
TITLES = Path(__file__).parents[1] / "methods" / "titles.json"


def method_titles() -> dict[str, str]:
    """The keys of the prompt methods, with their titles."""
    table = sys.modules.get(f"{PACKAGE}.methods.table")
    if table is not None and hasattr(table, "METHODS"):
        return {key: method.title for key, method in table.METHODS.items()}
    return json.loads(TITLES.read_text(encoding="utf-8"))


def default_method() -> str:
    """The key of the method that is learned where none is named."""
    return next(iter(method_titles()))
