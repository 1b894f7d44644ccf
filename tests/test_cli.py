"""The command line, on a folder of pictures and trainings that are cut short."""

import json
import subprocess
import sys

import pytest
import torch
from coop_layout_files import make_coop_layout
from PIL import Image
from safetensors.torch import load_file

from peft_coop.cli import demo, main

SHORT = ["--shots", "1", "--epochs", "2"]
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0)}

pytestmark = pytest.mark.usefixtures("figures_are_not_drawn")


@pytest.fixture
def folder(tmp_path):
    """Six pictures of two colours."""
    for split in ("train", "test"):
        for name, colour in COLOURS.items():
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (48, 48), colour).save(tmp_path / "data" / split / name / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def adapter(folder, tmp_path, capsys):
    """A prompt that `train` has saved."""
    run("train", "--data", f"folder:{folder}", "--output", tmp_path / "prompt", *SHORT)
    capsys.readouterr()
    return tmp_path / "prompt"


def run(*arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code


def last_error(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_demo_on_a_folder(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SHOTS", (1, 2))
    monkeypatch.setattr(demo, "RECIPE", {"num_epochs": 1})
    run("demo", "--data", f"folder:{folder}", "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    for line in ("zero-shot CLIP", "CoOp, 1 image per class", "CoCoOp", "2 classes, 6 test images", "loaded it again"):
        assert line in printed
    with Image.open(tmp_path / "out" / "few-shot.png") as picture:
        assert min(picture.size) > 400
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").stat().st_size < 50_000


@pytest.mark.parametrize("method", ["coop", "cocoop"])
def test_train_then_evaluate_then_predict(folder, tmp_path, capsys, method):
    prompt = tmp_path / "prompt"
    run("train", "--data", f"folder:{folder}", "--method", method, "--output", prompt, "--json", *SHORT)
    trained = json.loads(capsys.readouterr().out)
    assert trained["num_train"] == 2
    assert trained["class_names"] == ["green", "red"]
    assert not (prompt / "training").exists()

    run("evaluate", "--adapter", prompt, "--data", f"folder:{folder}", "--json")
    measured = json.loads(capsys.readouterr().out)
    assert measured["num_examples"] == 6
    assert measured["accuracy"] == trained["accuracy"]
    assert measured["class_names"] == ["green", "red"]

    run("predict", "--adapter", prompt, folder / "test" / "red", folder / "test" / "green" / "0.png", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [
        *(str(folder / "test" / "red" / f"{index}.png") for index in range(3)),
        str(folder / "test" / "green" / "0.png"),
    ]
    right = [line["label"] == name for line, name in zip(lines, ["red"] * 3 + ["green"], strict=True)]
    assert measured["accuracy"] == (right[0] + right[3]) / 2  # all test images of a colour are alike
    assert all(0.5 <= line["probability"] <= 1 for line in lines)


def test_zero_shot_needs_no_adapter(folder, capsys):
    run("evaluate", "--data", f"folder:{folder}", "--json")
    measured = json.loads(capsys.readouterr().out)
    assert measured["accuracy"] == 1.0
    assert measured["adapter"] is None
    run("predict", folder / "test" / "red" / "0.png", "--class-names", "red", "green", "blue", "--top-k", "2")
    assert capsys.readouterr().out.split("\t")[1].startswith("red ")


def test_other_classes_at_prediction(adapter, folder, capsys):
    run("predict", "--adapter", adapter, folder / "test" / "red" / "0.png", "--class-names", "red", "blue", "--json")
    assert json.loads(capsys.readouterr().out)["label"] in ("red", "blue")


def test_an_unreadable_image_is_told_and_the_others_are_classified(adapter, folder, capsys):
    (folder / "test" / "red" / "broken.png").write_bytes(b"no picture")
    run("predict", "--adapter", adapter, folder / "test" / "red", "--json", code=2)
    captured = capsys.readouterr()
    *read, broken = [json.loads(line) for line in captured.out.splitlines()]
    assert [line.keys() for line in read] == [{"file", "label", "probability"}] * 3
    assert broken["file"] == str(folder / "test" / "red" / "broken.png")
    assert "broken.png cannot be read: Pillow knows no such image format" in broken["error"]
    assert broken["error"] in captured.err
    run("predict", "--adapter", adapter, folder / "test" / "red", code=2)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_images_in_linked_folders_are_classified_and_other_files_told(adapter, folder, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(folder / "test" / "red")
    (folder / "test" / "red" / "again").symlink_to(tmp_path / "photos")
    (folder / "test" / "red" / "notes.txt").write_text("")
    run("predict", "--adapter", adapter, tmp_path / "photos", "--json")
    captured = capsys.readouterr()
    files = [json.loads(line)["file"] for line in captured.out.splitlines()]
    assert files == [str(tmp_path / "photos" / "linked" / f"{index}.png") for index in range(3)]
    assert f"> left out of {tmp_path / 'photos'}, no images by their names: 1" in captured.err


def test_an_interrupted_training_goes_on(folder, tmp_path, capsys, optimizer_steps):
    command = ["train", "--data", f"folder:{folder}", "--output", tmp_path / "prompt", "--shots", "1", "--epochs", "5"]
    optimizer_steps.interrupted = 4
    run(*command, code=130)
    assert optimizer_steps.taken == 3
    assert "the same command goes on from here" in last_error(capsys)
    run(*command, "--seed", "2", code=2)
    assert "holds an unfinished training with --seed 1, asked for is 2" in last_error(capsys)
    run(*command)
    assert optimizer_steps.taken == 5


def test_a_mistake_does_not_lock_the_folder(folder, tmp_path, capsys):
    command = ["train", "--data", f"folder:{folder}", "--output", tmp_path / "prompt", *SHORT]
    run(*command, "--n-ctx", "500", code=2)
    assert "40" in last_error(capsys)
    run(*command, "--n-ctx", "4")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LORA", "r": 4}, "is no prompt, but of the method"),
        ({"peft_type": "FOO"}, "is of the method FOO, which PEFT does not know"),
    ],
)
def test_adapters_of_other_methods_are_refused(folder, tmp_path, capsys, config, message):
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps(config))
    (other / "adapter_model.safetensors").write_bytes(b"")
    run("evaluate", "--adapter", other, "--data", f"folder:{folder}", code=2)
    assert message in last_error(capsys)


def test_two_datasets_of_one_name_are_refused(folder, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "data").symlink_to(folder)
    sources = [f"folder:{folder}", f"folder:{tmp_path / 'more' / 'data'}"]
    run("benchmark", "few-shot", "--data", *sources, "--output", tmp_path / "runs", code=2)
    assert "a name of its own, got ['data', 'data']" in last_error(capsys)


def test_benchmark_and_report(folder, tmp_path, capsys):
    runs = tmp_path / "runs"
    common = ["--data", f"folder:{folder}", "--seeds", "1", "2", "--epochs", "1", "--output", runs]
    run("benchmark", "few-shot", *common, "--methods", "all", "--shots", "1")
    printed = capsys.readouterr().out
    for method in ("zero-shot CLIP", "CoOp", "CoCoOp", "linear probe"):
        assert method in printed
    results = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}
    run("benchmark", "few-shot", *common, "--methods", "all", "--shots", "1")
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")} == results
    run("benchmark", "base-to-new", *common, "--methods", "zero-shot", "cocoop", "--shots", "1")
    assert "CoCoOp" in capsys.readouterr().out
    run("report", runs, "--output", tmp_path / "report", "--metric", "macro_accuracy")
    assert {"report.md", "report.tex", "report.csv"} <= {path.name for path in (tmp_path / "report").iterdir()}


@pytest.mark.parametrize(("options", "start"), [([], (None, "a photo of a")), (["--n-ctx", "2"], (2, None))])
def test_benchmark_takes_the_papers_context_for_the_protocol(folder, tmp_path, options, start):
    common = ["--data", f"folder:{folder}", "--seeds", "1", "--epochs", "1", "--shots", "1", "--methods", "coop"]
    run("benchmark", "base-to-new", *common, "--output", tmp_path / "runs", *options)
    (path,) = (tmp_path / "runs").rglob("result.json")
    settings = json.loads(path.read_text())["settings"]
    assert (settings["n_ctx"], settings["ctx_init"]) == start


def test_more_shots_than_images_are_told(folder, tmp_path, capsys):
    common = ["--data", f"folder:{folder}", "--seeds", "1", "--epochs", "1", "--methods", "coop"]
    run("benchmark", "few-shot", *common, "--shots", "1", "500", "1000", "--output", tmp_path / "runs")
    captured = capsys.readouterr()
    have = {number for path in (tmp_path / "runs").rglob("result.json") for number in shots_used(path)}
    assert len(have) == 2  # one image, and all
    most = max(have)
    for asked in (500, 1000):
        assert f"data has {most} training images a class: {asked} shots take all of them" in captured.err
        assert f"{asked} shots of data are {most} images per class, as there are no more." in captured.out
    assert ": 1 shots" not in captured.err
    run("train", "--data", f"folder:{folder}", "--shots", "500", "--epochs", "1", "--output", tmp_path / "prompt")
    assert f"data has {most} training images a class: 500 shots take all of them" in capsys.readouterr().err


def shots_used(path):
    return json.loads(path.read_text())["shots_used"]


def test_transfer_and_ablation(folder, tmp_path, capsys):
    common = [
        "--data",
        f"folder:{folder}",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--shots",
        "1",
        "--output",
        tmp_path / "runs",
    ]
    other = folder.rename(tmp_path / "other")
    (tmp_path / "data").symlink_to(other)
    run("benchmark", "cross-dataset", *common, "--targets", f"folder:{other}")
    assert "other" in capsys.readouterr().out
    run("benchmark", "domain", *common, "--targets", f"folder:{other}")
    assert "other" in capsys.readouterr().out
    run("benchmark", "ablation", *common, "--methods", "coop", "--lengths", "1", "2", "--positions", "end", "front")
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "ablation").rglob("result.json")]
    found = {(one["settings"]["n_ctx"], one["settings"]["class_token_position"]) for one in results}
    assert found == {(1, "end"), (2, "end"), (1, "front"), (2, "front")}


def test_a_folder_as_the_originals_runs_through_every_protocol(tmp_path, capsys):
    names = ["tench", "goldfish", "great white shark", "hen"]
    files = {
        name: make_coop_layout(tmp_path / "data", name, names)
        for name in ("imagenet", "imagenetv2", "imagenet_a", "oxford_pets")
    }
    data = ["--data", files["imagenet"].source, "--epochs", "1", "--shots", "1", "--seeds", "1"]
    common = [*data, "--output", tmp_path / "runs", "--methods", "zero-shot", "coop"]
    targets = ["--targets", files["imagenetv2"].source, files["imagenet_a"].source]
    run("benchmark", "few-shot", *common)
    run("benchmark", "base-to-new", *common)
    run("benchmark", "cross-dataset", *common, "--targets", files["oxford_pets"].source)
    run("benchmark", "domain", *common, *targets)
    run("benchmark", "ablation", *common, "--lengths", "2")
    capsys.readouterr()
    run("report", tmp_path / "runs")
    printed = capsys.readouterr().out
    for word in ("imagenet", "oxford_pets", "imagenetv2", "imagenet_a", "CoOp", "base", "new"):
        assert word in printed
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("result.json")]
    assert {one["protocol"] for one in results} == {"few-shot", "base-to-new", "cross-dataset", "domain", "ablation"}
    domain = next(one for one in results if one["protocol"] == "domain" and one["method"] == "coop")
    counted = {split: one["num_examples"] for split, one in domain["results"].items()}
    assert counted == {name: len(files[name].labels["test"]) for name in ("imagenet", "imagenetv2", "imagenet_a")}


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_unreadable_image_names_the_option_that_helps_and_it_helps(folder, tmp_path, capsys, split):
    (folder / split / "red" / "1.png").write_bytes(b"no picture")
    common = ["benchmark", "few-shot", "--data", f"folder:{folder}", "--shots", "3", "--seeds", "1", "--epochs", "2"]
    command = [*common, "--methods", "coop", "--output", tmp_path / "runs"]
    run(*command, code=2)
    error = last_error(capsys)
    assert "1.png cannot be read" in error
    assert error.endswith("--skip-corrupt leaves out what cannot be read.")
    run(*command, "--skip-corrupt")
    assert "left out, cannot be read: 1 " in capsys.readouterr().err


def test_a_damaged_result_does_not_keep_a_report_back(folder, tmp_path, capsys):
    common = ["--data", f"folder:{folder}", "--output", tmp_path / "runs", "--methods", "zero-shot"]
    run("benchmark", "few-shot", *common)
    broken = tmp_path / "runs" / "few-shot" / "other" / "result.json"
    broken.parent.mkdir()
    broken.write_text("{")
    run("benchmark", "few-shot", *common)
    assert f"> Left out: {broken} is no JSON" in capsys.readouterr().err
    run("report", tmp_path / "runs")
    captured = capsys.readouterr()
    assert f"> Left out: {broken} is no JSON" in captured.err
    assert "zero-shot CLIP" in captured.out


def test_interpret(adapter, tmp_path, capsys):
    run("interpret", "--adapter", adapter, "--top-k", "2", "--plot", tmp_path / "words.png", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 16
    assert all(len(line["words"]) == 2 for line in lines)
    with Image.open(tmp_path / "words.png") as picture:
        assert min(picture.size) > 200
    run("interpret", "--adapter", adapter)
    assert capsys.readouterr().out


def test_convert_there_and_back(adapter, tmp_path, capsys):
    checkpoint, again = tmp_path / "prompt_learner" / "model.pth.tar-2", tmp_path / "again"
    run("convert", adapter, "--to-original", "--output", checkpoint)
    run("convert", checkpoint, "--output", again, "--model", "demo")
    first, second = (load_weights(path) for path in (adapter, again))
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=0)
    assert json.loads((again / "adapter_config.json").read_text())["class_names"] == ["green", "red"]


def load_weights(adapter):
    return load_file(adapter / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--data", "folder:/nowhere/at/all"], "There is no folder '/nowhere/at/all'"),
        (["demo", "--data", "digits"], "got 'digits'"),
        (["demo", "--data", "demo:cats"], "must be one of"),
        (["demo", "--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["train", "--data", "demo:cats", "--output", "OUT"], "must be one of"),
        (["train", "--data", "demo:digits", "--output", "OUT", "--n-ctx", "0"], "`n_ctx` must be a whole number"),
        (
            ["train", "--data", "demo:digits", "--output", "OUT", "--epochs", "0"],
            "`num_epochs` must be above 0 and finite, got 0",
        ),
        (["evaluate", "--data", "demo:digits", "--adapter", "/nowhere"], "/nowhere"),
        (["predict", "/nowhere.png", "--class-names", "a"], "There is no file or folder '/nowhere.png'"),
        (["predict", "OUT", "--class-names", "a"], "holds no image"),
        (["report", "OUT"], "OUT"),
        (["convert", "/nowhere.tar", "--output", "OUT", "--model", "demo"], "/nowhere.tar"),
        (["convert", "/nowhere.tar", "--output", "OUT"], "Give --model"),
        (["evaluate", "--data", "demo:digits", "--adapter", "OUT"], "holds no adapter"),
        (["train", "--data", "demo:digits", "--output", "OUT", "--learning-rate", "nan"], "above 0 and finite"),
        (["interpret", "--adapter", "/nowhere"], "/nowhere"),
        (["push", "--adapter", "/nowhere", "--repo", "me/it"], "/nowhere"),
        (
            ["benchmark", "base-to-new", "--data", "demo:shapes", "--class-specific", "--output", "OUT"],
            "unified context",
        ),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, tmp_path, capsys):
    (tmp_path / "OUT").mkdir()
    if arguments[0] == "demo":
        arguments = [*arguments, "--output", "OUT"]
    run(*(str(tmp_path / "OUT") if argument == "OUT" else argument for argument in arguments), code=2)
    error = last_error(capsys)
    assert error.startswith("peft-coop: ")
    assert message in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["train", "--shots", "none"],
        ["benchmark", "few-shot", "--methods", "nothing"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_has_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: peft-coop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["--help"], ("demo", "train", "evaluate", "predict", "benchmark", "report", "interpret", "convert", "push")),
        (["demo", "--help"], ("--model", "--data", "--base-new-data", "--output")),
        (["train", "--help"], ("--method", "--shots", "--n-ctx", "--seed", "--output", "examples:")),
        (["benchmark", "--help"], ("few-shot", "base-to-new", "cross-dataset", "domain", "ablation", "examples:")),
    ],
)
def test_help_teaches(command, words, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(command)
    printed = capsys.readouterr().out
    assert all(word in printed for word in words)


def test_a_package_that_is_missing_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    run("evaluate", "--data", f"folder:{folder}", code=2)
    error = last_error(capsys)
    assert error.startswith("peft-coop: The package 'datasets' is not installed: pip install \"peft-coop[cli]\"")


def test_as_a_module():
    result = subprocess.run([sys.executable, "-m", "peft_coop", "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: peft-coop")
