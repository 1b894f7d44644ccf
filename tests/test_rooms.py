"""The rooms of CONTRIBUTING.md, read off the imports: what stands above what, and who touches whose insides."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import peft_coop

PACKAGE = Path(peft_coop.__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
# From the top down: a room imports from those below it.
ROOMS = ["__main__", "cli", "app", "evaluation", "endpoint_handler", "__init__", "registration", "pipelines"]
ROOMS += ["video_pipeline", "peft_model", "hub", "export", "models", "methods", "heads", "data", "towers", "prompts"]
ROOMS += ["demo", "czsl", "recipes", "module_state", "progress", "markdown", "whole_files", "untrusted_files"]
ROOMS += ["startup"]

# Parts of a dual encoder by the names that Hugging Face's families have for them.
INSIDES = {"text_model", "vision_model", "text_projection", "visual_projection", "embeddings", "token_embedding"}
INSIDES |= {"position_embedding", "final_layer_norm", "post_layernorm", "self_attn", "logit_scale", "logit_bias"}


def room_of(name: str) -> str:
    """The folder of a file, or its own name."""
    return name.split("/")[0].removesuffix(".py")


def imported(name: str, tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """What a file imports, as dotted names in parts; of this package from its top on."""
    above = ("peft_coop", *name.split("/")[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = above[: len(above) - node.level + 1] if node.level else ()
            module = (*start, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)


def rooms_below(name: str, tree: ast.AST) -> set[str]:
    """The other rooms that a file imports from."""
    ours = (parts[1] for parts in imported(name, tree) if parts[0] == "peft_coop" and len(parts) > 1)
    return {part if part in ROOMS else "__init__" for part in ours} - {room_of(name)}


def tree_of(name: str) -> ast.AST:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "line", "rooms"),
    [
        ("models/prompt_embeddings.py", "from ..methods import Prompt", {"methods"}),
        ("models/prompt_embeddings.py", "from .class_texts import ClassTexts", set()),
        ("evaluation/reports/bars.py", "from ...methods.table import METHODS", {"methods"}),
        ("cli/main.py", "from .. import __version__, progress", {"__init__", "progress"}),
        ("cli/main.py", "def run():\n    import peft_coop.evaluation.scores", {"evaluation"}),
        ("cli/main.py", "import torch", set()),
    ],
)
def test_what_is_read_off_an_import(name, line, rooms):
    assert rooms_below(name, ast.parse(line)) == rooms


def test_every_file_is_in_a_room():
    assert len(FILES) > 100
    assert {room_of(name) for name in FILES} == set(ROOMS)


def test_a_room_imports_from_those_below_it_only():
    """So that no circle of rooms can be."""
    edges = {(name, below) for name in FILES for below in rooms_below(name, tree_of(name))}
    assert len({(room_of(name), below) for name, below in edges}) > 30
    upward = {(name, below) for name, below in edges if ROOMS.index(below) <= ROOMS.index(room_of(name))}
    assert not upward


def test_the_table_of_rooms_has_them_all_in_this_order():
    rows = re.findall(r"^\| (`[^|]+`) \|", CONTRIBUTING.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = [
        re.sub(r"\.py$|/$", "", path.split("peft_coop/")[-1]) for row in rows for path in re.findall("`([^`]+)`", row)
    ]
    of_package = [room for room in named if room not in ("examples", "tests")]
    assert of_package == [room for room in ROOMS if not room.startswith("__")]


def test_prompts_know_integers_and_tokenizers_only():
    tokenizers = {("transformers", "AutoTokenizer"), ("transformers", "CLIPTokenizer")}
    foreign = {parts for name in FILES if name.startswith("prompts/") for parts in imported(name, tree_of(name))}
    foreign = {parts for parts in foreign if parts[0] in ("peft", "transformers", "accelerate")}
    assert foreign
    assert foreign <= tokenizers


def test_the_numbers_of_pairs_know_arrays_only():
    """So that they cost `import peft_coop` no time, and need no extra."""
    roots = {parts[0] for name in FILES if name.startswith("czsl/") for parts in imported(name, tree_of(name))}
    assert "numpy" in roots
    assert roots - set(sys.stdlib_module_names) <= {"numpy", "torch", "peft_coop"}
    assert not {room for name in FILES if name.startswith("czsl/") for room in rooms_below(name, tree_of(name))}


def insides_named(tree: ast.AST) -> list[str]:
    """Where code reaches for a part of a model by name, and not through the table of families."""
    reached = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in INSIDES]
    return [text for node in reached if "family" not in (text := ast.unparse(node)).lower()]


def test_what_counts_as_reaching_inside():
    code = (
        "model.text_model.layers\nfind_family(model).embeddings\ntoken_embedding(model)\nself.model.logit_scale.dtype\n"
    )
    assert insides_named(ast.parse(code)) == ["model.text_model", "self.model.logit_scale"]


def test_the_towers_alone_reach_inside_of_a_model():
    named = {name: insides_named(tree_of(name)) for name in FILES}
    assert any(parts for name, parts in named.items() if name.startswith("towers/"))
    # Modules of dense prediction are no parts of a model.
    above = {name: parts for name, parts in named.items() if not name.startswith(("towers/", "heads/dense/"))}
    assert {name: parts for name, parts in above.items() if parts} == {}


def test_the_towers_alone_import_transformers_models():
    """But for the output that CLIP's own call returns, and the heads that transformers has."""
    of_models = {
        (name, parts[-1])
        for name in FILES
        for parts in imported(name, tree_of(name))
        if parts[:2] == ("transformers", "models") and not name.startswith("towers/")
    }
    outputs = {("models/classifier.py", "CLIPOutput"), ("peft_model/tasks.py", "CLIPOutput")}
    heads = {("heads/dense/transformers_heads.py", name) for name in ("SegformerDecodeHead", "UperNetHead")}
    assert of_models == outputs | heads
