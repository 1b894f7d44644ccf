"""The few-shot benchmark of images with several labels: what takes part, what is measured, and what is refused."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier

from peft_coop.cli.main import main
from peft_coop.data import draw_indices, load_data
from peft_coop.evaluation import FrozenCLIP, LinearProbe, load_runs
from peft_coop.evaluation.baselines.label_probes import LabelProbes, mean_precision, search_label_probes
from peft_coop.evaluation.baselines.linear_probe import raw_features, search_exponent
from peft_coop.methods import METHODS

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of one or two colours, and a table of them."""
    place, lines = tmp_path_factory.mktemp("colours") / "data", ["file,labels"]
    for split, count in (("train", 9), ("test", 6)):
        (place / split).mkdir(parents=True)
        for index in range(count):
            names = [list(COLOURS)[(index + step) % 3] for step in range(1 + index % 2)]
            picture = Image.new("RGB", (48, 48))
            for number, name in enumerate(names):
                picture.paste(COLOURS[name], (0, number * 48 // len(names) + index, 48, 48))
            picture.save(place / split / f"{index}.png")
            lines.append(f"{split}/{index}.png,{';'.join(names)}")
    (place / "labels.csv").write_text("\n".join(lines) + "\n")
    return place


def run(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Those of three methods, by the command line."""
    output = tmp_path_factory.mktemp("runs")
    asked = [
        "--shots",
        "2",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--methods",
        "zero-shot",
        "linear-probe",
        "coop",
        "--quiet",
    ]
    assert main(["benchmark", "few-shot", "--data", f"folder:{folder}", "--output", str(output), *asked]) == 0
    return output


def test_what_is_measured_is_mean_average_precision(runs, folder):
    by_method = {each.method: each for each in load_runs(runs)}
    assert by_method.keys() == {"zero-shot", "linear-probe", "coop"}
    assert {each.protocol for each in by_method.values()} == {"several-labels-few-shot"}
    data, clip = load_data(f"folder:{folder}"), FrozenCLIP.from_pretrained("demo")
    train = data.train.select(draw_indices(data, 2, 1)[0])
    labels, truth = (np.array(part["label"][:]) for part in (train, data.test))
    features = raw_features(clip, train)
    probes = search_label_probes(
        LinearProbe().regression, lambda worth: search_exponent(worth, 8), (features, labels), None, 1
    )
    expected = average_precision_score(truth, probes.logits(raw_features(clip, data.test)), average="macro")
    measured = by_method["linear-probe"].results["test"]
    assert measured["mean_average_precision"] == pytest.approx(expected, abs=1e-9)
    assert measured["num_examples"] == 6
    assert by_method["coop"].settings["ctx_init"] == "a photo of a"


def test_the_report_shows_it(runs, capsys):
    told = run(capsys, "report", runs, "--output", runs / "again", "--quiet").out
    assert "## Few-shot: mean average precision in % on data, model demo" in told
    rows = list(csv.DictReader((runs / "again" / "report.csv").read_text().splitlines()))
    value = next(row["mean_average_precision"] for row in rows if row["method"] == "zero-shot")
    assert re.search(rf"zero-shot CLIP\s+\|\s+{100 * float(value):.2f}", told)
    assert (runs / "again" / "several-labels-few-shot.png").is_file()
    told = run(capsys, "report", runs, "--metric", "f1_micro", "--output", runs / "f1", "--quiet").out
    assert "F1 over all labels in % on data" in told


def test_all_are_those_that_can_have_several_labels(folder, tmp_path, capsys):
    asked = ["--methods", "all", "--shots", "2", "--seeds", "1", "--dry-run", "--output", tmp_path]
    told = run(capsys, "benchmark", "few-shot", "--data", f"folder:{folder}", *asked)
    assert re.search(r"left out .*Tip-Adapter.*ProGrad.*: they learn which one class an image has", told.err)
    planned = told.out
    for key, method in METHODS.items():
        of_images = method.config.task_name == "IMAGE_CLS" and method.config.needs_one_label is None
        assert (re.search(rf"\b{re.escape(method.title)}\b", planned) is not None) == of_images, key


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["few-shot", "--methods", "prograd"],
            "ProGrad cannot learn from images with several labels",
        ),
        (["few-shot", "--methods", "gda"], "it learns which one class an image has. What can: hand-written prompts"),
        (
            ["few-shot", "--ways", "2"],
            "The images of a trial have one class each, and those of data",
        ),
        (
            ["base-to-new"],
            "'base-to-new' is a protocol of images of one class each, and those of data have several labels",
        ),
        (["cross-dataset", "--targets", "demo:digits"], "'cross-dataset' is a protocol of images of one class each"),
        (["ablation"], "'ablation' is a protocol of images of one class each"),
        (
            ["few-shot", "--data", "{data}", "demo:digits"],
            "and those of other --data one class each",
        ),
    ],
)
def test_what_is_refused(arguments, message, folder, tmp_path, capsys):
    arguments = [each.format(data=f"folder:{folder}") for each in arguments]
    data = [] if "--data" in arguments else ["--data", f"folder:{folder}"]
    assert message in run(capsys, "benchmark", *arguments, *data, "--output", tmp_path / "no", code=2).err
    assert not (tmp_path / "no").exists()


def regression(features, labels, exponent):
    return LogisticRegression(C=10.0**exponent, max_iter=1000).fit(features, labels)


def test_probes_agree_with_scikit_learn():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(40, 6)), (generator.random((40, 3)) < 0.4).astype(int)
    found = LabelProbes(regression, features, labels, -0.5).logits(features)
    expected = OneVsRestClassifier(LogisticRegression(C=10**-0.5, max_iter=1000)).fit(features, labels)
    assert found == pytest.approx(expected.decision_function(features), abs=1e-9)
    assert mean_precision(found, labels) == pytest.approx(average_precision_score(labels, found), abs=1e-12)


def test_classes_that_all_or_no_training_images_have():
    features, labels = np.random.default_rng(0).normal(size=(7, 2)), np.array([[1, 0, index % 2] for index in range(7)])
    logits = LabelProbes(regression, features, labels, 0.0).logits(np.zeros((1, 2)))[0]
    assert logits[:2] == pytest.approx([np.log(7.5 / 0.5), np.log(0.5 / 7.5)], abs=1e-12)
    with pytest.raises(ValueError, match="training images that have a class, and none has any"):
        search_label_probes(regression, max, (features, 0 * labels), None, 1)
    with pytest.raises(ValueError, match="two training images or more, or validation images"):
        search_label_probes(regression, max, (features[:1], labels[:1]), None, 1)


def test_the_strength_is_the_best_of_the_validation_images():
    generator = np.random.default_rng(1)
    train, val = ((generator.normal(size=(30, 8)), (generator.random((30, 2)) < 0.5).astype(int)) for _ in range(2))
    tried = {}

    def search(worth):
        tried.update({exponent: worth(exponent) for exponent in (-3.0, 0.0, 3.0)})
        return max(tried, key=tried.get)

    probes = search_label_probes(regression, search, train, val, 1)
    best = max(tried, key=tried.get)
    assert probes.strength == 10.0**best
    assert tried[best] == pytest.approx(average_precision_score(val[1], probes.logits(val[0])), abs=1e-12)
    assert len(set(tried.values())) > 1


def test_probes_are_saved(runs):
    from safetensors.numpy import load_file

    [path] = runs.rglob("linear_probe.safetensors")
    saved = load_file(path)
    assert (saved["coef"].shape[0], saved["intercept"].shape) == (3, (3,))
    record = json.loads((path.parent.parent / "result.json").read_text())
    assert set(record["results"]["test"]["average_precision"]) == set(COLOURS)
