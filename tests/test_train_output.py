"""`train --output`: nothing is removed or written over that it has not written, and it goes on with the same only."""

import json
import shutil
from pathlib import Path

import pytest
from forked import run_forked
from PIL import Image

from peft_coop.cli import main
from peft_coop.cli.training_folder import TrainingFolder
from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation import FrozenCLIP, clip_fingerprint
from peft_coop.evaluation.folder_locks import locked
from peft_coop.evaluation.prompt_training import last_checkpoint

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0)}


@pytest.fixture
def data(tmp_path):
    for split in ("train", "test"):
        for name, colour in COLOURS.items():
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(3):
                tint = tuple(part + 9 * index + (split == "test") for part in colour)
                Image.new("RGB", (48, 48), tint).save(tmp_path / "data" / split / name / f"{index}.png")
    return tmp_path / "data"


def train(data, output, *more, code=0):
    command = ["train", "--data", f"folder:{data}", "--output", output, "--shots", "1", "--epochs", "5", *more]
    assert main([str(one) for one in command]) == code


def last_error(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["training/my-only-copy.txt", "training/checkpoint-9/notes.txt", "README.md", "photos/cat.txt"]
)
def test_a_folder_with_files_of_others_is_refused_and_left_alone(data, tmp_path, capsys, name):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("of the user")
    train(data, tmp_path / "out", code=2)
    assert f"holds '{name.partition('/')[0]}', which is of no unfinished training" in last_error(capsys)
    assert contents(tmp_path / "out") == {Path(name): b"of the user"}


def test_hidden_files_stay_beside_the_adapter(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".gitattributes").write_text("*.safetensors filter=lfs")
    train(data, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "scores.json"}
    assert "# out\n" in (tmp_path / "out" / "README.md").read_text()


def test_a_file_that_comes_while_training_is_left_alone(data, tmp_path, capsys, monkeypatch):
    (tmp_path / "out").mkdir()
    deliver = TrainingFolder.deliver

    def late(folder):
        (tmp_path / "out" / "README.md").write_text("mine")
        (folder.work / "thoughts.txt").write_text("mine")
        deliver(folder)

    monkeypatch.setattr(TrainingFolder, "deliver", late)
    train(data, tmp_path / "out", code=2)
    error = last_error(capsys)
    assert "README.md was written by someone else meanwhile" in error
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert (tmp_path / "out" / "training" / "finished" / "out" / "adapter_model.safetensors").exists()
    assert str(tmp_path / "out" / "training" / "finished" / "out") in error


def test_a_file_among_the_checkpoints_is_left_alone(data, tmp_path, monkeypatch):
    deliver = TrainingFolder.deliver

    def late(folder):
        (folder.work / "thoughts.txt").write_text("mine")
        deliver(folder)

    monkeypatch.setattr(TrainingFolder, "deliver", late)
    train(data, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "training").iterdir()] == ["thoughts.txt"]


def test_a_mistake_leaves_nothing_behind(data, tmp_path, capsys):
    train(data, tmp_path / "new" / "out", "--n-ctx", "500", code=2)
    assert "500" in last_error(capsys)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def stopped(data, tmp_path, capsys, optimizer_steps):
    """A training that was stopped behind a checkpoint."""
    optimizer_steps.interrupted = 4
    train(data, tmp_path / "out", code=130)
    assert last_checkpoint(tmp_path / "out" / "training") is not None
    capsys.readouterr()
    return tmp_path / "out"


def test_changed_images_are_another_training(data, stopped, capsys):
    kept = contents(stopped)
    for file in (data / "train" / "red").iterdir():
        Image.new("RGB", (48, 48), (201, 7, 7)).save(file)
    train(data, stopped, code=2)
    assert "holds an unfinished training with other images or classes" in last_error(capsys)
    assert contents(stopped) == kept


def test_changed_classes_are_another_training(data, stopped, capsys):
    for split in ("train", "test"):
        (data / split / "red").rename(data / split / "scarlet")
    train(data, stopped, code=2)
    assert "holds an unfinished training with other images or classes" in last_error(capsys)


def test_moved_images_are_the_same_training(data, stopped, tmp_path, monkeypatch):
    """Also touched ones, and others to test on."""
    data.rename(tmp_path / "moved")
    data.symlink_to(tmp_path / "moved")
    (data / "train" / "red" / "0.png").touch()
    (data / "test" / "red" / "0.png").unlink()
    train(data, stopped)
    assert (stopped / "adapter_model.safetensors").exists()
    assert not (stopped / "training").exists()


def test_a_changed_model_is_another_training(tmp_path, monkeypatch):
    from peft_coop.demo import MODEL_PATH

    model = shutil.copytree(MODEL_PATH, tmp_path / "model")
    clip = FrozenCLIP.from_pretrained(str(model))
    first = clip_fingerprint(clip)
    assert first == clip_fingerprint(FrozenCLIP(load_clip(), load_processor(), "demo"))
    clip.processor.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=4)
    assert clip_fingerprint(clip) == first
    with monkeypatch.context() as patch:
        patch.setattr(clip.processor.image_processor, "image_mean", [0.1, 0.2, 0.3])
        assert clip_fingerprint(clip) != first
    clip.model.logit_scale.data.add_(1e-3)
    assert clip_fingerprint(clip) != first

    settings = {"seed": 1, "weights": first}
    with TrainingFolder(tmp_path / "out", settings) as folder:
        (folder.work / "checkpoint-1").mkdir()
    with TrainingFolder(tmp_path / "out", settings):
        pass
    changed = TrainingFolder(tmp_path / "out", {**settings, "weights": clip_fingerprint(clip)})
    with pytest.raises(ValueError, match="unfinished training with another model of this name"):
        changed.__enter__()


def test_two_trainings_in_one_folder_at_a_time_are_refused(data, stopped, capsys):
    with locked(stopped / "training"):
        train(data, stopped, code=2)
    assert f"Another process works in {stopped / 'training'}" in last_error(capsys)
    train(data, stopped)


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = f"""
import os
from pathlib import Path
from peft_coop.evaluation.folder_locks import locked
with locked(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), 9)
"""
    (tmp_path / "script.py").write_text(code)
    assert run_forked(tmp_path / "script.py").returncode == -9
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_checkpoint_that_was_cut_off_is_passed_over_and_left(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-of-mine").mkdir()
    (tmp_path / "checkpoint-of-mine" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert len(list(tmp_path.iterdir())) == 4


def test_the_printed_object_has_the_summary(data, tmp_path, capsys):
    train(data, tmp_path / "out", "--json")
    printed = capsys.readouterr()
    summary = json.loads(printed.out)["summary"]
    assert summary["splits"]["train"] == {"images": 6, "classes": 2, "fewest": 3, "most": 3}
    assert "> data: 2 classes (green, red); images: train 6 (3 a class), test 6 (3 a class)" in printed.err


def test_evaluate_prints_the_same_summary(data, capsys):
    assert main(["evaluate", "--data", f"folder:{data}", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["summary"]["splits"]["test"]["images"] == 6
    assert "> data: 2 classes (green, red); images: train 6 (3 a class), test 6 (3 a class)" in printed.err
