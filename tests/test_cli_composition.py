"""`peft-coop benchmark composition`, on pictures that are coloured one way above and another way below."""

import csv
import io
import json

import pytest
from PIL import Image

from peft_coop.cli import main

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0)}
THINGS = {"sea": (0, 0, 200), "sand": (200, 200, 90), "snow": (250, 250, 250)}
UNSEEN = {("red", "snow"), ("green", "sea")}

pytestmark = pytest.mark.usefixtures("figures_are_not_drawn")


@pytest.fixture
def pairs(tmp_path):
    """Two pictures of each pair to train on, and one of every pair to test on."""
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for attribute in COLOURS:
            for thing in THINGS:
                if split == "train" and (attribute, thing) in UNSEEN:
                    continue
                folder = tmp_path / "beaches" / split / attribute / thing
                folder.mkdir(parents=True)
                for index in range(count):
                    picture = Image.new("RGB", (48, 48), COLOURS[attribute])
                    picture.paste(THINGS[thing], (0, 20 + 3 * index, 48, 48))
                    picture.save(folder / f"{split}{index}.png")
    return tmp_path / "beaches"


def run(*arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code


def benchmark(pairs, tmp_path, *more, code=0):
    common = ["--data", f"pairs:{pairs}", "--epochs", "1", "--output", tmp_path / "runs"]
    run("benchmark", "composition", *common, *more, code=code)


def test_tables_and_files_of_what_was_done(pairs, tmp_path, capsys):
    asked = ["--methods", "zero-shot", "coop", "csp", "--seeds", "1", "2", "--world", "both"]
    benchmark(pairs, tmp_path, *asked)
    printed = capsys.readouterr().out
    for world in ("closed", "open"):
        assert f"## Composition: accuracy in % on beaches, {world} world, model demo" in printed
    assert "| method         |" in printed
    for name, seeds in (("zero-shot CLIP", 1), ("CoOp", 2), ("CSP", 2)):
        rows = [line for line in printed.splitlines() if line.startswith(f"| {name} ")]
        assert [row.split("|")[-2].strip() for row in rows] == [str(seeds)] * 2
    report = tmp_path / "runs" / "composition" / "report"
    assert {path.name for path in report.iterdir()} >= {"report.md", "report.csv", "report.tex", "composition.png"}
    rows = list(csv.DictReader(io.StringIO((report / "report.csv").read_text())))
    assert len(rows) == 2 * (1 + 2 + 2)
    assert all(0 <= float(row["auc"]) <= 1 for row in rows)
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")}
    assert len(results) == 5
    benchmark(pairs, tmp_path, *asked)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("result.json")} == results
    capsys.readouterr()
    run("report", tmp_path / "runs", "--output", tmp_path / "other")
    assert "## Composition: accuracy in % on beaches, open world" in capsys.readouterr().out


def test_the_demos_learning_rate_is_that_of_compositions(pairs, tmp_path):
    benchmark(pairs, tmp_path, "--methods", "csp", "--seeds", "1", "--shots", "1")
    (path,) = (tmp_path / "runs").rglob("result.json")
    record = json.loads(path.read_text())
    assert record["settings"]["learning_rate"] == 0.005
    assert (record["settings"]["num_shots"], record["shots_used"]) == (1, [1, 1])
    assert "all_images" not in record["settings"]


def test_all_leaves_out_what_cannot_with_the_reason(pairs, tmp_path, capsys):
    benchmark(pairs, tmp_path, "--methods", "all", "--seeds", "1", "--dry-run")
    captured = capsys.readouterr()
    for name in ("linear probe", "Tip-Adapter", "text bias"):
        assert name in captured.err
        assert name not in captured.out
    assert ": no way is known to learn unseen pairs with them" in captured.err
    for name in ("zero-shot CLIP", "CoOp", "KgCoOp", "CSP"):
        assert name in captured.out
    assert not (tmp_path / "runs").exists()


def test_word_vectors(pairs, tmp_path, capsys):
    words = {"red": "1 0 0", "green": "0.9 0.4 0", "sea": "0 1 0", "sand": "0 0.8 0.6", "white": "0.1 0 1"}
    (tmp_path / "vectors.txt").write_text("".join(f"{word} {numbers}\n" for word, numbers in words.items()))
    (tmp_path / "names.json").write_text(json.dumps({"snow": "white"}))
    asked = ["--methods", "zero-shot", "--world", "open", "--word-vectors", tmp_path / "vectors.txt"]
    benchmark(pairs, tmp_path, *asked, code=2)
    assert "has no vector for 1 words: 'snow'" in capsys.readouterr().err
    benchmark(pairs, tmp_path, *asked, "--word-names", tmp_path / "names.json")
    assert "beaches, open world, calibrated, model demo" in capsys.readouterr().out
    (path,) = (tmp_path / "runs").rglob("result.json")
    assert -1 <= json.loads(path.read_text())["results"]["open, calibrated"]["feasibility_threshold"] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "linear-probe"], "linear probe cannot recognise pairs that it was not trained on"),
        (["--word-vectors", "v.txt"], "--word-vectors are for the open world: give --world open or --world both"),
        (["--feasibility-threshold", "0.4"], "--feasibility-threshold needs --word-vectors"),
        (["--word-names", "names.json"], "--word-names needs --word-vectors"),
        (["--world", "open", "--word-vectors", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_contradicts_itself_is_one_line(pairs, tmp_path, capsys, options, message):
    benchmark(pairs, tmp_path, *options, code=2)
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_images_without_pairs_are_refused(pairs, tmp_path, capsys):
    run("benchmark", "composition", "--data", "demo:digits", "--output", tmp_path / "runs", code=2)
    assert "digits" in capsys.readouterr().err.splitlines()[-1]
    run("benchmark", "composition", "--data", f"folder:{pairs}", "--output", tmp_path / "runs", code=2)
    assert "Images of compositions are one of" in capsys.readouterr().err.splitlines()[-1]
    run("benchmark", "few-shot", "--data", "demo:digits", "--methods", "csp", "--output", tmp_path / "runs", code=2)
    assert "CSP takes no part in 'few-shot'" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("source", ["pairs:{pairs}", "czsl:mit-states@{pairs}", "demo:compositions"])
def test_pairs_are_no_classes(pairs, tmp_path, capsys, source):
    source = source.format(pairs=pairs)
    for command in (["benchmark", "few-shot"], ["train"]):
        run(*command, "--data", source, "--output", tmp_path / "runs", code=2)
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"{source!r} has images of pairs of attribute and object, not of classes" in told
        assert "`peft-coop benchmark composition`" in told


def test_two_datasets_of_one_name_are_refused(pairs, tmp_path, capsys):
    benchmark(pairs, tmp_path, "--data", f"pairs:{pairs}", f"pairs:{pairs}", code=2)
    assert "a name of its own, got ['beaches', 'beaches']" in capsys.readouterr().err
