"""Every snippet and command of README, documentation and examples: run, or at least read by what would run it."""

import contextlib
import functools
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import transformers
from page_commands import PACKAGE, check_meaning, is_there, parse, why_not, written_by
from pages import DOCS, MARKS, PAGES, README, ROOT, Block, blocks_of, split_command, unresolved, words_of
from peft import get_peft_model

from peft_coop import CoOpConfig, PeftModelForImageClassification, demo
from peft_coop.cli import main
from peft_coop.data import sources
from peft_coop.demo import colour_images, task_images
from peft_coop.methods import METHODS

# Its snippets run in a test file of their own, since they register a method.
ELSEWHERE = {ROOT / "docs" / "own-method.md": "tests/test_own_method.py"}
SHELLS = ("console", "bash")
COMMANDS = [(block, command) for page in PAGES for block in blocks_of(page) for command in block.commands]
COMMANDS = [(block, command) for block, command in COMMANDS if block.language in SHELLS]
TO_RUN = [
    page
    for page in PAGES
    if page not in ELSEWHERE and any(b.language == "python" or PACKAGE in b.text for b in blocks_of(page))
]
# What is told beside the arguments on the page, so that it is done in seconds.
SHORTER = {"train": ["--epochs", "1"]}
# Adapters that a page says the reader has, by what they are learned from.
ADAPTERS = {"my-prompt": "demo:digits", "shapes": "demo:shapes"}
PUSHED = PeftModelForImageClassification
LOAD_TASK = sources.load_task
LOADERS = (transformers.AutoModel, transformers.AutoProcessor, transformers.AutoImageProcessor)


@pytest.fixture(scope="module")
def task():
    return demo.load_task("digits")


@pytest.fixture
def stand_ins(monkeypatch, tmp_path, images, task):
    """A folder with some images; in the place of what a page loads from the Hub is what the package holds."""
    splits = datasets.DatasetDict({"train": task.train.select(range(20)), "test": task.test.select(range(4))})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    monkeypatch.setattr(demo, "load_task", lambda name: replace(task, test=task.test.select(range(40))))
    monkeypatch.setattr(sources, "load_task", small_task)
    for loader in LOADERS:
        monkeypatch.setattr(loader, "from_pretrained", loading(loader.from_pretrained))
    monkeypatch.setattr(PUSHED, "push_to_hub", lambda model, name, **options: model.save_pretrained(name))
    monkeypatch.setattr(transformers.Trainer, "__init__", shortened(transformers.Trainer.__init__))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(images, tmp_path, symlinks=True, dirs_exist_ok=True)


def shortened(real):
    """A Trainer that stops after a few steps, where it is not one of the package's and nothing counts its epochs."""

    def start(trainer, *arguments, **options):
        real(trainer, *arguments, **options)
        if type(trainer) is transformers.Trainer and not options.get("callbacks"):
            trainer.args.max_steps = 3

    return start


@functools.cache
def small_task(name: str):
    """A task of the demo for commands, with some tens of images."""
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr(task_images, "SHAPES_PER_CLASS", {"train": 2, "test": 2})
        fewer.setattr(colour_images, "IMAGES", {"train": 40, "val": 20, "test": 40})
        task = LOAD_TASK(name)
    train, test = (
        images.select(range(min(count, len(images)))) for images, count in ((task.train, 300), (task.test, 40))
    )
    return replace(task, train=train, test=test)


@functools.cache
def learned_from(source: str, folder: Path) -> Path:
    """An adapter for commands that do not say where theirs comes from."""
    main(["train", "--data", source, "--shots", "1", "--epochs", "1", "--output", str(folder), "--quiet"])
    assert is_there(folder)
    return folder


def loading(real):
    """`from_pretrained` that has the demo's model for a name of the Hub."""

    def load(name, *arguments, **options):
        return real(name if Path(name).exists() else demo.MODEL_PATH, *arguments, **options)

    return load


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def images(tmp_path_factory, task):
    """What pages call my-images, my-pairs, photo.jpg and more-photos."""
    folder = tmp_path_factory.mktemp("images")
    for place, row in enumerate(task.train.select(range(60))):
        save(
            row, folder / "my-images" / ("test" if place % 3 == 0 else "train") / task.class_names[row["label"]], place
        )
    for place, row in enumerate(task.train.select(range(24))):
        pair = Path(("old", "new")[place % 2], ("car", "dog")[place // 2 % 2])
        save(row, folder / "my-pairs" / ("test" if place < 8 else "train") / pair, place)
    first, second = task.test.select(range(2))
    first["image"].save(folder / "photo.jpg")
    save(second, folder / "more-photos", 1)
    save(second, folder / "pictures", 1)
    return folder


def save(row, folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    row["image"].save(folder / f"{name}.png")


def run_page(page: Path, adapters: Path) -> tuple[dict, str, list[str]]:
    """Run a page's blocks in order.

    Returns:
        the names that its snippets have made, what they printed, and the commands that were run.
    """
    names, printed, last, ran, missing = {}, "", "", [], []
    for block in blocks_of(page):
        if block.mark == "file":
            Path(block.note).write_text(block.text, encoding="utf-8")
        elif block.mark == "prints":
            assert words_of(last) == words_of(block.text), block.place
        elif block.language == "python":
            last = run_snippet(block, names)
            printed += last
        elif block.language in SHELLS and block.mark != "not run":
            for command in block.commands:
                words = split_command(command)
                if why_not(words, missing):
                    missing += written_by(words[1:]) if words[0] == PACKAGE else []
                    continue
                last = run_command(block, words[1:], adapters)
                printed += last
                ran.append(command)
    return names, printed, ran


def run_snippet(block: Block, names: dict) -> str:
    if block.mark == "not run":
        assert block.code
        assert unresolved(block.text) == [], block.place
        return ""
    if block.mark == "given":
        names |= {name: GIVEN[name]() for name in re.findall(r"\w+", block.note) if name not in names}
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(block.code, names)
    return output.getvalue()


def run_command(block: Block, arguments: list[str], adapters: Path) -> str:
    for name in ADAPTERS.keys() & set(arguments) - set(written_by(arguments)):
        if not is_there(name):
            shutil.copytree(learned_from(ADAPTERS[name], adapters / name), name)
    extra = [] if "--epochs" in arguments else SHORTER.get(arguments[0], [])
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main([*arguments, *extra]) == 0, f"{block.place}: {arguments}"
    return output.getvalue()


def readme(names, printed):
    assert names["model"].class_names == ["a cat asleep", "a cat awake"]
    assert Path("pets-coop/adapter_model.safetensors").is_file()
    assert any(name in printed for name in demo.load_task("digits").class_names)


def composition(names, printed):
    first, second, third = printed.splitlines()
    assert (first, second) == ("0.6666666666666666 0.75 1.0", "1.0")
    assert 0 < float(third) < 1


def methods(names, printed):
    of_images = [key for key, method in METHODS.items() if method.config.task_name == CoOpConfig.task_name]
    assert [line.split()[0] for line in printed.splitlines()] == of_images


def prompt_and_lora(names, printed):
    assert "trainable params: " in printed
    assert "visual_projection.modules_to_save.default.weight" in printed
    assert names["loaded"].base_model.active_beside() == ["vision"]
    assert set(names["both"].peft_config) == {"default", "prompt"}


def make_model():
    return get_peft_model(demo.load_clip(), CoOpConfig(class_names=["cat", "dog"])).eval()


def make_output():
    """The folder of an adapter."""
    make_model().save_pretrained("output")
    return "output"


# What a reader has before a block that is marked `given`.
GIVEN = {"model": make_model, "output": make_output, "image_processor": lambda: demo.load_processor().image_processor}


# How many commands of a page are run at the least: a rule that leaves out too much would be seen by nobody.
LEAST = {"README.md": 3, "docs/quickstart.md": 3, "docs/tutorials/own-folder.md": 3, "docs/deciding.md": 7}
LEAST |= {"docs/deployment.md": 2, "docs/tutorials/hub.md": 2, "docs/methods/coop.md": 1}
# What the snippets of a page must have done, beside running.
DONE = {
    "README.md": readme,
    "docs/composition.md": composition,
    "docs/methods/index.md": methods,
    "docs/tutorials/prompt-and-lora.md": prompt_and_lora,
    "docs/experiments.md": lambda names, printed: pytest.fail(printed) if "0.25" not in printed else None,
}


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time")
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model")
@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_snippets_and_commands_of_a_page_run(page, adapters):
    names, printed, ran = run_page(page, adapters)
    name = page.relative_to(ROOT).as_posix()
    assert len(ran) >= LEAST.get(name, 0), ran
    DONE.get(name, lambda *made: None)(names, printed)


def test_what_pages_must_have_done_is_asked_of_pages_that_exist():
    assert set(DONE) | set(LEAST) <= {page.relative_to(ROOT).as_posix() for page in TO_RUN}
    assert len(TO_RUN) > 5
    for page, test in ELSEWHERE.items():
        assert page in DOCS
        assert f'"{page.name}"' in (ROOT / test).read_text(encoding="utf-8")


def test_marks_are_known_and_give_reasons():
    marked = [block for page in PAGES for block in blocks_of(page) if block.mark]
    assert marked
    for block in marked:
        assert block.mark in MARKS, block.place
        assert bool(block.note) == (block.mark in ("not run", "file", "given")), block.place
    comments = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if "<!-- " in line]
    of_blocks = [line for line in comments if line.strip(" <!->").partition(":")[0] in MARKS]
    assert len(of_blocks) == len(marked)  # none stands where no block follows it


def test_no_python_stands_outside_of_a_fence():
    """It would not be run."""
    code = re.compile(r"^    (?:from \w+ import|import |\w+ = \w+\()", flags=re.MULTILINE)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in blocks_of(page):
            text = text.replace(block.text, "")
        assert not code.search(text), page


def test_no_command_stands_in_a_block_without_a_language():
    """It would not even be parsed."""
    others = [block for page in PAGES for block in blocks_of(page) if block.language not in SHELLS]
    lines = [(block.place, line.removeprefix("$ ")) for block in others for line in block.text.splitlines()]
    assert len(lines) > 500
    assert [place for place, line in lines if line.partition(" ")[0] in CHECKS] == []


@pytest.mark.parametrize(
    "block, command", COMMANDS, ids=[f"{block.place} {command[:40]}" for block, command in COMMANDS]
)
def test_a_command_is_one(block, command):
    """Its program is there and takes the options."""
    if block.mark == "not run":
        subprocess.run(["bash", "-n", "-c", command], check=True)
        return
    program, *arguments = split_command(command)
    assert program in CHECKS, f"{block.place}: no way to check {command!r}; <!-- not run: REASON --> in front says why"
    CHECKS[program](block, arguments)


def parsed(block, arguments):
    check_meaning(parse(arguments))


def is_target(block, arguments):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert arguments[0] in targets
    assert all("=" in argument for argument in arguments[1:])


def is_installed(block, arguments):
    assert arguments[0] == "install"
    assert any(re.match(r"peft-coop|\.(\[|$)", argument) for argument in arguments)


def is_script(block, arguments):
    """A Python file of the examples, or of the page, which has all options in its source."""
    if arguments[:1] == ["-m"]:
        assert arguments[1] == "peft_coop"
        parsed(block, arguments[2:])
        return
    if block.page in ELSEWHERE:
        assert f"# {arguments[0]}\n" in block.page.read_text(encoding="utf-8")
        return
    files = [place / arguments[0] for place in (ROOT, block.page.parent) if (place / arguments[0]).is_file()]
    assert files, f"{block.place}: there is no {arguments[0]}"
    folder = "".join(file.read_text(encoding="utf-8") for file in files[0].parent.glob("*.py"))
    missing = [word for word in arguments if word.startswith("--") and f'"{word}"' not in folder]
    assert not missing, f"{block.place}: {missing}"


def is_launched(block, arguments):
    script = next(place for place, word in enumerate(arguments) if word.endswith(".py"))
    is_script(block, arguments[script:])


CHECKS = {
    "peft-coop": parsed,
    "make": is_target,
    "pip": is_installed,
    "python": is_script,
    "torchrun": is_launched,
    "accelerate": is_launched,
}


def test_a_wrong_command_is_found(tmp_path):
    block = Block(README, 1, "console", "", "", "")
    with pytest.raises(SystemExit, match="2"):
        parsed(block, ["train", "--no-such-option"])
    with pytest.raises(ValueError, match="--set no_such_setting is no setting of coop"):
        parsed(block, ["train", "--data", "demo:digits", "--output", "new", "--set", "no_such_setting=1"])
    with pytest.raises(AssertionError, match="demo:no-such-task"):
        parsed(block, ["evaluate", "--data", "demo:no-such-task"])
    with pytest.raises(AssertionError, match="coop:no-such-data@DATA"):
        parsed(block, ["benchmark", "domain", "--data", "demo:digits", "--targets", "coop:no-such-data@DATA", "..."])
    with pytest.raises(AssertionError, match=r"dense_clip.* in base-to-new"):
        parsed(block, ["benchmark", "base-to-new", "--data", "demo:shapes", "--methods", "dense_clip", "..."])
    with pytest.raises(AssertionError, match="--no-flip has no effect without --augment"):
        parsed(block, ["train", "--data", "demo:digits", "--output", "new", "--no-flip"])
    with pytest.raises(AssertionError, match="there is no nothing"):
        is_script(block, ["nothing.py"])
    with pytest.raises(AssertionError, match="--no-such-option"):
        is_script(block, ["examples/benchmark/bench.py", "--no-such-option"])
    with pytest.raises(AssertionError, match="nothing"):
        is_target(block, ["nothing"])
    assert unresolved("from peft_coop import CoOpConfig, nothing") == ["peft_coop.nothing"]


@pytest.mark.parametrize(
    "command, missing, reason",
    [
        ("peft-coop predict --adapter my-prompt photo.jpg", [], ""),
        ("peft-coop predict --adapter my-prompt photo.jpg", ["my-prompt"], "it goes on from what is not run"),
        ("peft-coop evaluate --adapter runs/seed1/adapter --data demo:digits", ["runs"], "it goes on from"),
        ("peft-coop evaluate --adapter runs-2 --data demo:digits", ["runs"], ""),
        ("peft-coop train --data coop:dtd@DATA --output new", [], "it reads what the reader has"),
        ("peft-coop benchmark few-shot --data demo:digits --output runs", [], "it takes minutes"),
        ("peft-coop benchmark few-shot --data demo:digits --output runs --dry-run", [], ""),
        ("peft-coop benchmark few-shot --data demo:digits ...", [], "it is cut short"),
        ("peft-coop export --format onnx shapes shapes-onnx", [], "it takes half a minute"),
        ("peft-coop export --format classes shapes shapes.safetensors", [], ""),
        ("make demo", [], "it calls what"),
    ],
)
def test_what_is_run_and_why_not(command, missing, reason):
    why = why_not(split_command(command), missing)
    assert why.startswith(reason)
    assert bool(why) == bool(reason)


def test_links_lead_somewhere():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", without_code(page))]
    local = [(page, link) for page, link in links if link and "://" not in link]
    assert len(local) > 50
    missing = [f"{page.relative_to(ROOT)}: {link}" for page, link in local if not (page.parent / link).exists()]
    assert not missing


def without_code(page):
    text = page.read_text(encoding="utf-8")
    for block in blocks_of(page):
        text = text.replace(block.text, "")
    return text
