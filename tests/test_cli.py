"""The command line, on the demo's data and a training that is cut short."""

from dataclasses import replace

import pytest
from PIL import Image

from peft_coop.cli import main
from peft_coop.evaluation import protocols


@pytest.fixture
def short(monkeypatch):
    """One shot and one epoch."""
    monkeypatch.setattr(protocols, "SHOTS", (1,))
    for plan in ("COOP_PLAN", "COCOOP_PLAN"):
        monkeypatch.setattr(protocols, plan, replace(getattr(protocols, plan), num_epochs=1))


@pytest.fixture
def folder(tmp_path):
    """Six pictures of two colours."""
    for split in ("train", "test"):
        for name, colour in {"red": (200, 0, 0), "green": (0, 200, 0)}.items():
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (48, 48), colour).save(tmp_path / "data" / split / name / f"{index}.png")
    return tmp_path / "data"


def test_demo_on_a_folder(short, folder, tmp_path, capsys):
    assert main(["demo", "--data", f"folder:{folder}", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for line in ("zero-shot CLIP", "CoOp, 1 image per class", "CoCoOp", "2 classes, 6 test images", "loaded it again"):
        assert line in printed
    with Image.open(tmp_path / "out" / "few-shot.png") as picture:
        assert picture.size == (825, 600)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").stat().st_size < 50_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "folder:/nowhere/at/all"], "There is no folder '/nowhere/at/all'"),
        (["--data", "digits"], "Data is one of demo:digits, demo:shapes, folder:PATH and hub:NAME, got 'digits'"),
        (["--data", "demo:cats"], "must be one of"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("peft-coop: ")
    assert message in error


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["demo", "--help"])
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--model", "--data", "--base-new-data", "--output"))
