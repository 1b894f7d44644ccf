"""Pages of the documentation as notebooks: their Python in cells, their words between.

python docs/scripts/notebooks.py FOLDER

A page is the text form of its notebook: its snippets run in the tests, one after the other, as the cells do.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

DOCS = Path(__file__).parents[1]
PAGES = ("quickstart.md", "tutorials/own-folder.md")
INSTALL = '%pip install --quiet "peft-coop[cli]"'
# Marks for the tests, which say nothing to a reader, and links that lead nowhere outside of the site.
MARK = re.compile(r"^<!-- .*? -->\n", flags=re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)")


def notebook(page: str) -> NotebookNode:
    """A page as a notebook, with a first cell that installs the package.

    Args:
        page: its place in `docs`.
    """
    text = MARK.sub("", (DOCS / page).read_text(encoding="utf-8"))
    made = jupytext.reads(text, fmt="md")
    for place, cell in enumerate(made.cells):
        cell["id"] = f"{Path(page).stem}-{place}"  # and no other each time that it is made
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(r"\1", cell.source)
    made.cells.insert(1, new_code_cell(INSTALL, id="install"))
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


def main(folder: str) -> None:
    """Write all of them into a folder."""
    for page in PAGES:
        path = Path(folder, Path(page).stem + ".ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        jupytext.write(notebook(page), path)
        print(path)  # noqa: T201  what it has made


if __name__ == "__main__":
    main(*sys.argv[1:])
