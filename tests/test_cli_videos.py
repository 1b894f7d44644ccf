"""The commands on videos: the same as on images, and what goes wrong where the two are confused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from transformers import AutoImageProcessor
from video_files import levels, write_folder, write_frames, write_video

from peft_coop.cli import main

pytestmark = pytest.mark.usefixtures("figures_are_not_drawn")

SMALL = ["--set", "n_prefix=2", "--set", "n_suffix=2", "--set", "num_frames=4", "--epochs", "1"]


def run(*arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("videos") / "actions")


@pytest.fixture(scope="module")
def adapter(videos, tmp_path_factory):
    place = tmp_path_factory.mktemp("adapter") / "prompt"
    run("train", "--data", f"videos:{videos}", "--shots", "2", "--output", place, "--quiet", *SMALL)
    return place


def test_training_takes_the_method_that_reads_videos(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == ("VIDEO_PROMPT", "VIDEO_CLS")
    scores = json.loads((adapter / "scores.json").read_text())
    assert scores["num_train"] == 4
    assert scores["summary"]["frames"]["lowest"] == 5


def test_an_adapter_is_measured_with_the_best_five_and_its_predictions_written(adapter, videos, tmp_path, capsys):
    table = tmp_path / "predictions.csv"
    data = ["--data", f"videos:{videos}", "--clips", "2", "--predictions", table]
    run("evaluate", "--adapter", adapter, *data)
    printed = capsys.readouterr()
    assert f"actions: 6 test videos of 2 classes, {adapter}" in printed.out
    assert "the class among the best 5    100.0%" in printed.out
    assert "frames: 5 to 7, median 6; per second: 8" in printed.err
    assert "test/jump/clip0.mp4,jump," in table.read_text()
    run("evaluate", "--data", f"videos:{videos}", "--split", "train", "--json", "--quiet")
    assert json.loads(capsys.readouterr().out)["num_examples"] == 6


def test_videos_are_classified_and_broken_ones_told(adapter, videos, tmp_path, capsys):
    file = write_video(tmp_path / "a" / "clip.mp4", range(6))
    write_frames(tmp_path / "a" / "frames", range(3))
    (tmp_path / "a" / "broken.mp4").write_text("no video")
    run("predict", "--adapter", adapter, tmp_path / "a", "--top-k", "2", "--json", "--quiet", code=2)
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert sorted(Path(line["file"]).name for line in lines) == ["broken.mp4", "clip.mp4", "frames"]
    assert ["error" in line for line in lines] == [Path(line["file"]).name == "broken.mp4" for line in lines]
    for line in lines:
        assert "error" in line or sum(each["probability"] for each in line["top"]) == pytest.approx(1, abs=1e-6)
    assert "broken.mp4 cannot be read" in printed.err
    run("predict", "--class-names", "jump", "run", "--top-k", "2", "--json", "--quiet", "--", file)
    assert {each["label"] for each in json.loads(capsys.readouterr().out)["top"]} == {"jump", "run"}


def test_videos_are_answered_with_what_was_decided(adapter, tmp_path, capsys):
    file, decided = write_video(tmp_path / "clip.mp4", range(6)), tmp_path / "decided"
    shutil.copytree(adapter, decided)
    config = json.loads((decided / "adapter_config.json").read_text()) | {"min_probability": 1.0}
    (decided / "adapter_config.json").write_text(json.dumps(config))
    run("predict", "--adapter", decided, file, "--json", "--quiet")
    answer = json.loads(capsys.readouterr().out)
    assert (answer["label"], answer["probability"]) == ("other", None)
    assert answer["best_guess"]["label"] in ("jump", "run")


def test_a_benchmark_on_videos_reports_as_one_on_images(videos, tmp_path, capsys):
    common = ["--data", f"videos:{videos}", "--output", tmp_path, "--quiet", *SMALL]
    run("benchmark", "few-shot", "--shots", "1", "--seeds", "1", "2", *common)
    printed = capsys.readouterr().out
    assert "## Few-shot: accuracy in % on actions, model demo" in printed
    assert "| Video prompting |" in printed
    assert (tmp_path / "video-few-shot" / "report" / "report.md").is_file()
    run("benchmark", "few-shot", "--ways", "2", "--trials", "2", "--shots", "2", *common)
    assert "## Few-shot of 2 classes: accuracy in % on actions" in capsys.readouterr().out
    run("benchmark", "few-shot", "--shots", "1", "--seeds", "3", "--dry-run", *common)
    assert "2 runs: 1 finished, 1 to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            "train --data demo:digits --method video_prompt",
            "Video prompting classifies videos: --data must be videos:PATH",
        ),
        (
            "train --data VIDEOS --method coop",
            "CoOp classifies images, and 'videos:.*' has videos: give --method video_prompt",
        ),
        ("benchmark few-shot --data VIDEOS --methods coop", "CoOp takes no part in 'video-few-shot'"),
        ("benchmark few-shot --data VIDEOS --methods gda", "classifies images, and the data are videos"),
        ("benchmark few-shot --data demo:digits VIDEOS", "has videos, and other --data has images"),
        (
            "benchmark domain --data VIDEOS --targets VIDEOS",
            "benchmark domain is for images, and 'videos:.*' has videos",
        ),
        (
            "train --data demo:digits --clips 3",
            "--clips is for videos .*demo:motion.*, and not for demo:digits",
        ),
        ("train --data demo:scenes --clips 3", "and not for demo:scenes"),
        ("benchmark few-shot --data demo:digits --clips 3", "--clips is for videos .* and not for demo:digits"),
        ("train --data VIDEOS --views 2", "Video prompting reads videos, and has another clip of each in every epoch"),
    ],
)
def test_videos_and_images_are_not_confused(arguments, message, videos, tmp_path, capsys):
    asked = arguments.replace("VIDEOS", f"videos:{videos}").split()
    run(*asked, "--output", tmp_path / "out", code=2)
    assert re.search(message, capsys.readouterr().err)


def test_an_adapter_of_videos_does_not_take_images(adapter, videos, tmp_path, capsys):
    run("evaluate", "--data", "demo:digits", "--clips", "2", code=2)
    assert "--clips is for videos (videos:PATH or demo:motion), and not for demo:digits" in capsys.readouterr().err
    run("evaluate", "--adapter", adapter, "--data", "demo:digits", code=2)
    assert "is for videos, and not for whole images" in capsys.readouterr().err
    run("predict", "--adapter", adapter, code=2)
    assert "Name video files, folders of frames, or folders of these." in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    run("predict", "--adapter", adapter, tmp_path / "empty", code=2)
    assert "holds no video, and no frame of one" in capsys.readouterr().err
    run("calibrate", adapter, "--data", f"videos:{videos}", code=2)
    assert "Adapters of images are calibrated" in capsys.readouterr().err


def test_a_graph_answers_as_the_adapter_does(adapter, videos, tmp_path, capsys):
    """Measured on the clips that `evaluate` draws, and run by hand on frames that are chosen as its config says."""
    place, data = tmp_path / "graph", ["--data", f"videos:{videos}", "--clips", "2", "--quiet"]
    run("export", "--format", "onnx", "--precision", "int8", adapter, place, *data)
    first, full, int8 = capsys.readouterr().out.splitlines()
    assert first == f"Wrote {place}: 2 classes."
    run("evaluate", "--adapter", adapter, *data, "--json")
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    told = rf"onnx/model\.onnx\tfloat32\t\d\.\d MB\tlogits within \d\.\de-\d\d\taccuracy {100 * accuracy:.1f}%"
    assert re.fullmatch(told, full)
    assert int8.startswith("onnx/model_quantized.onnx\tint8\t")

    config = json.loads((place / "config.json").read_text())
    assert (config["model_type"], config["num_frames"], config["frame_sampling"]) == ("videomae", 4, "linspace")
    frames = write_frames(tmp_path / "frames", levels(7))
    files = np.array(sorted(frames.iterdir()))[np.linspace(0, 6, 4).round().astype(int)]
    pictures = [Image.open(file).convert("RGB") for file in files]
    pixels = AutoImageProcessor.from_pretrained(place)(pictures, return_tensors="np")["pixel_values"]
    session = onnxruntime.InferenceSession(str(place / "onnx" / "model.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 4, 3, 48, 48]
    [logits] = session.run(None, {"pixel_values": np.stack([pixels, pixels, pixels[[0, 0, 0, 0]]])})
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    found = dict(zip(config["id2label"].values(), (powers / powers.sum(-1, keepdims=True))[1], strict=True))
    run("predict", "--adapter", adapter, frames, "--top-k", "2", "--json", "--quiet")
    top = json.loads(capsys.readouterr().out)["top"]
    assert found == pytest.approx({each["label"]: each["probability"] for each in top}, abs=1e-4)
    assert abs(logits[2] - logits[0]).max() > 1e-3  # of the first frame alone
