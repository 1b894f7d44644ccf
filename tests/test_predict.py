"""`peft-coop predict`: which files it takes, how it reads them, and what it refuses to print."""

import json

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from peft_coop.cli import predict as command
from peft_coop.cli.main import main


@pytest.fixture
def predict(capsys):
    def run(*images, code=0):
        files = [str(image) for image in images]
        assert main(["predict", *files, "--class-names", "cat", "dog", "--json"]) == code
        captured = capsys.readouterr()
        return [json.loads(line) for line in captured.out.splitlines()], captured.err

    return run


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = tmp_path / "images" / "0.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    return path


def test_a_file_asked_twice_is_printed_twice(predict, picture):
    for images in ([picture, picture], [picture.parent, picture]):
        rows, _ = predict(*images)
        assert [row["file"] for row in rows] == [str(picture)] * 2
        assert rows[0] == rows[1]


def test_folders_give_what_pillow_reads(predict, picture):
    for name in ("paper.pdf", "data.h5", "field.grib", "film.mpg", "._0.png", "notes.txt"):
        (picture.parent / name).write_bytes(b"no image")
    (picture.parent / ".cache").mkdir()
    (picture.parent / ".cache" / "1.png").write_bytes(b"no image")
    rows, errors = predict(picture.parent)
    assert [row["file"] for row in rows] == [str(picture)]
    assert errors == f"> left out of {picture.parent}, no images by their names: 5\n"


def test_pictures_are_turned_as_in_training(picture):
    image = Image.open(picture)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned = picture.with_name("turned.png")
    image.save(turned, exif=exif)
    image.close()
    read = command._open(turned)
    assert read.size == (20, 30)
    assert np.array_equal(np.asarray(read), np.rot90(np.asarray(command._open(picture)), -1))


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError, NotImplementedError, SyntaxError])
def test_every_failure_of_pillow_names_the_file(predict, picture, monkeypatch, error):
    broken = picture.with_name("1.png")
    Image.new("RGB", (33, 33)).save(broken)
    original = Image.Image.convert

    def convert(image, *given, **named):
        if image.size == (33, 33):
            raise error("Failed to decode")
        return original(image, *given, **named)

    monkeypatch.setattr(Image.Image, "convert", convert)
    rows, errors = predict(picture.parent, code=2)
    assert [row["file"] for row in rows] == [str(picture), str(broken)]
    assert "Failed to decode" in rows[1]["error"]
    assert "1.png cannot be read: " in errors
    assert "Failed to decode" in errors


def test_a_damaged_ppm_names_the_file(predict, picture):
    (picture.parent / "1.ppm").write_bytes(b"P6 4 x 255 ")
    rows, errors = predict(picture.parent, code=2)
    assert ["error" in row for row in rows] == [False, True]
    assert "1.ppm cannot be read: " in errors


def test_probabilities_that_are_no_numbers_are_refused(predict, picture, monkeypatch):
    original = command._classifier

    def broken(options):
        model, clip = original(options)
        with torch.no_grad():
            clip.model.logit_scale.fill_(float("nan"))
        return model, clip

    monkeypatch.setattr(command, "_classifier", broken)
    rows, errors = predict(picture, code=2)
    assert rows == []
    assert "probabilities are not all finite (such as nan)" in errors


def lines_of(capsys, *arguments, code=0):
    assert main(["predict", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


def test_an_image_behind_class_names_is_an_image(picture, capsys):
    def predictions(*arguments):
        return [json.loads(line) for line in lines_of(capsys, *arguments)[0]]

    [alone] = predictions("--class-names", "cat", "dog", picture, "--json")
    assert alone["file"] == str(picture)
    assert alone["label"] in ("cat", "dog")
    alone["probability"] = pytest.approx(alone["probability"], abs=1e-5)  # in a batch of two it is rounded otherwise
    assert predictions(picture, "--class-names", "cat", "dog", picture, "--json") == [alone] * 2
    assert predictions("--class-names", "cat", "dog", "--json", "--", picture) == [alone]


def test_an_image_between_class_names_is_refused(picture, capsys):
    _, errors = lines_of(capsys, "--class-names", "cat", picture, "dog", code=2)
    assert f"--class-names takes all that follows it, also the image {str(picture)!r}" in errors


def test_a_folder_behind_class_names_may_be_a_class(picture, capsys, monkeypatch):
    monkeypatch.chdir(picture.parent.parent)
    _, errors = lines_of(capsys, "--class-names", "cat", "images", code=2)
    assert "--class-names has taken 'images': put what to classify first, or behind --" in errors
    assert lines_of(capsys, picture, "--class-names", "images")[0] == [f"{picture}\timages 100.0%"]


def test_a_template_of_ones_own(picture, capsys):
    common = (picture, "--class-names", "red square", "blue circle", "--json")
    [before], _ = lines_of(capsys, *common)
    [after], _ = lines_of(capsys, *common, "--template", "a drawing of a {}.")
    assert json.loads(before)["probability"] != json.loads(after)["probability"]
    _, errors = lines_of(capsys, *common, "--template", "a drawing", code=2)
    assert "--template must hold the class name's place, {}, once, got 'a drawing'" in errors
    _, errors = lines_of(capsys, picture, "--adapter", "prompt", "--template", "a {}.", code=2)
    assert "--template is for zero-shot CLIP, and --adapter has a prompt of its own" in errors


def test_batches_and_types_give_the_same_labels(tmp_path, capsys):
    random = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    common = (tmp_path, "--class-names", "red square", "blue circle", "--json", "--device", "cpu")
    whole, told = lines_of(capsys, *common)
    assert "classifying" not in told
    in_batches, told = lines_of(capsys, *common, "--eval-batch-size", "2")
    assert "image 5/5" in told
    rows = [[json.loads(line) for line in lines] for lines in (whole, in_batches)]
    for one, other in zip(*rows, strict=True):
        assert one["file"] == other["file"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
    half = [json.loads(line) for line in lines_of(capsys, *common, "--dtype", "bfloat16")[0]]
    gaps = [abs(one["probability"] - other["probability"]) for one, other in zip(rows[0], half, strict=True)]
    assert 1e-6 < max(gaps) < 0.1


def test_quiet_prints_results_and_errors_only(picture, capsys):
    (picture.parent / "1.png").write_bytes(b"no image")
    names = ("--class-names", "cat", "dog")
    lines, told = lines_of(capsys, picture.parent, *names, "--quiet", "--eval-batch-size", "1", code=2)
    assert len(lines) == 1
    [line] = told.splitlines()
    assert line.startswith("peft-coop: The image ")


@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (0, 255)])
def test_a_picture_of_floats_is_read_by_its_range(tmp_path, lowest, highest):
    values = np.linspace(lowest, highest, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(values).save(tmp_path / "floats.tiff")
    read = np.asarray(command._open(tmp_path / "floats.tiff"))
    expected = np.rint(np.linspace(0, 255, 12)).reshape(3, 4)
    assert (read == expected[..., None]).all()


@pytest.mark.parametrize("values", [[-1, 1], [0, 300], [0, np.nan]])
def test_floats_of_another_range_are_refused(tmp_path, values):
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "floats.tiff")
    assert "its values must be from 0 to 1 or from 0 to 255, they are from" in command._open(tmp_path / "floats.tiff")
