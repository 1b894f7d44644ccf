"""The documentation site: which pages it has, that every public name is in the reference, what its scripts make."""

import ast
import importlib
import importlib.util
import inspect
import json
import re
import sys
from dataclasses import fields
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import yaml
from pages import DOCS, PAGES, ROOT, blocks_of

import peft_coop
from peft_coop.methods import METHODS
from peft_coop.models.classifier import PromptClassifierMixin

SCRIPTS = ROOT / "docs" / "scripts"
PUBLIC = ("peft_coop", "peft_coop.data", "peft_coop.evaluation", "peft_coop.hub", "peft_coop.demo", "peft_coop.export")
PUBLIC += ("peft_coop.evaluation.segmentation",)
GENERATED = {"index.md", "examples/index.md", "changelog.md", "contributing.md", "reference/commands.md"}
# The options of the original's trainers: `extend_cfg` in its train.py.
ORIGINAL_OPTIONS = {
    "COOP": ("N_CTX", "CSC", "CTX_INIT", "PREC", "CLASS_TOKEN_POSITION"),
    "COCOOP": ("N_CTX", "CTX_INIT", "PREC"),
}
# What its files in `configs/trainers` set beside these, what its scripts give, and what else of Dassl its trainers come
# by; the arguments of its train.py; its files.
ORIGINAL_NAMES = """
    DATALOADER.TRAIN_X.BATCH_SIZE DATALOADER.TEST.BATCH_SIZE DATALOADER.NUM_WORKERS INPUT.SIZE INPUT.INTERPOLATION
    INPUT.PIXEL_MEAN INPUT.PIXEL_STD INPUT.TRANSFORMS OPTIM.NAME OPTIM.LR OPTIM.MAX_EPOCH OPTIM.LR_SCHEDULER
    OPTIM.WARMUP_EPOCH OPTIM.WARMUP_TYPE OPTIM.WARMUP_CONS_LR TRAIN.PRINT_FREQ MODEL.BACKBONE.NAME
    OPTIM.WEIGHT_DECAY OPTIM.MOMENTUM OPTIM.STAGED_LR MODEL.INIT_WEIGHTS TEST.SPLIT TEST.FINAL_MODEL TEST.NO_TEST
    TEST.PER_CLASS_RESULT TEST.COMPUTE_CMAT TRAIN.CHECKPOINT_FREQ INPUT.RRCROP_SCALE DATALOADER.TRAIN_X.SAMPLER
    USE_CUDA VERBOSE DATASET.NUM_SHOTS DATASET.SUBSAMPLE_CLASSES --root --output-dir --resume --seed
    --source-domains --target-domains --transforms --config-file --dataset-config-file --trainer --backbone --head
    --eval-only --model-dir --load-epoch --no-train opts CoCoOp/vit_b16_c16_ep10_batch1.yaml
    CoCoOp/vit_b16_c4_ep10_batch1.yaml CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml CoCoOp/vit_b16_c8_ep10_batch1.yaml
    CoOp/rn101.yaml CoOp/rn101_ep50.yaml CoOp/rn50.yaml CoOp/rn50_ctxv1.yaml CoOp/rn50_ep100.yaml
    CoOp/rn50_ep50.yaml CoOp/rn50_ep50_ctxv1.yaml CoOp/rn50_val.yaml CoOp/vit_b16.yaml CoOp/vit_b16_ctxv1.yaml
    CoOp/vit_b16_ep100.yaml CoOp/vit_b16_ep100_ctxv1.yaml CoOp/vit_b16_ep50.yaml CoOp/vit_b16_ep50_ctxv1.yaml
    CoOp/vit_b32.yaml CoOp/vit_b32_ep50.yaml scripts/cocoop/base2new_test.sh scripts/cocoop/base2new_train.sh
    scripts/cocoop/xd_test.sh scripts/cocoop/xd_train.sh scripts/coop/eval.sh scripts/coop/main.sh
    scripts/coop/zeroshot.sh draw_curves.py interpret_prompt.py parse_test_res.py lpclip/feat_extractor.py
    lpclip/linear_probe.py
"""


@pytest.fixture(scope="module")
def site():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_in(entries) -> list[str]:
    """The pages of a navigation, in order."""
    found = []
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            found += pages_in(value) if isinstance(value, list) else [value]
    return found


def test_every_page_is_in_the_navigation_once(site):
    pages = pages_in(site["nav"])
    written = {page.relative_to(ROOT / "docs").as_posix() for page in DOCS}
    assert sorted(pages) == sorted(written | GENERATED), "mkdocs.yml has the navigation"
    assert [f"methods/{key}.md" for key in METHODS] == [
        page for page in pages if page.startswith("methods/") and page != "methods/index.md"
    ]


def test_readers_are_asked_for_nothing_from_elsewhere(site):
    assert site["theme"]["font"] is False
    assert "http" not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "http" not in (ROOT / "docs" / "style.css").read_text(encoding="utf-8")


def documented() -> list[str]:
    """What the pages of the reference have an entry for."""
    pages = [page for page in DOCS if page.parent.name == "reference"]
    return [name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)]


def look_up(name: str):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_in_the_reference(package):
    found = [(name.rpartition(".")[2], look_up(name)) for name in documented()]
    module = importlib.import_module(package)
    assert len(module.__all__) > 4
    missing = [
        name for name in module.__all__ if not any(name == one and getattr(module, name) is it for one, it in found)
    ]
    assert not missing, f"{package}: write `::: {package}.NAME` on a page of docs/reference"


def test_the_reference_has_what_pages_import():
    trees = [ast.parse(block.text) for page in PAGES for block in blocks_of(page) if block.language == "python"]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {(node.module, one.name) for node in imports if node.module.startswith("peft_coop") for one in node.names}
    assert len(ours) > 50
    found = [look_up(f"{module}.{name}") for module, name in sorted(ours)]
    entries = [look_up(name) for name in documented()]
    missing = [one for one in found if not inspect.ismodule(one) and not any(one is entry for entry in entries)]
    assert missing == []


def test_the_reference_has_what_exists_once():
    entries = documented()
    assert len(entries) == len(set(entries)) > 100
    for name in entries:
        described = look_up(name)
        assert not callable(described) or described.__doc__, name


def test_the_reference_has_what_classes_inherit():
    """An entry shows what a class has of its own; a class of the package that it has more from has an entry, too."""
    classes = {look_up(name) for name in documented() if inspect.isclass(look_up(name))}
    assert PromptClassifierMixin in classes  # the methods of the model inside, which are reached from outside
    bases = {base for one in classes | {PromptClassifierMixin} for base in one.__mro__} - classes
    ours = [base for base in bases if base.__module__.startswith("peft_coop.") and not base.__name__.startswith("_")]
    assert [base.__qualname__ for base in ours if own_public(base)] == [], "write `::: MODULE.NAME`"


def own_public(one: type) -> list[str]:
    """What a class has that its bases have not."""
    return [name for name, value in vars(one).items() if not name.startswith("_") and not inspect.ismodule(value)]


def test_constants_of_the_reference_say_what_they_are():
    """Below the assignment, where mkdocstrings looks for it."""
    constants = [name for name in documented() if not callable(look_up(name))]
    assert len(constants) > 5
    assert [name for name in constants if not has_words(name)] == []


def has_words(name: str) -> bool:
    """Whether a text stands behind the assignment of a constant, in the module that makes it."""
    value, word = look_up(name), name.rpartition(".")[2]
    modules = [one for key, one in sys.modules.items() if key.startswith("peft_coop.") and vars(one).get(word) is value]
    for body in [ast.parse(inspect.getsource(one)).body for one in modules]:
        for before, after in pairwise(body):
            targets = getattr(before, "targets", [getattr(before, "target", None)])
            if word in [getattr(target, "id", None) for target in targets]:
                return isinstance(after, ast.Expr) and isinstance(getattr(after, "value", None), ast.Constant)
    return False


def test_the_page_of_commands_has_every_option():
    page = script("command_reference").page()
    commands = re.findall(r"^## peft-coop (.+)$", page, flags=re.MULTILINE)
    assert {"train", "evaluate", "predict", "push", "benchmark few-shot", "benchmark composition"} <= set(commands)
    train = page.partition("## peft-coop train\n")[2].partition("\n## ")[0]
    assert re.search(r"^\| `--shots SHOTS` \| images per class.*\(default: 16", train, flags=re.MULTILINE)
    assert "--help" not in train
    assert all(line.count(" | ") == 1 for line in page.splitlines() if line.startswith("| `"))


def test_the_tree_in_the_picture_is_the_one_that_is_computed(monkeypatch, tmp_path):
    drawing = script("draw_token_tree")
    assert drawing.build_tree(drawing.sequences()).n_computed == len(drawing.nodes()) == 19
    page = (ROOT / "docs" / "concepts" / "token-tree.md").read_text(encoding="utf-8")
    assert "four classes need 19 positions for 308" in " ".join(page.split())
    monkeypatch.setattr(drawing, "OUTPUT", tmp_path / "tree.svg")
    drawing.main()
    assert (tmp_path / "tree.svg").stat().st_size > 10_000
    monkeypatch.setattr(drawing, "prompts", lambda: [("BOS", "EOS")])
    with pytest.raises(ValueError, match="The picture has 2 positions and the package computes 19"):
        drawing.main()


def test_migration_has_every_option_of_the_original():
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(TRAINER\.\w+\.\w+)` \| (.+?) \|", page, flags=re.MULTILINE))
    assert set(rows) == {f"TRAINER.{name}.{option}" for name, options in ORIGINAL_OPTIONS.items() for option in options}
    settings = {field.name for method in METHODS.values() for field in fields(method.config)}
    named = re.findall(r"`([a-z_]+)`", " ".join(rows.values()))
    assert len(named) >= 6
    assert set(named) <= settings
    others = re.findall(r"^\| \w+: .*\| ((?:`[a-z_]+`,? ?)+)of `(\w+)` \|$", page, flags=re.MULTILINE)
    assert len(others) == 7
    for names, config in others:
        own = {field.name for field in fields(getattr(peft_coop, config))}
        assert set(re.findall(r"`([a-z_]+)`", names)) <= own, config


def test_migration_has_every_setting_argument_and_file_of_the_original():
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| (.+?) \|", page, flags=re.MULTILINE)
    words = {
        word.rstrip(":,") for cell in first_cells for code in re.findall(r"`(.+?)`", cell) for word in code.split()
    }
    missing = [name for name in ORIGINAL_NAMES.split() if not any(fnmatch(name, word) for word in words)]
    assert missing == []
    assert len(words) > 60


def validation_error(notebook) -> str:
    """What Jupyter would say of a notebook's form; "" for nothing."""
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return str(error)
    return ""


def test_a_notebook_is_its_page(tmp_path, capsys):
    """Cell by cell the code that `test_pages.py` runs, and no mark of the tests among the words."""
    made = script("notebooks")
    made.main(tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == len(made.PAGES) == 2
    for page in made.PAGES:
        notebook = json.loads((tmp_path / f"{Path(page).stem}.ipynb").read_text(encoding="utf-8"))
        assert validation_error(notebook) == ""
        cells = notebook["cells"]
        code = ["".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code"]
        words = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        blocks = blocks_of(ROOT / "docs" / page)
        assert code[0].startswith("%pip install")
        assert code[1:] == [block.text.strip() for block in blocks if block.language == "python"]
        assert {block.mark for block in blocks if block.language == "python"} == {""}  # each of them runs
        assert "<!--" not in words
        assert not re.search(r"\]\((?!https?:)", words)


def test_every_page_with_figures_is_in_the_list_of_results():
    """Of the methods' pages the overview is, which has the same figures."""
    results = ROOT / "docs" / "results.md"
    linked = {(results.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)", results.read_text("utf-8"))}
    linked |= {page for link in linked if link.is_dir() for page in link.glob("*.md")}
    measured = re.compile(r"^\|.*\| *\d+\.\d+(?: ± \d+\.\d+)?%? *\|", flags=re.MULTILINE)
    pages = [page for page in PAGES if measured.search(page.read_text("utf-8")) and page != ROOT / "README.md"]
    assert len(pages) > 15
    of_methods = {ROOT / "docs" / "methods" / f"{key}.md" for key in METHODS}
    assert [page.relative_to(ROOT).as_posix() for page in pages if page not in linked | of_methods] == []
