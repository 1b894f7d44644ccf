"""Predictions by image and by class: counts against a loop, files that read back, and the command that writes them."""

import csv
import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageType
from PIL import Image

from peft_coop.cli import main
from peft_coop.evaluation import Predictions, format_confusion, format_per_class, write_confusion

NAMES = ["cat", "dog", "hot dog"]
LABELS = [0, 0, 1, 1, 1]
LOGITS = [[2.0, 0, 0], [0, 3, 0], [0, 1, 0], [5, 0, 0], [0, 2, 0]]


@pytest.fixture
def predictions():
    return Predictions.from_logits(LOGITS, LABELS, NAMES)


@pytest.fixture
def images(tmp_path):
    features = Features({"image": ImageType(), "label": ClassLabel(names=NAMES)})
    paths = []
    for index in range(len(LABELS)):
        paths.append(str(tmp_path / f"{index}, ä.png"))
        Image.new("RGB", (4, 4)).save(paths[-1])
    return Dataset.from_dict({"image": paths, "label": LABELS}, features=features)


def test_counts_and_accuracies(predictions):
    assert predictions.confusion().tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert predictions.per_class() == [
        {"class": "cat", "images": 2, "right": 1, "accuracy": 0.5},
        {"class": "dog", "images": 3, "right": 2, "accuracy": pytest.approx(2 / 3)},
        {"class": "hot dog", "images": 0, "right": 0, "accuracy": None},
    ]
    expected = [np.exp(row).max() / np.exp(row).sum() for row in np.array(LOGITS)]
    assert predictions.probability == pytest.approx(expected)


def test_random_counts_are_those_of_a_loop():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(200, 7)), random.integers(0, 7, 200)
    expected = np.zeros((7, 7), int)
    for row, label in zip(logits, labels, strict=True):
        expected[label, row.argmax()] += 1
    names = [f"class {index}" for index in range(7)]
    assert (Predictions.from_logits(logits, labels, names).confusion() == expected).all()


def test_wrong_names(images, predictions):
    with pytest.raises(ValueError, match=r"a column for each of the 2 classes, got \(5, 3\)"):
        Predictions.from_logits(LOGITS, LABELS, NAMES[:2])
    with pytest.raises(ValueError, match=r"must end in .csv or .jsonl, got 'table.txt'"):
        predictions.write("table.txt", images)
    with pytest.raises(ValueError, match=r"must end in .csv or .png or .pdf or .svg, got 'matrix.xlsx'"):
        write_confusion(predictions, "matrix.xlsx")
    with pytest.raises(ValueError, match="predictions of 5 images, got 2 images"):
        predictions.write("table.csv", images.select([0, 1]))


def test_the_files_of_every_image(images, predictions, tmp_path):
    predictions.write(tmp_path / "new" / "table.csv", images)
    predictions.write(tmp_path / "table.jsonl", images)
    with open(tmp_path / "new" / "table.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["image"] for line in lines] == [str(tmp_path / f"{index}, ä.png") for index in range(5)]
    assert [line["truth"] for line in lines] == ["cat", "cat", "dog", "dog", "dog"]
    assert [line["prediction"] for line in lines] == ["cat", "dog", "dog", "cat", "dog"]
    assert [{**row, "probability": float(row["probability"])} for row in rows] == lines


def test_the_matrix_as_a_file(predictions, tmp_path):
    write_confusion(predictions, tmp_path / "matrix.csv")
    assert (tmp_path / "matrix.csv").read_text().splitlines() == [
        "true class,cat,dog,hot dog,images,accuracy",
        "cat,1,1,0,2,0.5",
        f"dog,1,2,0,3,{2 / 3}",
        "hot dog,0,0,0,0,",
    ]


@pytest.mark.parametrize("size", [3, 40, 130])
def test_the_matrix_as_a_picture(size, tmp_path):
    names = [f"$a_{index}$ 猫 {'long ' * 9}" for index in range(size)]
    Predictions.from_logits(np.eye(size), range(size), names).confusion()
    write_confusion(Predictions.from_logits(np.eye(size), range(size), names), tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as picture:
        assert min(picture.size) > 400
        assert max(picture.size) < 3000
        dark = (np.asarray(picture.convert("RGB")) == (8, 48, 107)).all(-1)  # 100% in the diagonal
    assert 0 < dark.mean() < 1 / size


def test_what_is_printed(predictions):
    assert [line.split() for line in format_per_class(predictions).splitlines()[1:]] == [
        ["cat", "50.0%", "1", "of", "2"],
        ["dog", "66.7%", "2", "of", "3"],
        ["hot", "dog", "–", "0", "of", "0"],
    ]
    assert [line.split() for line in format_confusion(predictions).splitlines()] == [
        ["true", "class", "A", "B", "C", "predicted"],
        ["A", "cat", "1", "1", "·"],
        ["B", "dog", "1", "2", "·"],
        ["C", "hot", "dog", "·", "·", "·"],
    ]


def test_of_many_classes_the_mistakes_are_printed():
    names = [f"class {index}" for index in range(30)]
    labels = [*range(30), 7, 7]
    logits = np.eye(30)[[*range(30), 9, 9]]
    printed = format_confusion(Predictions.from_logits(logits, labels, names)).splitlines()
    assert printed[0].split(":")[0] == "  the commonest of 2 mistakes"
    assert printed[1:] == ["       2  class 7 → class 9"]
    assert "no mistake" in format_confusion(Predictions.from_logits(np.eye(30), range(30), names))


def test_the_command(tmp_path, capsys):
    table, matrix, picture = (tmp_path / name for name in ("table.csv", "matrix.csv", "matrix.png"))
    command = ["evaluate", "--data", "demo:shapes", "--predictions", str(table), "--per-class", "--confusion-matrix"]
    assert main([*command, str(matrix), str(picture), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["truth"] == row["prediction"] for row in rows]
    assert sum(right) / len(right) == pytest.approx(measured["accuracy"])
    assert np.trace(measured["confusion_matrix"]) == sum(right)
    assert sum(row["images"] for row in measured["per_class"]) == len(rows) == measured["num_examples"]
    assert matrix.exists()
    assert picture.exists()

    assert main([*command[:5], "--json"]) == 2
    assert f"{table} is there already: give another name, or remove it" in capsys.readouterr().err
    assert main(["evaluate", "--data", "demo:shapes", "--split", "train", "--per-class", "--confusion-matrix"]) == 0
    printed = capsys.readouterr().out
    assert "  class           accuracy    right of images" in printed
    assert "  T  blue flower" in printed
