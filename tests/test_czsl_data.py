"""Datasets of attributes and objects as they lie on disk: what is read, what is told, and what is refused."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from czsl_files import LISTS, make_czsl
from datasets import ClassLabel, Image
from PIL import Image as Picture

from peft_coop.data import load_compositions


def paths_of(dataset) -> list[str]:
    return [row["image"]["path"] for row in dataset.cast_column("image", Image(decode=False))]


def shown(dataset) -> list[tuple[str, str]]:
    """The words of each image."""
    words = [dataset.features[column].names for column in ("attribute", "object")]
    return [(words[0][row["attribute"]], words[1][row["object"]]) for row in dataset]


@pytest.mark.parametrize("name", LISTS)
def test_all_three_layouts_are_read(tmp_path, name):
    made = make_czsl(tmp_path, name)
    data = load_compositions(made.source)
    lists = LISTS[name]
    assert data.name == name
    assert (data.train_pairs, data.val_pairs, data.test_pairs) == tuple(lists.values())
    assert data.attributes == sorted({attribute for pairs in lists.values() for attribute, _ in pairs})
    assert data.objects == sorted({thing for pairs in lists.values() for _, thing in pairs})
    for split, part in {"train": data.train, "val": data.val, "test": data.test}.items():
        entries = [entry for entry in made.entries if entry["set"] == split]
        assert paths_of(part) == [str(made.folder / "images" / entry["image"]) for entry in entries]
        assert shown(part) == [(entry["attr"], entry["obj"]) for entry in entries]
        assert list(part.features) == ["image", "attribute", "object"]
        assert part.features["attribute"] == ClassLabel(names=data.attributes)
    number = len(data.train) + len(data.val)
    assert data.test[0]["image"].convert("RGB").getpixel((0, 0))[0] == pytest.approx(number, abs=12)  # JPEG
    assert (data.skipped, data.left_out, data.notes) == ((), (), ())
    assert data.template == "a photo of {attribute} {object}"


def test_no_image_is_opened_before_it_is_asked_for(tmp_path):
    made = make_czsl(tmp_path)
    for file in (made.folder / "images").rglob("*.jpg"):
        file.write_bytes(b"no image")
    assert len(load_compositions(made.source).test) == 6


@pytest.mark.parametrize("old_format", [False, True])
def test_both_formats_of_torch_are_read(tmp_path, old_format):
    made = make_czsl(tmp_path)
    before = load_compositions(made.source)
    made.write(_use_new_zipfile_serialization=not old_format)
    assert made.metadata.read_bytes().startswith(b"PK") is not old_format
    assert paths_of(load_compositions(made.source).train) == paths_of(before.train)


def as_python_2_does(content: list[dict[str, str]]) -> bytes:
    """What `torch.save` of Python 2 wrote: texts as byte strings."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    items = [b"}(" + b"".join(text(key) + text(value) for key, value in entry.items()) + b"u" for entry in content]
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}]
    parts = [*(pickle.dumps(each, protocol=2) for each in head), b"\x80\x02](" + b"".join(items) + b"e."]
    return b"".join([*parts, pickle.dumps([], protocol=2)])


def test_metadata_of_python_2_are_read(tmp_path):
    made = make_czsl(tmp_path)
    before = load_compositions(made.source)
    made.metadata.write_bytes(as_python_2_does(made.entries))
    assert shown(load_compositions(made.source).test) == shown(before.test)


def test_metadata_as_json_come_before_torchs(tmp_path):
    made = make_czsl(tmp_path)
    made.metadata.with_suffix(".json").write_text(json.dumps(made.entries[:-1]))
    both = load_compositions(made.source)
    made.metadata.unlink()
    alone = load_compositions(made.source)
    assert (len(both.test), len(alone.test)) == (5, 5)
    assert both.notes == (f"the metadata are those of {made.metadata.stem}.json, not of the .t7 beside it",)
    assert alone.notes == ()


def test_folders_with_blanks_as_they_are_packed(tmp_path):
    """The metadata of MIT-States have underscores, its archive has blanks."""
    made = make_czsl(tmp_path)
    for folder in (made.folder / "images").iterdir():
        folder.rename(folder.with_name(folder.name.replace("_", " ")))
    data = load_compositions(made.source)
    assert "/images/old car/0.jpg" in paths_of(data.train)[0]
    assert (len(data.train), data.skipped) == (8, ())


def test_zappos_under_its_other_name_and_before_its_images_are_put_in_order(tmp_path):
    made = make_czsl(tmp_path, "ut-zap50k")
    for number, entry in enumerate(made.entries):
        entry["_image"] = f"Boots/Ankle/Some Brand/80{number}.37.jpg"
        old = made.folder / "images" / entry["image"]
        new = made.folder / "_images" / entry["_image"]
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
    made.write()
    data = load_compositions(f"czsl:ut-zappos@{tmp_path}")
    assert data.name == "ut-zappos"
    assert "/ut-zap50k/_images/Boots/Ankle/Some Brand/800.37.jpg" in paths_of(data.train)[0]
    assert len(data.test) == 4


def test_any_dataset_of_the_layout_is_read(tmp_path):
    made = make_czsl(tmp_path)
    made.folder.rename(tmp_path / "vaw-czsl")
    assert load_compositions(f"czsl:vaw-czsl@{tmp_path}").name == "vaw-czsl"


def test_what_is_of_no_listed_pair_is_left_out_and_told(tmp_path):
    made = make_czsl(tmp_path)
    made.add("NA", "car", "NA")
    made.add("old", "car", "NA")
    made.add("odd", "car", "test")
    made.add("new", "car", "train")
    made.add("old", "cat", "test")
    data = load_compositions(made.write().source)
    assert (len(data.train), len(data.test)) == (8, 7)  # a test image of a pair that is trained on counts
    assert [(one.reason, one.names) for one in data.left_out] == [
        ("without an attribute or a split (NA)", ("NA_car/18.jpg", "old_car/19.jpg")),
        ("of a pair that no list has", ("odd_car/20.jpg",)),
        ("in train, of a pair that the lists have for other splits only", ("new_car/21.jpg",)),
    ]
    assert "left out, of a pair that no list has: 1 (odd_car/20.jpg)" in data.summary.lines()


def test_missing_images_are_counted_and_named(tmp_path):
    made = make_czsl(tmp_path)
    gone = [made.add("old", "car", "train", draw=False), made.add("wet", "car", "test", draw=False)]
    made.write()
    with pytest.warns(UserWarning, match=r"Left out 2 of 20 images that are missing: .*/old_car/18\.jpg"):
        data = load_compositions(made.source)
    assert data.skipped == tuple(map(str, gone))
    assert any(line.startswith("left out, missing, or cannot be read: 2 (") for line in data.summary.lines())
    with pytest.warns(UserWarning, match="Left out 2 of 20 images that are missing"):
        assert load_compositions(made.source, skip_corrupt=True).skipped == data.skipped


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_images_of_a_split_missing_are_refused(tmp_path, split):
    made = make_czsl(tmp_path)
    for entry in made.entries:
        if entry["set"] == split:
            (made.folder / "images" / entry["image"]).unlink()
    with pytest.raises(
        ValueError, match=rf"no image of a listed pair for '{split}' of .*; \d are missing, such as .*jpg"
    ):
        load_compositions(made.source)


def test_damaged_images_are_left_out_when_asked(tmp_path):
    made = make_czsl(tmp_path)
    path = made.folder / "images" / made.entries[0]["image"]
    path.write_bytes(b"no image")
    with pytest.warns(UserWarning, match="Left out 1 of 18 images that cannot be read"):
        data = load_compositions(made.source, skip_corrupt=True)
    assert data.skipped == (str(path),)
    assert len(data.train) == 7


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("old_format", [False, True])
def test_nothing_in_the_metadata_is_run(tmp_path, old_format):
    made = make_czsl(tmp_path)
    trace = tmp_path / "trace"
    torch.save([Attack(trace)], made.metadata, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(
        ValueError, match=r"split-natural\.t7 cannot be read: it contains \S+, and loading that could run code .*\.json"
    ):
        load_compositions(made.source)
    assert not trace.exists()
    torch.load(made.metadata, weights_only=False)  # the file would do it
    assert trace.exists()


@pytest.mark.parametrize(("text", "what"), [("<html>", "Expecting value"), ("[" * 100_000, "maximum recursion depth")])
def test_metadata_that_are_no_json_are_told(text, what, tmp_path):
    made = make_czsl(tmp_path)
    made.metadata.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=rf"split-natural\.json is no JSON file: {what}"):
        load_compositions(made.source)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.97])
def test_truncated_metadata_are_told(tmp_path, share, old_format):
    made = make_czsl(tmp_path).write(_use_new_zipfile_serialization=not old_format)
    content = made.metadata.read_bytes()
    made.metadata.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"\.t7 cannot be read: it was not written by `torch\.save`, or is damaged"):
        load_compositions(made.source)


GOOD = {"image": "old_car/0.jpg", "attr": "old", "obj": "car", "set": "train"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, r"must hold a list with an entry for each image, got dict"),
        (["old_car/0.jpg"], r"entry 0 must have the texts image, attr, obj, set, got 'old_car/0\.jpg'"),
        ([GOOD, {**GOOD, "attr": 3}], r"entry 1 must have the texts image, attr, obj, set, got \{.*'attr': 3"),
        ([{**GOOD, "image": ""}], r"entry 0 must have the texts image"),
        ([{key: GOOD[key] for key in ("image", "attr", "obj")}], r"entry 0 must have the texts image, attr, obj, set"),
        ([{**GOOD, "set": "valid"}], r"the `set` of entry 0 must be train, val, test or NA, got 'valid'"),
    ],
)
def test_metadata_of_another_form_are_refused(tmp_path, content, message):
    made = make_czsl(tmp_path)
    torch.save(content, made.metadata)
    with pytest.raises(ValueError, match=message):
        load_compositions(made.source)


@pytest.mark.parametrize("key", ["image", "_image"])
@pytest.mark.parametrize(
    "place", ["../../secret.jpg", "old_car/../../../x.jpg", "/etc/secret.jpg", "..\\..\\x.jpg", "C:\\x.jpg", "."]
)
def test_paths_out_of_the_folder_are_refused(tmp_path, place, key):
    made = make_czsl(tmp_path / "data")
    for outside in (tmp_path / "data" / "secret.jpg", tmp_path / "secret.jpg"):
        Picture.new("RGB", (8, 8)).save(outside)
    made.entries[3][key] = place
    with pytest.raises(ValueError, match=r"the image of entry 3 must be a file in the folder of images, got '"):
        load_compositions(made.write().source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("old car\nnew\n", r"train_pairs\.txt, line 2 must be an attribute and an object, got 'new'"),
        (
            "old car\n\nvery old car\n",
            r"train_pairs\.txt, line 3 must be an attribute and an object, got 'very old car'",
        ),
        (" \n", r"train_pairs\.txt has no pair"),
    ],
)
def test_malformed_lines_are_refused(tmp_path, text, message):
    made = make_czsl(tmp_path)
    made.pair_list("train").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_compositions(made.source)


def test_lists_that_are_no_text_are_refused(tmp_path):
    made = make_czsl(tmp_path)
    made.pair_list("test").write_bytes(b"old caf\xe9\n")
    with pytest.raises(ValueError, match=r"test_pairs\.txt is no text in UTF-8"):
        load_compositions(made.source)


def test_lists_as_other_systems_write_them(tmp_path):
    """With a mark in front, other ends of lines, empty lines, and a pair that is there twice."""
    made = make_czsl(tmp_path)
    before = load_compositions(made.source)
    lines = made.pair_list("train").read_text().splitlines()
    made.pair_list("train").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", lines[0]]).encode() + b"\r\n")
    data = load_compositions(made.source)
    assert data.train_pairs == before.train_pairs
    assert data.notes == ("train_pairs.txt has pairs more than once, taken once: 1 (old car)",)


@pytest.mark.parametrize(
    "lost", ["", "compositional-split-natural/val_pairs.txt", "metadata_compositional-split-natural.t7"]
)
def test_what_is_missing_is_named(tmp_path, lost):
    made = make_czsl(tmp_path)
    path = made.folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"mit-states/?{lost} does not exist\. https.*csp.* tells how"):
        load_compositions(made.source)


def test_the_folder_above_is_asked_for(tmp_path):
    made = make_czsl(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mit-states is such a dataset: give the folder above it"):
        load_compositions(f"czsl:mit-states@{made.folder}")


@pytest.mark.parametrize("source", ["czsl:mit-states", "czsl:@DATA", "czsl:mit-states@"])
def test_dataset_and_folder_are_both_needed(source):
    with pytest.raises(ValueError, match=r"Name dataset and folder as in czsl:mit-states@DATA, got 'czsl:"):
        load_compositions(source)


@pytest.mark.parametrize("source", ["", "pairs:", "folder:x", "mit-states"])
def test_other_sources_are_refused(source):
    with pytest.raises(
        ValueError, match=r"Images of compositions are one of demo:compositions, pairs:PATH and czsl:NAME@DATA, got '"
    ):
        load_compositions(source)
