"""Tables of labels as people and their programs write them: understood, told, or refused with the line."""

import re

import pytest

from peft_coop.data import load_data
from peft_coop.data.label_tables import read_label_table

IMAGES = ["train/0.png", "train/1.png", "test/0.png"]
TABLE = "file,labels\ntrain/0.png,cat;a sea\ntrain/1.png,dog\ntest/0.png,\n"
EXPECTED = {"train": [[1, 1, 0], [0, 0, 1]], "test": [[0, 0, 0]]}


@pytest.fixture
def folder(tmp_path):
    """Files with the names of images, which nothing here opens."""
    for name in IMAGES:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def read(folder, content, encoding="utf-8"):
    (folder / "labels.csv").write_bytes(content.encode(encoding) if isinstance(content, str) else content)
    return read_label_table(folder)


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        "\ufeff" + TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\n\n") + ",\n , \n",
        TABLE.replace("file,labels", " File , LABELS").replace(",cat", ", cat"),
        TABLE.replace("/", "\\"),
        TABLE.replace("train/0.png", "./train/../train/0.png"),
        TABLE.replace(";", "|").replace(",", ";"),
        TABLE.replace(",", "\t"),
        '"file","labels"\n"train/0.png","cat;a sea;cat"\n"train/1.png","dog"\n"test/0.png",""\n',
        "file,labels,\n" + "".join(f"{line},\n" for line in TABLE.splitlines()[1:]),
    ],
)
def test_tables_that_mean_the_same(content, folder):
    table = read(folder, content)
    assert table.class_names == ["a sea", "cat", "dog"]
    assert {split: [row for _, row in rows] for split, rows in table.splits.items()} == EXPECTED
    assert [path for rows in table.splits.values() for path, _ in rows] == [str(folder / name) for name in IMAGES]
    assert table.unlisted == ()


@pytest.mark.parametrize(
    "content, message",
    [
        (
            TABLE.encode("utf-16"),
            r"is no text in UTF-8 \(invalid start byte at byte 0\): save it as 'CSV UTF-8'",
        ),
        (TABLE.replace("cat", "ö").encode("latin-1"), "no text in UTF-8"),
        (
            TABLE.replace(",cat", ',"cat'),
            "The row that begins in line 2 of .*Is a quotation mark left open",
        ),
        (TABLE.replace(",dog", ',"dog\n"'), "The row that begins in line 3 of .*a value goes over several lines"),
        (TABLE.replace("cat;a sea", '"cat" and more'), "The row that begins in line 2 of .*expected after"),
        (
            TABLE.replace("cat;a sea", '"cat, dog"'),
            "'cat, dog' in .* reads as one class: .* stands ';' or '|'",
        ),
        (TABLE.replace(",", ";"), "Line 2 of .* has not as many values as the first line"),
        ("file,cat,dog,cat\ntrain/0.png,1,0,0\n", "Two columns of .* are called 'cat': which counts?"),
        (",file,cat,dog\n0,train/0.png,1,0\n", "Column 1 of .* has values and no name: name it, or remove it"),
        (
            "file,labels\n",
            r"a column 'file', it has 0 lines below the columns \['file'",
        ),
        ("", r"it has 0 lines below the columns \[\]"),
        ("file,labels\ntrain/0.png,\n", r"has no class, \[\]: there must be two or more"),
        (TABLE + "train\\0.png,dog\n", r"Lines 2 and 5 of .* name one image, 'train\\\\0\.png'"),
        (TABLE + "../other.png,dog\n", "which is outside of .* and has no column 'split' that says what it is for"),
    ],
)
def test_tables_that_are_refused(content, message, folder):
    (folder.parent / "other.png").touch()
    with pytest.raises(ValueError, match=message):
        read(folder, content)


def test_images_from_elsewhere_with_a_split(folder):
    (folder.parent / "other.png").touch()
    content = f"file,split,cat,dog\ntrain/0.png,train,1,0\n{folder.parent / 'other.png'},test,0,1\n"
    assert read(folder, content).splits["test"] == [(str(folder.parent / "other.png"), [0, 1])]


def test_what_is_told_of_a_table(folder):
    content = 'file;labels\ntrain/0.png;"a sea, at night|cat"\n'
    table = read(folder, content)
    assert table.notes == [
        "values of labels.csv stand apart by ';'",
        "names with a comma are one class each, such as 'a sea, at night'",
    ]
    assert table.unlisted == (str(folder / "test" / "0.png"), str(folder / "train" / "1.png"))
    with pytest.raises(ValueError, match="has a single image, and no other to test on"):
        load_data(f"folder:{folder}")
    (folder / "labels.csv").write_text("file,cat,dog\ntrain/0.png,1,0\ntrain/1.png,0,1\n")
    assert re.search(r"not named in labels\.csv", str(load_data(f"folder:{folder}").left_out[0]))
