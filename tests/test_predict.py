"""`peft-coop predict`: which files it takes, how it reads them, and what it refuses to print."""

import json

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from peft_coop.cli import classify
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
    assert errors == ""


def test_pictures_are_turned_as_in_training(picture):
    image = Image.open(picture)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned = picture.with_name("turned.png")
    image.save(turned, exif=exif)
    image.close()
    read = classify._open(turned)
    assert read.size == (20, 30)
    assert np.array_equal(np.asarray(read), np.rot90(np.asarray(classify._open(picture)), -1))


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
    assert [row["file"] for row in rows] == [str(picture)]
    assert "1.png cannot be read: " in errors
    assert "Failed to decode" in errors


def test_a_damaged_ppm_names_the_file(predict, picture):
    (picture.parent / "1.ppm").write_bytes(b"P6 4 x 255 ")
    rows, errors = predict(picture.parent, code=2)
    assert len(rows) == 1
    assert "1.ppm cannot be read: " in errors


def test_probabilities_that_are_no_numbers_are_refused(predict, picture, monkeypatch):
    original = classify._classifier

    def broken(options):
        model, clip = original(options)
        with torch.no_grad():
            clip.model.logit_scale.fill_(float("nan"))
        return model, clip

    monkeypatch.setattr(classify, "_classifier", broken)
    rows, errors = predict(picture, code=2)
    assert rows == []
    assert "probabilities are not all finite (such as nan)" in errors
