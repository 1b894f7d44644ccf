"""What README and documentation show: blocks of code and commands, and how a page's are run.

A block runs as it stands, one after the other in one namespace and one folder for each page, unless a comment in front
of it says otherwise:

    <!-- not run: REASON -->    Python is compiled and its imports are resolved, a shell's lines are parsed.
    <!-- file: NAME -->         The block is a file of the reader's, for later blocks to import.
    <!-- given: NAMES -->       The reader has these already, see `GIVEN` in `test_pages.py`.
    <!-- prints -->             The block is what the one before it printed, but for the digits of numbers.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS, *sorted((ROOT / "examples").rglob("*.md"))]
MARKS = ("not run", "file", "given", "prints")
FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n+)?^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    flags=re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what stands in front of it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    note: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def code(self):
        """Compiled, with the line numbers of the page."""
        return compile("\n" * self.line + self.text, str(self.page), "exec")

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types, without comments and continued lines as one."""
        joined = self.text.replace("\\\n", " ")
        lines = [line.removeprefix("$ ") for line in joined.splitlines() if self.language != "console" or "$ " in line]
        return [stripped for line in lines if (stripped := re.sub(r"(^|\s+)# .*$", "", line).strip())]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, flags=re.MULTILINE)) % 2 == 0, page
    found = []
    for fence in FENCE.finditer(text):
        mark, _, note = (fence["mark"] or "").partition(":")
        indent = len(fence["indent"])
        lines = [line[indent:] for line in fence["text"].splitlines(keepends=True)]
        line = text.count("\n", 0, fence.start("language")) + 1
        found.append(Block(page, line, fence["language"], "".join(lines), mark.strip(), note.strip()))
    return found


def unresolved(code: str) -> list[str]:
    """What a snippet imports that is not there; libraries that are not installed are not looked into."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("peft_coop", "peft"):
            module = importlib.import_module(node.module)
            missing += [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
    return missing


def words_of(printed: str) -> str:
    """What was printed, with every number as one sign, since the last digits depend on the machine."""
    return re.sub(r"-?\d+(?:[.,]\d+)*(?:e-?\d+)?", "0", printed).strip()


def split_command(command: str) -> list[str]:
    """The words of a command, without variables in front of it and without what launches a script."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    return words
