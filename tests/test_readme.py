"""The README's snippets run as they stand, with the demo's CLIP and digits in the place of downloads."""

import re
from dataclasses import fields
from pathlib import Path

import datasets
import pytest
import transformers
from peft import PeftConfig

from peft_coop import CoOpConfig, demo

README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def no_downloads(monkeypatch, tmp_path):
    """What the snippets load from the Hub is what the package holds."""
    task = demo.load_task("digits")
    splits = datasets.DatasetDict({"train": task.train.select(range(20)), "test": task.test.select(range(4))})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    for loaded in (transformers.CLIPModel, transformers.CLIPProcessor):
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
        assert f"| `{option}` |" in text, option


def test_files_that_are_linked_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
