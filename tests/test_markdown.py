"""Text and tables in Markdown."""

import ast
from pathlib import Path

import pytest

import peft_coop
from peft_coop.markdown import escape, table


def test_escaped_text_is_one_line():
    assert escape("a\n\n# b") == "a # b"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("*a* [b](c)", r"\*a\* \[b\](c)"),
        ("<b>|`~$", r"\<b\>\|\`\~\$"),
        ("a\\b", r"a\\b"),
        ("&lt; &#60; a & b", r"\&lt; \&#60; a & b"),
        ("__init__ of learning_rate", r"\_\_init\_\_ of learning_rate"),
    ],
)
def test_only_what_markdown_would_read_is_escaped(text, escaped):
    assert escape(text) == escaped


def test_a_table():
    assert table(("a", "b"), [("1", "2"), ("3", "4")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"


def test_one_place_escapes_markdown():
    files = sorted(Path(peft_coop.__file__).parent.rglob("*.py"))
    functions = {
        f"{file.stem}.{node.name}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and "escape" in node.name
    }
    assert functions == {"markdown.escape", "formats.escape_latex"}
