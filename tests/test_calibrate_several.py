"""Prompts with several labels per image: how far each label's probability can be trusted, and from when it is given."""

import json
import re

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import expit

from peft_coop import CoOpConfig, VideoPromptConfig
from peft_coop.cli.main import main
from peft_coop.data import load_data
from peft_coop.demo import load_clip
from peft_coop.evaluation import (
    Decided,
    DecidedLabels,
    by_known_classes,
    calibration_scores,
    coverage_figure,
    reliability_figure,
)

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
NAMES = ["blue", "green", "red"]
SEVERAL = "multi_label_classification"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of one or two colours, noisy and now and then mislabelled, and a table of them."""
    folder, generator = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    lines = ["file,labels"]
    for split, count in (("train", 3), ("val", 24), ("test", 12)):
        (folder / split).mkdir()
        for index in range(count):
            names = [list(COLOURS)[(index + step) % 3] for step in range(1 + index % 2)]
            pixels = generator.integers(0, 120, size=(48, 48, 3))
            for place, name in enumerate(names):
                pixels[place * 24 : place * 24 + 24] += (np.array(COLOURS[name]) * 0.6).astype(int)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / f"{index}.png")
            lines.append(f"{split}/{index}.png,{';'.join(names if index % 5 else ['red'])}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An adapter that judges the colours, in an order of its own, with a scale and bias that make sense."""
    folder = tmp_path_factory.mktemp("adapter")
    settings = {"ctx_init": "a photo of a", "n_ctx": None, "problem_type": SEVERAL}
    model = get_peft_model(load_clip(), CoOpConfig(class_names=NAMES, **settings))
    with torch.no_grad():
        model.prompt_layer.prompt.label_scale.fill_(3.0)
        model.prompt_layer.prompt.label_bias.fill_(-5.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def prompt(saved, tmp_path):
    """A copy of it."""
    (tmp_path / "prompt").mkdir()
    for file in saved.iterdir():
        (tmp_path / "prompt" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "prompt"


def run(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def gap(probabilities, has, num_bins):
    """The calibration error, bin by bin."""
    total = 0.0
    for number in range(num_bins):
        inside = [
            (p, y)
            for p, y in zip(probabilities, has, strict=True)
            if number / num_bins < p <= (number + 1) / num_bins or (p == number == 0)
        ]
        if inside:
            mean, share = np.mean([p for p, _ in inside]), np.mean([y for _, y in inside])
            total += len(inside) / len(probabilities) * abs(mean - share)
    return total


def test_calibration_errors_agree_with_loops():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(60, 4)) - np.array([0, 1, 2, 3])
    has = (generator.random(logits.shape) < expit(logits + 0.7)).astype(int)
    found = calibration_scores(logits, has, num_bins=7)
    probabilities = expit(logits)
    assert found["ece"] == pytest.approx(gap(probabilities.ravel(), has.ravel(), 7), abs=1e-12)
    of_classes = [gap(probabilities[:, column], has[:, column], 7) for column in range(4)]
    assert found["classwise_ece"] == pytest.approx(np.mean(of_classes), abs=1e-12)
    assert found["classwise_ece"] > found["ece"] > 0.05


def test_calibrate_then_predict_then_evaluate(data, prompt, tmp_path, capsys):
    picture, config = tmp_path / "reliability.png", json.loads((prompt / "adapter_config.json").read_text())
    asked = ["--min-accuracy", "0.75", "--reliability", picture, "--json"]
    found = json.loads(run(capsys, "calibrate", prompt, "--data", f"folder:{data}", *asked).out)
    chosen = {"calibration_temperature": found["temperature"], "min_probability": found["min_probability"]}
    assert json.loads((prompt / "adapter_config.json").read_text()) == config | chosen
    validation, test = found["validation"], found["test"]
    assert (validation["num_examples"], test["num_examples"]) == (24, 12)
    assert validation["after"]["nll"] < validation["before"]["nll"]
    assert validation["after"]["mean_average_precision"] == validation["before"]["mean_average_precision"]
    assert validation["after"]["precision"] >= 0.75
    with Image.open(picture) as image:
        assert np.asarray(image.convert("L")).std() > 10

    rows = run(capsys, "predict", "--adapter", prompt, data / "test", "--min-probability", "0", "--json").out
    probabilities = {
        row["file"]: {each["label"]: each["probability"] for each in row["labels"]}
        for row in map(json.loads, rows.splitlines())
    }
    images = load_data(f"folder:{data}").test
    truth = np.array(images["label"][:])
    files = [
        image["path"]
        for image in images.cast_column("image", images.features["image"].__class__(decode=False))["image"]
    ]
    likely = np.array([[probabilities[file][name] for name in NAMES] for file in files])
    answered = likely >= found["min_probability"]
    assert test["after"]["precision"] == pytest.approx(truth[answered].mean())
    assert test["after"]["recall"] == pytest.approx(answered[truth == 1].mean())
    nll = -(truth * np.log(likely) + (1 - truth) * np.log1p(-likely)).mean()
    assert test["after"]["nll"] == pytest.approx(nll, rel=1e-4)
    measured = json.loads(run(capsys, "evaluate", "--adapter", prompt, "--data", f"folder:{data}", "--json").out)
    assert measured["f1_macro"] == test["after"]["f1_macro"] != test["before"]["f1_macro"]


def test_what_is_printed_says_which_error(data, prompt, capsys):
    told = run(capsys, "calibrate", prompt, "--data", f"folder:{data}")
    assert "chosen with 24 validation images" in told.err
    for line in ("calibration error, all classes together", "calibration error, mean over classes", "zero-shot"):
        assert line in told.out
    assert "min_probability" not in json.loads((prompt / "adapter_config.json").read_text())


def test_a_threshold_below_which_nothing_is_held_back(data, prompt, capsys):
    """It is 0, and not none, which would be 0.5."""
    told = run(capsys, "calibrate", prompt, "--data", f"folder:{data}", "--min-accuracy", "0.2").out
    assert "A label is answered from a probability of 0.0% on." in told
    assert json.loads((prompt / "adapter_config.json").read_text())["min_probability"] == 0.0
    assert "F1 from 0.00 on" in run(capsys, "evaluate", "--adapter", prompt, "--data", f"folder:{data}").out
    image = data / "test" / "0.png"
    assert run(capsys, "predict", "--adapter", prompt, image).out.count("%") == 3


def test_scores_beside_the_adapter_are_those_of_the_threshold(data, prompt, capsys):
    record = {"dataset": data.name, "num_examples": 12, "mean_average_precision": 0.5, "f1_macro": 0.1, "f1_micro": 0.1}
    (prompt / "scores.json").write_text(json.dumps(record))
    asked = ["calibrate", prompt, "--data", f"folder:{data}", "--min-accuracy", "0.75", "--json"]
    found = json.loads(run(capsys, *asked).out)["test"]["after"]
    written = json.loads((prompt / "scores.json").read_text())
    assert [written[name] for name in ("f1_macro", "f1_micro")] == [found["f1_macro"], found["f1_micro"]]
    assert (written["mean_average_precision"], "ece" in written) == (0.5, False)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--other-names", "a texture"], "--other-names are for images of one class each"),
        (["--min-coverage", "0.5"], "--min-coverage is of images that are answered or held back"),
        (["--coverage", "{prompt}.png"], "--coverage is of images that are answered or held back"),
        (["--min-accuracy", "1.5"], "`min_accuracy` must be a fraction above 0 and at most 1"),
    ],
)
def test_what_is_refused_changes_nothing(arguments, message, data, prompt, capsys):
    before = (prompt / "adapter_config.json").read_bytes()
    arguments = [each.format(prompt=prompt) for each in arguments]
    assert message in run(capsys, "calibrate", prompt, "--data", f"folder:{data}", *arguments, code=2).err
    assert (prompt / "adapter_config.json").read_bytes() == before


@pytest.fixture(scope="module")
def one_class_each(data, tmp_path_factory):
    """The same pictures in folders."""
    folder = tmp_path_factory.mktemp("one")
    for split in ("train", "val", "test"):
        for index, name in enumerate(NAMES * 3):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            (folder / split / name / f"{index}.png").symlink_to(data / "test" / f"{index}.png")
    return folder


def test_labels_of_the_other_kind(data, one_class_each, prompt, tmp_path, capsys):
    told = run(capsys, "calibrate", prompt, "--data", f"folder:{one_class_each}", code=2).err
    assert "judges each class for itself, and these images have one class each" in told
    get_peft_model(load_clip(), CoOpConfig(class_names=NAMES, calibration_temperature=3.0)).save_pretrained(
        tmp_path / "one"
    )
    told = run(capsys, "calibrate", tmp_path / "one", "--data", f"folder:{data}", code=2).err
    assert "have several labels each, and the prompt was trained for one" in told
    told = run(capsys, "evaluate", "--adapter", tmp_path / "one", "--data", f"folder:{data}").err
    assert (
        "the images have several labels: what `calibrate` has chosen for images of one class each is not used" in told
    )
    config = json.loads((prompt / "adapter_config.json").read_text()) | {"min_probability": 0.9}
    (prompt / "adapter_config.json").write_text(json.dumps(config))
    told = run(capsys, "evaluate", "--adapter", prompt, "--data", f"folder:{one_class_each}")
    assert "chosen for images of several labels is not used" in told.err
    assert "answered" not in told.out


def without(data, place, split):
    """The data, with images of a split that have no label."""
    place.mkdir()
    for name in ("train", "val", "test"):
        (place / name).symlink_to(data / name)
    lines = (data / "labels.csv").read_text().splitlines()
    kept = [line.partition(",")[0] + "," if line.startswith(split) else line for line in lines]
    (place / "labels.csv").write_text("\n".join(kept))
    return f"folder:{place}"


def test_images_without_any_label(data, prompt, tmp_path, capsys):
    """Of validation images nothing can be learned then; of test images nothing is measured."""
    before = (prompt / "adapter_config.json").read_bytes()
    told = run(capsys, "calibrate", prompt, "--data", without(data, tmp_path / "val", "val"), code=2).err
    assert "None of the 24 images to calibrate with has any of the 3 classes" in told
    assert (prompt / "adapter_config.json").read_bytes() == before
    told = run(capsys, "calibrate", prompt, "--data", without(data, tmp_path / "test", "test"), "--json")
    assert "no test image has a class of the adapter's: what was chosen is not measured on any" in told.err
    assert "test" not in json.loads(told.out)


def test_numbers_that_are_none(data, prompt, capsys):
    weights = load_file(prompt / "adapter_model.safetensors")
    save_file({name: each * float("nan") for name, each in weights.items()}, prompt / "adapter_model.safetensors")
    told = run(capsys, "calibrate", prompt, "--data", f"folder:{data}", code=2).err
    assert "The model's logits are not all finite (such as nan): the adapter or CLIP has weights that are no nu" in told
    with pytest.raises(ValueError, match="`logits` must be finite numbers, got nan in row 1, column 0"):
        calibration_scores([[0.0, 1.0], [np.nan, 1.0]], [[0, 1], [1, 0]])


def test_scores_that_cannot_be_read_are_told_before_anything_is_chosen(data, prompt, capsys):
    before = (prompt / "adapter_config.json").read_bytes()
    (prompt / "scores.json").write_text("{broken")
    told = run(capsys, "calibrate", prompt, "--data", f"folder:{data}", code=2).err
    assert re.search(r"scores\.json holds no scores \(.*\): remove it, or train again", told)
    assert (prompt / "adapter_config.json").read_bytes() == before


def test_the_number_of_labels_is_not_chosen(data, prompt, capsys):
    told = run(capsys, "predict", "--adapter", prompt, data / "test" / "0.png", "--top-k", "1", code=2).err
    assert "--top-k is for images of one class each, and this prompt answers with several labels" in told


def test_few_images_are_told(data, prompt, capsys):
    told = run(capsys, "calibrate", prompt, "--data", f"folder:{data}").err
    assert "chosen with 24 validation images; these are few, so that what is chosen is rough" in told
    video = VideoPromptConfig(class_names=NAMES, num_frames=2, temporal_layers=0)
    get_peft_model(load_clip(), video).save_pretrained(prompt.parent / "video")
    told = run(capsys, "calibrate", prompt.parent / "video", "--data", f"folder:{data}", code=2).err
    assert "is for videos, and not for whole images" in told


def test_labels_in_another_order_and_among_others(data, prompt, tmp_path, capsys):
    """Columns are found by their names; those of the data's alone are left out, those of the prompt's alone refused."""
    images = load_data(f"folder:{data}").val
    parts = by_known_classes(images, ["blue", "green", "red"], ["red", "blue"])
    assert parts.known["label"][:] == [[row[2], row[0]] for row in images["label"][:]]
    assert len(parts.unknown) == 0
    with pytest.raises(ValueError, match=r"1 of the adapter's 2 classes are no labels of the data's, such as 'black'"):
        by_known_classes(images, ["blue", "green", "red"], ["red", "black"])
    (tmp_path / "more").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "more" / split).symlink_to(data / split)
    table = (data / "labels.csv").read_text().replace(",red\n", ",red;a colour\n")
    (tmp_path / "more" / "labels.csv").write_text(table)
    more = run(capsys, "calibrate", prompt, "--data", f"folder:{tmp_path / 'more'}", "--json")
    assert "labels that the adapter has not, left out: 1 of 4 (a colour, …)" in more.err
    own = run(capsys, "calibrate", prompt, "--data", f"folder:{data}", "--json")
    assert json.loads(more.out)["temperature"] == pytest.approx(json.loads(own.out)["temperature"], abs=1e-6)


def test_pictures_of_several_labels():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(40, 3))
    has = (generator.random((40, 3)) < expit(logits)).astype(int)
    decided, of_one = DecidedLabels(logits, has, NAMES), Decided(logits, 3, has.argmax(axis=1))
    figure = reliability_figure({"before": decided})
    [axes] = figure.axes
    assert axes.get_title() == f"before: ECE {100 * calibration_scores(logits, has)['ece']:.1f}%"
    assert axes.get_xlabel() == "probability of a class (%)"
    assert f"120 choices\n{100 * has.mean():.1f}% yes" in [text.get_text() for text in axes.texts]
    with pytest.raises(ValueError, match=r"of the 100\.0% of choices of a class for an image that are answered"):
        DecidedLabels(np.eye(2), np.eye(2)[::-1], ["cat", "dog"]).choose_min_probability(0.9, None)
    with pytest.raises(ValueError, match="`min_coverage` is a share of images to be answered"):
        decided.choose_min_probability(None, 0.5)
    with pytest.raises(ValueError, match="cannot be in one picture"):
        reliability_figure({"before": decided, "after": of_one})
    with pytest.raises(ValueError, match="images with several labels are not held back"):
        coverage_figure({"before": decided})
