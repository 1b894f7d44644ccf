"""A method that is put into METHODS appears wherever methods are offered, drawn and described."""

import argparse
import ast
import json
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from conftest import make_clip
from peft import get_peft_model
from test_plots import legend
from test_reports import base_to_new

import peft_coop
from peft_coop.cli import main
from peft_coop.cli.method_options import fields_given
from peft_coop.cli.offered_methods import TITLES, method_titles
from peft_coop.evaluation import PromptLearning
from peft_coop.evaluation.reports import format_report
from peft_coop.evaluation.reports.figures import base_to_new_figure
from peft_coop.evaluation.reports.grouped_runs import make_lines
from peft_coop.evaluation.reports.styles import method_colors
from peft_coop.methods import DEFAULT_METHOD, METHODS, CoOpConfig
from peft_coop.recipes import Recipe

PACKAGE = Path(peft_coop.__file__).parent
KEY = "throwaway"
SHORT = ["--data", "demo:digits", "--shots", "1", "--epochs", "1"]


@dataclass(eq=False)
class ThrowawayConfig(CoOpConfig):
    """CoOp under another name, with a setting that changes nothing."""

    strength: float = field(default=8.0, metadata={"help": "Of nothing."})

    method = KEY


@pytest.fixture
def throwaway(monkeypatch):
    method = replace(
        METHODS[DEFAULT_METHOD],
        key=KEY,
        title="ThrowAway",
        config=ThrowawayConfig,
        reference="2601.00001",
        recipe_of=lambda num_shots, data, protocol: Recipe(7 if protocol == "few-shot" else 3, batch_size=4),
        fields_of=lambda protocol: {"n_ctx": 3 if protocol == "few-shot" else 2},
        summary="that are thrown away",
        settings=("strength",),
        colour="#123456",
    )
    monkeypatch.setitem(METHODS, KEY, method)
    return method


def command(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.out, " ".join(captured.err.split())


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_the_list_that_is_read_before_the_table_agrees_with_it():
    listed = json.loads(TITLES.read_text(encoding="utf-8"))
    assert list(listed.items()) == [(key, method.title) for key, method in METHODS.items()]
    assert next(iter(listed)) == DEFAULT_METHOD


def test_the_list_is_taken_where_the_table_is_not_imported(throwaway, monkeypatch):
    assert KEY in method_titles()
    monkeypatch.delitem(sys.modules, "peft_coop.methods.table")
    assert KEY not in method_titles()


@pytest.mark.usefixtures("throwaway")
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "ThrowAway"),
        (["train"], KEY),
        (["benchmark", "few-shot"], KEY),
        (["benchmark", "ablation"], KEY),
    ],
)
def test_the_command_line_offers_it(arguments, word, capsys):
    assert word in help_of(capsys, *arguments)


def test_an_experiment_takes_its_fields_and_recipe_for_the_protocol(throwaway):
    few_shot, transfer = (PromptLearning(KEY).for_protocol(name) for name in ("few-shot", "domain"))
    assert [one.make_config().n_ctx for one in (few_shot, transfer)] == [3, 2]
    assert [one.recipe_for(16).num_epochs for one in (few_shot, transfer)] == [7, 3]
    assert few_shot.settings()["strength"] == 8.0
    assert PromptLearning(KEY, {"n_ctx": 5}).for_protocol("few-shot").settings()["n_ctx"] == 5
    grid = PromptLearning(KEY, {"strength": 1.0}).grid(n_ctx=(4, 8))
    assert [(one.fields["n_ctx"], one.fields["strength"]) for one in grid] == [(4, 1.0), (8, 1.0)]


def test_what_a_method_has_not_is_refused(throwaway):
    with pytest.raises(ValueError, match="CoOp has no setting 'strength'; its own are n_ctx, class_token_position, "):
        PromptLearning(DEFAULT_METHOD, {"strength": 1.0})
    conditional = next(key for key, method in METHODS.items() if getattr(method.config(), "meta_net", False))
    with pytest.raises(ValueError, match=f"the method is '{conditional}' and not '{DEFAULT_METHOD}'"):
        PromptLearning(DEFAULT_METHOD, {"meta_net": True})


def test_reports_draw_and_order_it(throwaway):
    runs = [base_to_new(key, 0.8, 0.6) for key in (KEY, DEFAULT_METHOD, "linear-probe", "zero-shot")]
    assert [line.method for line in make_lines(runs)] == ["zero-shot", "linear-probe", DEFAULT_METHOD, KEY]
    figure = base_to_new_figure(runs)
    assert runs[0].method_name in legend(figure)
    bars = {patch.get_facecolor()[:3] for axes in figure.axes for patch in axes.patches}
    assert method_colors()[KEY] == throwaway.colour
    assert tuple(int(throwaway.colour[place : place + 2], 16) / 255 for place in (1, 3, 5)) in bars


def test_published_numbers_stand_beside_it_where_it_was_learned_as_published(throwaway, monkeypatch):
    from peft_coop.evaluation.reports import published

    table = published.published()
    rows = table["base_to_new"]["dtd"] | {"ThrowAway": [11.0, 22.0, 14.67]}
    monkeypatch.setattr(published, "published", lambda: table | {"base_to_new": {"average": {}, "dtd": rows}})
    model, settings = "openai/clip-vit-base-patch16", {"ctx_init": None, "strength": 8.0}
    as_published = base_to_new(KEY, 0.8, 0.6, data="dtd", model=model, settings=settings)
    assert "11.00" in format_report([as_published])
    changed = base_to_new(KEY, 0.8, 0.6, data="dtd", model=model, settings={**settings, "strength": 1.0})
    assert "11.00" not in format_report([changed])


def test_a_card_describes_it(throwaway, tokenizer_path, tmp_path):
    config = ThrowawayConfig(n_ctx=4, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
    get_peft_model(make_clip(), config).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "[ThrowAway](https://arxiv.org/abs/2601.00001): 4 learned vectors that are thrown away, 2 classes" in card
    assert "| `strength` | 8.0 | Of nothing. |" in card
    assert f"- {KEY}\n" in card


@pytest.mark.usefixtures("throwaway")
def test_train_sets_a_field_of_its_own(tmp_path, capsys):
    output = tmp_path / "prompt"
    command(capsys, "train", *SHORT, "--method", KEY, "--set", "strength=4.5", "--output", output)
    assert json.loads((output / "adapter_config.json").read_text())["strength"] == 4.5


@pytest.mark.usefixtures("throwaway")
def test_benchmark_sets_a_field_where_a_method_has_it(tmp_path, capsys):
    methods = ["--methods", DEFAULT_METHOD, KEY, "--set", "strength=2", "--seeds", "1"]
    _, told = command(capsys, "benchmark", "few-shot", *SHORT, *methods, "--output", tmp_path)
    assert f"--set strength has no effect for {DEFAULT_METHOD}, which have no such setting" in told
    found = {path.parents[1].name: json.loads(path.read_text()) for path in tmp_path.rglob("result.json")}
    assert {record["method"]: record["settings"].get("strength") for record in found.values()} == {
        DEFAULT_METHOD: None,
        KEY: 2,
    }
    assert any(name.startswith(KEY) and "strength=2" in name for name in found)


@pytest.mark.usefixtures("throwaway")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "power=1"], r"--set power is no setting of throwaway\. --set can give .*strength for throwaway\."),
        (["--set", "strength"], "--set takes a setting and its value as NAME=VALUE, got 'strength'"),
        (["--set", "=1"], "--set takes a setting and its value as NAME=VALUE, got '=1'"),
        (["--set", "n_ctx=4"], "--set n_ctx has an option of its own: --n-ctx"),
        (["--set", "strength=1", "--set", "strength=2"], "--set gives 'strength' twice"),
        (["--set", "class_names=a"], "--set class_names is no setting of throwaway"),
    ],
)
def test_what_cannot_be_set_is_refused(arguments, message, tmp_path, capsys):
    _, told = command(capsys, "train", *SHORT, "--method", KEY, *arguments, "--output", tmp_path / "out", code=2)
    assert re.search(message, told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("4", 4),
        ("True", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("a photo=of", "a photo=of"),
        ("", ""),
    ],
)
def test_values_are_json_or_python_words_or_texts(text, value):
    read = fields_given(
        argparse.Namespace(position="end", class_specific=False, n_ctx=None, ctx_init=None, set=[f"x={text}"])
    )
    assert read == {"x": value}
    assert type(read["x"]) is type(value)


def names_of_methods(file: Path) -> list[str]:
    """Texts and names in a file's code that are a method's key, title or config.

    Docstrings do not count, nor does a paper, or the layout of data that the original code has.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    words = {word for key, one in METHODS.items() for word in (key, key.upper(), one.title, one.config.__name__)}
    named = re.compile(rf"(?<![\w/-])({'|'.join(words)})(?!\w|:\w| code| paper)")
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
    texts += [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return [text for text in texts if isinstance(text, str) and named.search(text)]


def test_a_name_of_a_method_is_found(tmp_path):
    code = (
        '"""On CoOp."""\nKEY = "coop"\nHELP = "for CoCoOp: 1"\nDATA = "coop:dtd@DATA in the CoOp code"\nCoOpConfig()\n'
    )
    (tmp_path / "named.py").write_text(code, encoding="utf-8")
    assert names_of_methods(tmp_path / "named.py") == ["coop", "for CoCoOp: 1", "CoOpConfig"]


def test_no_other_room_names_a_method():
    """But for a layout of data, the converters of the original's checkpoints, and what was measured on the demo."""
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    named = {file.relative_to(PACKAGE).as_posix() for file in files if names_of_methods(file)}
    rooms = {name for name in named if not name.startswith("methods/")}
    of_originals = {"hub/original.py", "hub/original_file.py", "hub/original_deep.py"}
    assert rooms == {"data/sources.py", "demo/loading.py", *of_originals}
