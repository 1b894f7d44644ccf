"""The README's snippets run as they stand, with the demo's CLIP and digits in the place of downloads."""

import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import datasets
import pytest
import transformers
from peft import PeftConfig

from peft_coop import CoOpConfig, demo
from peft_coop.cli.main import make_parser
from peft_coop.methods import METHODS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("**/*.md"))]
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def no_downloads(monkeypatch, tmp_path):
    """What the snippets load from the Hub is what the package holds."""
    task = demo.load_task("digits")
    splits = datasets.DatasetDict({"train": task.train.select(range(20)), "test": task.test.select(range(4))})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    for loaded in (transformers.AutoModel, transformers.AutoProcessor):
        real = loaded.from_pretrained
        monkeypatch.setattr(loaded, "from_pretrained", lambda name, real=real: real(demo.MODEL_PATH))
    monkeypatch.chdir(tmp_path)


def test_snippets_run(no_downloads, capsys):
    assert len(SNIPPETS) == 2
    names = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, str(README), "exec"), names)
    assert names["model"].class_names == ["a cat asleep", "a cat awake"]
    assert Path("pets-coop/adapter_model.safetensors").is_file()
    printed = capsys.readouterr().out
    assert any(name in printed for name in demo.load_task("digits").class_names)


def test_every_option_is_in_the_table():
    text = README.read_text(encoding="utf-8")
    own = {field.name for field in fields(CoOpConfig)} - {field.name for field in fields(PeftConfig)}
    assert "n_ctx" in own
    for option in own:
        assert text.count(f"| `{option}` |") == 1, option


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
def test_the_positions_that_the_readme_counts(row, case, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "benchmark")
    cases = importlib.import_module("cases")
    chosen = cases.Case(*case)
    positions = cases.counts(chosen, cases.sequences_of(chosen))
    counted = " | ".join(f"{positions[form]:,}" for form in ("padded", "trimmed", "tree"))
    assert f"| {row} | {counted} |" in README.read_text(encoding="utf-8")


def test_the_other_pages_snippets_run(capsys):
    """They need no download."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "experiments.md").read_text(), flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "docs/experiments.md", "exec"), {})
    assert "0.25" in capsys.readouterr().out  # |0.9 - 1| / 2 + |0.6 - 1| / 2


def test_the_snippets_about_compositions_print_what_they_say(capsys):
    page = (ROOT / "docs" / "composition.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(compile(snippet, "docs/composition.md", "exec"), {})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "0.6666666666666666 0.75 1.0"
    assert second == "1.0"
    assert 0 < float(third) < 1


def test_the_page_of_methods(capsys):
    """Its snippet runs, and it has a section on each method with its paper and what the config is called."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    [snippet] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(snippet, "docs/methods.md", "exec"), {})
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(printed) == list(METHODS)
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", page, flags=re.MULTILINE))
    titles = [method.title for method in METHODS.values()]
    assert list(sections)[: len(titles)] == titles
    for key, method in METHODS.items():
        section = sections[method.title]
        assert section.startswith(f"\n`{method.config.__name__}`"), key
        assert f"https://arxiv.org/abs/{method.reference})" in section, key


@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time")
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model")
def test_the_snippets_about_adapters_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(snippets) == 6
    names = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/adapters.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "trainable params: " in printed
    assert "visual_projection.modules_to_save.default.weight" in printed
    assert printed.endswith("(3, 2)\n")
    assert names["loaded"].base_model.active_beside() == ["vision"]
    assert set(names["both"].peft_config) == {"default", "prompt"}


def test_commands_that_pages_show_are_accepted():
    shown = [line for page in DOCS for line in re.findall(r"^\$ (peft-coop .*)$", page.read_text(), flags=re.MULTILINE)]
    assert len(shown) > 10
    for line in shown:
        arguments = shlex.split(line.replace("...", "--output runs"))[1:]
        make_parser().parse_args(arguments)


def test_links_lead_somewhere():
    links = [(page, link) for page in DOCS for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    local = [(page, link) for page, link in links if "://" not in link]
    assert len(local) > 5
    missing = [f"{page.name}: {link}" for page, link in local if not (page.parent / link).exists()]
    assert not missing
