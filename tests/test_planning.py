"""`benchmark --dry-run`: the runs that would be done, and nothing done."""

from dataclasses import replace

import pytest
import torch

from peft_coop.cli import main
from peft_coop.cli.dry_run import duration
from peft_coop.data import load_data
from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation import (
    FrozenCLIP,
    ImageEncoderFineTuning,
    LayerNormTuning,
    LinearProbe,
    LoRATuning,
    PromptLearning,
    TwoStage,
    ZeroShot,
    few_shot,
    planning,
)
from peft_coop.evaluation.planning import images_to_encode, only_listed

SHORT = {"num_epochs": 2, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def digits():
    return load_data("demo:digits")


@pytest.fixture
def clip():
    return FrozenCLIP(load_clip(), load_processor(), "demo")


def methods():
    return [ZeroShot(), LinearProbe(), PromptLearning("coop", {"n_ctx": 2, "ctx_init": None}, SHORT)]


def test_what_is_listed_is_what_is_done(clip, digits, tmp_path, monkeypatch):
    steps = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *given, **named: steps.append(1) or step(*given, **named))
    with only_listed() as runs:
        assert few_shot(clip, digits, methods(), tmp_path, (1, 16), (1,)) == []
    assert list(tmp_path.iterdir()) == []
    assert steps == []
    assert [(run.key.method, run.num_train, run.num_steps) for run in runs] == [
        ("zero-shot", 0, 0),
        ("linear-probe", 10, None),
        ("linear-probe", 160, None),
        ("coop", 10, 2),
        ("coop", 160, 10),
    ]
    assert [run.seconds is None or run.seconds > 0 for run in runs] == [True] * 5
    assert [run.seconds is None for run in runs] == [True, True, True, False, False]
    assert images_to_encode(runs) == 10 + 160 + len(digits.test)

    records = few_shot(clip, digits, methods()[2:], tmp_path, (1,), (1,))
    assert len(steps) == 2
    with only_listed() as again:
        few_shot(clip, digits, methods(), tmp_path, (1, 16), (1,))
    assert [run.finished for run in again] == [False, False, False, True, False]
    assert str(again[3].key.folder(tmp_path)) == records[0]["folder"]
    assert again[3].seconds is None


def test_an_estimate_is_steps_times_what_one_takes(clip, digits, tmp_path, monkeypatch):
    measured = iter([20.0, 42.0, 21.0, 43.0])
    monkeypatch.setattr(planning, "seconds_of", lambda step, device: next(measured))
    monkeypatch.setattr(planning, "seconds_per_image", lambda clip: 100.0)
    augmented = PromptLearning("coop", {"n_ctx": 2, "ctx_init": None}, SHORT, augment=True)
    with only_listed() as runs:
        few_shot(clip, digits, [*methods()[2:], augmented], tmp_path, (1, 16), (1,))
    assert [run.seconds for run in runs] == [2 * 20, 10 * 42, 2 * (21 + 1000), 10 * (43 + 3200)]


@pytest.mark.parametrize("augment", [False, True])
def test_steps_through_the_vision_tower_are_measured_with_it(clip, digits, tmp_path, monkeypatch, augment):
    """Each kind once, by steps that go backwards through it; the second of two stages takes next to nothing."""
    shapes = []

    def seconds_of(step, device):
        with monkeypatch.context() as patch:
            backward = torch.Tensor.backward
            patch.setattr(torch.Tensor, "backward", lambda loss: shapes.append(loss.requires_grad) or backward(loss))
            step()
        return 1.0

    monkeypatch.setattr(planning, "seconds_of", seconds_of)
    short = {"num_epochs": 5, "augment": augment}
    tuned = [LoRATuning(**short), LayerNormTuning(**short), TwoStage(**short), ImageEncoderFineTuning(**short)]
    with only_listed() as runs:
        few_shot(clip, digits, tuned, tmp_path, (1, 16), (1, 2))
    assert [run.seconds for run in runs] == [5, 5, 25, 25] * 2 + [3, 3, 15, 15] + [5, 5, 25, 25]
    assert [run.num_steps for run in runs] == [5, 5, 25, 25] * 4
    assert shapes == [True] * 8
    assert images_to_encode(runs) == 16 * len(digits.test)  # each by a tower of its own


def test_every_view_is_an_image_to_encode(clip, digits, tmp_path):
    coop = methods()[2]
    with only_listed() as runs:
        few_shot(clip, digits, [coop, replace(coop, views=4), replace(coop, views=1)], tmp_path, (1,), (1,))
    assert images_to_encode(runs) == 10 + 40 + 10 + len(digits.test)
    assert len({run.key.folder(tmp_path) for run in runs}) == 3


def test_the_command(tmp_path, capsys):
    command = ["benchmark", "few-shot", "--data", "demo:digits", "--shots", "1", "2", "--seeds", "1", "2"]
    command += ["--epochs", "3", "--output", str(tmp_path / "runs"), "--methods", "zero-shot", "coop", "linear-probe"]
    assert main([*command, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:2]] == [["digits", "zero-shot", "CLIP"]]
    assert [line.split()[-2:] for line in lines[1:10]] == [["to", "do"]] * 9
    assert "9 runs: 0 finished, 9 to do, about " in lines[11]
    assert lines[12] == "Not in it: reading the images, and linear probe."
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "under 1 s"), (90, "90 s"), (150, "2 min"), (3 * 3600, "3 h"), (5 * 86400, "5 days")],
)
def test_times_in_words(seconds, text):
    assert duration(seconds) == text
