"""What README and the pages of methods say, beside their snippets, which `test_pages.py` runs."""

import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest
from peft import PeftConfig

from peft_coop.methods import METHODS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def test_the_first_screen():
    """What it is, one block to paste, one picture, numbers."""
    text = README.read_text(encoding="utf-8")
    first, picture, rest = (text.index(sign) for sign in ("```python", "![", "## "))
    assert first < 800
    assert text[first:picture].count("```") == 2
    assert picture < rest
    assert text[picture:rest].count("  CoOp") >= 4
    assert len(text[:picture].splitlines()) < 30


def test_every_setting_says_what_it_is():
    """The reference shows it."""
    for method in METHODS.values():
        own = [field for field in fields(method.config) if field.name not in {one.name for one in fields(PeftConfig)}]
        assert len(own) > 3
        assert not [field.name for field in own if not field.metadata.get("help")], method.key


@pytest.mark.parametrize(
    "row, case",
    [
        ("CoOp, 100 classes of Caltech101", ("Caltech101", 100)),
        ("CoOp, 100 classes of FGVCAircraft", ("FGVCAircraft", 100)),
        ("CoOp, 1,000 classes of ImageNet", ("ImageNet", 1000)),
        ("CoOp, 100 classes of Caltech101, class-specific", ("Caltech101", 100, 16, "end", True)),
        ("CoCoOp, 37 classes of OxfordPets, 8 images", ("OxfordPets", 37, 4, "end", False, 8)),
    ],
)
def test_the_positions_that_the_page_of_costs_counts(row, case, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "benchmark")
    cases = importlib.import_module("cases")
    chosen = cases.Case(*case)
    positions = cases.counts(chosen, cases.sequences_of(chosen))
    counted = " | ".join(f"{positions[form]:,}" for form in ("padded", "trimmed", "tree"))
    assert f"| {row} | {counted} |" in (ROOT / "docs" / "concepts" / "cost.md").read_text(encoding="utf-8")


def test_each_method_has_a_page():
    """With its paper, its config, when to use it and when not, and figures that are those of the measured tables."""
    folder = ROOT / "docs" / "methods"
    assert {page.stem for page in folder.glob("*.md")} == {"index", *METHODS}
    measured = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    index = (folder / "index.md").read_text(encoding="utf-8")
    for key, method in METHODS.items():
        page = (folder / f"{key}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {method.title}\n\n`{method.config.__name__}`"), key
        assert f"https://arxiv.org/abs/{method.reference})" in page, key
        assert re.findall("^## (.* use it)$", page, flags=re.MULTILINE) == ["When to use it", "When not to use it"], key
        assert f"| [{method.title}]({key}.md) | " in index, key
        for row in re.findall(r"^\| demo, \w+(?:, 16 images per class)? \|(.*)\|$", page, flags=re.MULTILINE):
            assert cells(row)[-3:] in [cells(line)[-4:-1] for line in tables_of(measured)[method.title]], (key, row)


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def tables_of(page: str) -> dict[str, list[str]]:
    """The rows of a page's tables by their first cell."""
    rows = {}
    for line in re.findall(r"^\|.*\|$", page, flags=re.MULTILINE):
        rows.setdefault(cells(line)[0], []).append(line)
    return rows
