"""The papers' datasets as the original has them on disk, and what is said when they do not fit."""

import json
import re
from pathlib import Path

import pytest
from coop_layout_files import IMAGENET_CLASSES, NAMES, SPLIT_FILES, make_coop_layout, wnid
from datasets import Image
from PIL import Image as Picture

from peft_coop.data import COOP_LAYOUTS, few_shot_indices, load_data

# What the original's `CUSTOM_TEMPLATES` has for each dataset.
TEMPLATES = dict.fromkeys(NAMES, "a photo of a {}.") | {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "food101": "a photo of {}, a type of food.",
    "ucf101": "a photo of a person doing {}.",
}


def edit_split_file(made, change):
    path = next(made.folder.glob("split_zhou_*.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))
    return path


def test_every_dataset_is_tested():
    assert len(NAMES) == 15
    assert sorted(NAMES) == sorted(COOP_LAYOUTS)


@pytest.mark.parametrize("name", NAMES)
def test_names_labels_sizes_and_template(name, tmp_path):
    made = make_coop_layout(tmp_path, name)
    data = load_data(made.source)
    assert (data.name, data.class_names, data.zero_shot_template) == (name, made.class_names, TEMPLATES[name])
    for split in ("train", "val", "test"):
        part = getattr(data, split)
        assert part.column_names == ["image", "label"]
        assert part.features["label"].names == made.class_names
        assert list(part["label"]) == made.labels[split]
    assert len(data.test) == 3 * len(made.class_names)


@pytest.mark.parametrize("name", NAMES)
def test_images_belong_to_their_labels(name, tmp_path):
    """Each class has its colour, in ImageNet-A and -R too, whose first class is the second of `classnames.txt`."""
    offset = 1 if name in ("imagenet_a", "imagenet_r") else 0
    made = make_coop_layout(tmp_path, name, draw=lambda label, *_: Picture.new("RGB", (8, 8), (60 * label, 0, 0)))
    data = load_data(made.source)
    rows = [row for part in (data.train, data.val, data.test) for row in part]
    assert rows
    for row in rows:
        assert row["image"].getpixel((4, 4))[0] == pytest.approx(60 * (row["label"] + offset), abs=4)


def test_two_classes_of_one_name_are_told_apart(tmp_path):
    """ImageNet's "missile" and "sunglasses" stand for two classes each; `ClassLabel` takes no name twice."""
    made = make_coop_layout(tmp_path, "imagenet", class_names=["tench", "missile", "missile", "hen"])
    data = load_data(made.source)
    assert data.class_names == ["tench", "missile", "missile", "hen"]
    assert data.train.features["label"].names == ["tench", "missile", "missile (class 2)", "hen"]


def test_images_are_found_after_leaving_the_folder(tmp_path, monkeypatch):
    make_coop_layout(tmp_path, "dtd")
    monkeypatch.chdir(tmp_path)
    data = load_data("coop:dtd@.")
    monkeypatch.chdir("/")
    assert data.test[0]["image"].size == (20, 24)


def test_few_shots_are_drawn_from_the_split_file(tmp_path):
    data = load_data(make_coop_layout(tmp_path, "oxford_pets").source)
    train, val = few_shot_indices(data.train["label"], data.val["label"], num_shots=2, seed=1)
    assert [list(data.train["label"])[index] for index in train] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(val) == 8


def test_an_empty_validation_list_is_fine(tmp_path):
    made = make_coop_layout(tmp_path, "eurosat")
    edit_split_file(made, lambda content: content | {"val": []})
    assert len(load_data(made.source).val) == 0


def test_hidden_files_are_no_images(tmp_path):
    made = make_coop_layout(tmp_path, "imagenet_sketch")
    (made.images / wnid(0) / ".DS_Store").write_bytes(b"")
    (made.images / ".cache").mkdir()
    assert len(load_data(made.source).test) == len(made.labels["test"])


def test_unknown_dataset_and_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of imagenet, caltech101, .*imagenet_r, got 'cifar10'"):
        load_data(f"coop:cifar10@{tmp_path}")
    with pytest.raises(ValueError, match=r"as in coop:oxford_pets@DATA, got 'coop:oxford_pets'"):
        load_data("coop:oxford_pets")
    with pytest.raises(FileNotFoundError, match=r"caltech-101 does not exist\. .*DATASETS\.md"):
        load_data(f"coop:caltech101@{tmp_path}")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: [content], r"split_zhou_OxfordPets\.json must hold lists under train, val, test, found list"),
        (lambda content: {"train": content["train"]}, r"must hold lists under .*, found \['train'\]"),
        (
            lambda content: content | {"val": [["a.jpg", 0]]},
            r"OxfordPets\.json: entry 0 of 'val' must be \[path, label, class name\], got \['a\.jpg', 0\]",
        ),
        (lambda content: content | {"val": [["a.jpg", "0", "cat"]]}, r"got \['a\.jpg', '0', 'cat'\]"),
        (lambda content: content | {"val": [["a.jpg", -1, "cat"]]}, r"got \['a\.jpg', -1, 'cat'\]"),
        (lambda content: content | {"val": [["a.jpg", True, "cat"]]}, r"got \['a\.jpg', True, 'cat'\]"),
        (lambda content: content | {"val": [["a.jpg", 0, " "]]}, r"got \['a\.jpg', 0, ' '\]"),
        (
            lambda content: content | {"test": [*content["test"], ["a.jpg", 2, "cat"]]},
            r"entry 12 of 'test' calls label 2 'cat', an entry before it 'basset_hound'",
        ),
        (
            lambda content: {split: [entry for entry in rows if entry[1] != 1] for split, rows in content.items()},
            r"labels must be 0 … 2 without gaps, 1 is missing",
        ),
        (lambda content: content | {"test": []}, r"OxfordPets\.json has no images in 'test'"),
    ],
)
def test_a_split_file_that_does_not_fit(change, message, tmp_path):
    made = make_coop_layout(tmp_path, "oxford_pets")
    edit_split_file(made, change)
    with pytest.raises(ValueError, match=message):
        load_data(made.source)


@pytest.mark.parametrize(("text", "what"), [("<html>", "Expecting value"), ("[" * 100_000, "maximum recursion depth")])
def test_a_split_file_that_is_no_json(text, what, tmp_path):
    made = make_coop_layout(tmp_path, "food101")
    (made.folder / "split_zhou_Food101.json").write_text(text)
    with pytest.raises(ValueError, match=rf"split_zhou_Food101\.json is no JSON file: {what}"):
        load_data(made.source)


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_missing_split_file_and_missing_images(name, tmp_path):
    made = make_coop_layout(tmp_path, name)
    data = load_data(made.source)
    first = Path(data.test.cast_column("image", Image(decode=False))[0]["image"]["path"])
    first.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(first))} does not exist"):
        load_data(made.source)
    next(made.folder.glob("*.json")).unlink()
    with pytest.raises(FileNotFoundError, match=rf"split_zhou_{SPLIT_FILES[name][2]}\.json does not exist"):
        load_data(made.source)


def test_missing_images_folder(tmp_path):
    made = make_coop_layout(tmp_path, "ucf101")
    made.images.rename(made.folder / "frames")
    with pytest.raises(FileNotFoundError, match=r"UCF-101-midframes does not exist"):
        load_data(made.source)


def test_aircraft_files_that_do_not_fit(tmp_path):
    made = make_coop_layout(tmp_path, "fgvc_aircraft")
    path = made.folder / "images_variant_val.txt"
    path.write_text(path.read_text() + "0000001 Concorde\n")
    with pytest.raises(
        ValueError, match=r"images_variant_val\.txt, line 9: 'Concorde' is no variant of .*variants\.txt"
    ):
        load_data(made.source)
    (made.folder / "variants.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"variants\.txt does not exist"):
        load_data(made.source)


def test_imagenet_files_that_do_not_fit(tmp_path):
    made = make_coop_layout(tmp_path, "imagenet")
    names = made.folder / "classnames.txt"
    text = names.read_text()
    names.write_text(text.replace(f"{wnid(1)} {IMAGENET_CLASSES[1]}", wnid(1)))
    with pytest.raises(ValueError, match=rf"classnames\.txt, line 2: there must be .*, got '{wnid(1)}'"):
        load_data(made.source)
    names.write_text(text.split("\n", 1)[1])
    with pytest.raises(ValueError, match=rf"classnames\.txt has no name for the class folder '{wnid(0)}'"):
        load_data(made.source)
    names.unlink()
    with pytest.raises(FileNotFoundError, match=r"classnames\.txt does not exist"):
        load_data(made.source)
    names.write_text(text)
    (made.images / "val" / wnid(2)).rename(made.images / "val" / "n09999999")
    with pytest.raises(ValueError, match=rf"must have the same class folders, only one has '{wnid(2)}'"):
        load_data(made.source)


def test_imagenet_v2_needs_a_folder_for_every_name(tmp_path):
    made = make_coop_layout(tmp_path, "imagenetv2")
    (made.images / "3").rename(made.images / "1000")
    with pytest.raises(FileNotFoundError, match=r"format-val.3 does not exist"):
        load_data(made.source)


def test_a_variant_without_images(tmp_path):
    made = make_coop_layout(tmp_path, "imagenet_a", test=0)
    with pytest.raises(ValueError, match=r"imagenet-a has no images in class folders"):
        load_data(made.source)
