"""What a folder of images is read as, what is told of it, and what is refused."""

import shutil
import sys
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as Picture

from peft_coop.data import images, load_data


@pytest.fixture(autouse=True)
def same_pictures():
    """Every picture has a colour of its own."""
    draw.count = 0


def draw(*files):
    for file in files:
        draw.count += 1
        file.parent.mkdir(parents=True, exist_ok=True)
        Picture.new("RGB", (8, 8), (draw.count % 256, draw.count // 256, 9)).save(file)


def fill(place, train="train", test="test", classes=("cat", "dog"), count=3):
    for split in (train, test):
        for name in classes:
            draw(*(place / split / name / f"{index}.png" for index in range(count)))
    return place


def paths(dataset):
    return [row["image"]["path"] for row in dataset.cast_column("image", Image(decode=False))]


@pytest.mark.parametrize("train, test", [("training", "testing"), ("Train", "Test"), ("TRAIN", "test")])
def test_splits_of_other_names_are_splits(tmp_path, train, test):
    data = load_data(f"folder:{fill(tmp_path, train, test)}")
    assert data.class_names == ["cat", "dog"]
    assert all(f"/{train}/" in path for path in paths(data.train))
    assert all(f"/{test}/" in path for path in paths(data.test))
    assert (len(data.train), len(data.test)) == (6, 6)
    assert f"train images are those in '{train}'" in data.summary.notes


def test_two_folders_of_one_split_are_refused(tmp_path):
    fill(tmp_path, test="val")
    shutil.copytree(tmp_path / "val", tmp_path / "valid")
    with pytest.raises(ValueError, match=r"both 'val' and 'valid' are names of the validation images"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["valid", "training", "Test"])
def test_a_class_called_as_a_split_is_refused_beside_classes_and_read_among_them(tmp_path, name):
    draw(*(tmp_path / one / f"{index}.png" for one in ("cat", name) for index in range(5)))
    with pytest.raises(ValueError, match=rf"has '{name}', which is a name of a split, and beside it 'cat'"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "all" / "train").mkdir(parents=True)
    for one in ("cat", name):
        (tmp_path / one).rename(tmp_path / "all" / "train" / one)
    assert load_data(f"folder:{tmp_path / 'all'}").class_names == sorted(["cat", name])


def test_pictures_without_classes_in_split_folders_are_refused(tmp_path):
    draw(tmp_path / "train" / "0.png", tmp_path / "test" / "1.png")
    with pytest.raises(ValueError, match=r"in folders named after their class, '.*train/0\.png' is not"):
        load_data(f"folder:{tmp_path}")


def test_linked_classes_and_images_are_read_and_broken_links_told(tmp_path):
    fill(tmp_path / "real")
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).symlink_to(tmp_path / "real" / split / name)
    (tmp_path / "real" / "train" / "cat" / "linked.png").symlink_to(tmp_path / "real" / "train" / "cat" / "0.png")
    (tmp_path / "real" / "train" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "real" / "train" / "cat" / "around").symlink_to(tmp_path / "real" / "train")
    (tmp_path / "real" / "train" / "cat" / "around").unlink()
    data = load_data(f"folder:{tmp_path / 'data'}")
    assert (data.class_names, len(data.train), len(data.test)) == (["cat", "dog"], 7, 6)
    (told,) = data.summary.left_out
    assert told.reason.startswith("links that lead nowhere")
    assert told.names[0].endswith("gone.png")


def test_a_link_in_circles_ends(tmp_path):
    fill(tmp_path)
    (tmp_path / "train" / "cat" / "empty").mkdir()
    (tmp_path / "train" / "cat" / "empty" / "again").symlink_to(tmp_path / "train" / "cat" / "empty")
    assert len(load_data(f"folder:{tmp_path}").train) == 6


def test_images_deeper_than_their_class_are_refused(tmp_path):
    draw(*(tmp_path / kind / "black" / f"{index}.png" for kind in ("cat", "dog") for index in range(5)))
    with pytest.raises(ValueError, match=r"cat/black/0\.png' is in a folder inside '.*cat': which of the two"):
        load_data(f"folder:{tmp_path}")
    fill(tmp_path / "unpacked" / "pets")
    with pytest.raises(ValueError, match=r"If the data is in '.*unpacked/pets', name that folder"):
        load_data(f"folder:{tmp_path / 'unpacked'}")


def test_a_class_to_test_on_that_is_not_trained_is_refused(tmp_path):
    fill(tmp_path, classes=("cat", "dog"))
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "dogs")
    with pytest.raises(ValueError, match=r"test/dogs' is a class without training images: .*has no folder 'dogs'"):
        load_data(f"folder:{tmp_path}")


def test_a_class_without_test_images_is_told(tmp_path):
    fill(tmp_path, classes=("cat", "dog", "fox"))
    shutil.rmtree(tmp_path / "test" / "fox")
    summary = load_data(f"folder:{tmp_path}").summary
    assert "without test images: 1 of the classes (fox)" in summary.notes
    assert summary.splits["test"].classes == 2


@pytest.mark.parametrize("first, second", [("Cat", "cat"), ("hot_dog", "hot dog"), ("caf\u00e9", "cafe\u0301")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_two_folders_of_one_class_are_refused(tmp_path, first, second, split):
    fill(tmp_path, classes=(first, "fox"))
    draw(tmp_path / split / second / "0.png")
    if len(list((tmp_path / split).iterdir())) < 3:
        pytest.skip("this file system takes the two names for one")
    with pytest.raises(ValueError, match=r"are two folders of what reads as one class"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "notes.txt"])
@pytest.mark.parametrize("place", ["", "train", "train/cat"])
def test_other_files_are_told_and_no_data(tmp_path, name, place):
    fill(tmp_path)
    (tmp_path / place / name).write_text("file_name,label\n0.png,1\n")
    data = load_data(f"folder:{tmp_path}")
    assert (data.class_names, len(data.train), len(data.test)) == (["cat", "dog"], 6, 6)
    (told,) = data.summary.left_out
    assert told.names == (str(tmp_path / place / name),)


def test_what_is_hidden_or_empty_is_told(tmp_path):
    fill(tmp_path)
    draw(tmp_path / "train" / "cat" / ".1.png", tmp_path / "train" / ".cache" / "0.png")
    (tmp_path / "train" / "empty").mkdir()
    data = load_data(f"folder:{tmp_path}")
    assert (data.class_names, len(data.train)) == (["cat", "dog"], 6)
    told = {one.reason: [Path(name).name for name in one.names] for one in data.summary.left_out}
    assert told == {"hidden": [".cache", ".1.png"], "folders without images": ["empty"]}


def test_a_single_class_is_refused(tmp_path):
    draw(*(tmp_path / "photos" / f"{index}.png" for index in range(9)))
    with pytest.raises(ValueError, match=r"has images of a single class, 'photos'"):
        load_data(f"folder:{tmp_path}")


def test_the_same_file_in_training_and_test_is_counted(tmp_path):
    fill(tmp_path)
    shutil.copy(tmp_path / "train" / "cat" / "1.png", tmp_path / "test" / "dog" / "copy.png")
    summary = load_data(f"folder:{tmp_path}").summary
    assert summary.duplicates == (
        (str(tmp_path / "test" / "dog" / "copy.png"), str(tmp_path / "train" / "cat" / "1.png")),
    )
    assert "1 of 7 test images are training images too, byte by byte" in summary.notes[-1]


def test_the_same_bytes_in_a_dataset_are_counted(tmp_path):
    draw(tmp_path / "0.png", tmp_path / "1.png", tmp_path / "2.png")
    stored = [{"bytes": (tmp_path / f"{index}.png").read_bytes(), "path": None} for index in range(3)]
    features = Features({"image": Image(), "label": ClassLabel(names=["Cat", "cat"])})
    splits = {"Train": stored[:2], "Test": stored[1:], "raw": stored}
    DatasetDict(
        {
            name: Dataset.from_dict({"image": rows, "label": [0, 1, 0][: len(rows)]}, features=features, split=name)
            for name, rows in splits.items()
        }
    ).save_to_disk(tmp_path / "saved")
    summary = load_data(f"hub:{tmp_path / 'saved'}").summary
    assert summary.duplicates == (("row 0 of Test", "row 1 of Train"),)
    assert "class names that read as one: 'Cat' and 'cat'" in summary.notes
    assert [(one.reason, one.names) for one in summary.left_out] == [("splits of no known name", ("raw",))]


def test_several_splits_of_unknown_names_are_refused(tmp_path):
    draw(tmp_path / "0.png")
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    fold = Dataset.from_dict({"image": [str(tmp_path / "0.png")], "label": [0]}, features=features)
    DatasetDict({"fold1": fold, "fold2": fold}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"has the splits 'fold1', 'fold2': none is called train"):
        load_data(f"hub:{tmp_path / 'saved'}")


def test_what_datasets_does_not_read_of_a_folder_is_told(tmp_path):
    place = fill(tmp_path / "pets")
    draw(place / "test" / "phone.HEIC.png")
    (place / "test" / "phone.HEIC.png").rename(place / "test" / "cat" / "phone.heic")
    notes = load_data(f"hub:{place}").summary.notes
    assert notes[0].startswith(
        "`datasets` has read 12 of 13 images in the folder. Where folders are the classes, folder:"
    )


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # pandas 2, of Python 3.10, leaves it open
def test_a_metadata_file_that_datasets_cannot_read_names_the_way_out(tmp_path):
    place = fill(tmp_path / "pets", "Train", "Test")
    (place / "metadata.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"'hub:.*pets' cannot be read: .*folders are the classes, folder:.*pets"):
        load_data(f"hub:{place}")
    assert len(load_data(f"folder:{place}").train) == 6


def test_the_summary_counts_and_is_json(tmp_path):
    fill(tmp_path / "pets")
    draw(tmp_path / "pets" / "train" / "dog" / "9.png")
    summary = load_data(f"folder:{tmp_path / 'pets'}").summary
    assert summary.lines() == ["pets: 2 classes (cat, dog); images: train 7 (3 to 4 a class), test 6 (3 a class)"]
    assert str(summary) == summary.lines()[0]
    assert summary.as_dict()["splits"]["val"] == {"images": 0, "classes": 0, "fewest": 0, "most": 0}


def test_a_drawn_test_is_told(tmp_path):
    draw(*(tmp_path / name / f"{index}.png" for name in ("cat", "dog") for index in range(5)))
    notes = load_data(f"folder:{tmp_path}", seed=4).summary.notes
    assert notes == ("no test images: a fifth of each class was drawn for the test (seed 4)",)


def test_the_papers_data_has_a_summary(tmp_path):
    from coop_layout_files import make_coop_layout

    summary = load_data(make_coop_layout(tmp_path, "dtd").source).summary
    assert {split: one.images for split, one in summary.splits.items()} == {"train": 16, "val": 8, "test": 12}


def test_images_in_heic_are_read(tmp_path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    fill(tmp_path)
    Picture.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "train" / "cat" / "phone.HEIC", format="HEIF")
    data = load_data(f"folder:{tmp_path}")
    assert len(data.train) == 7
    image = images.read_image({"path": str(tmp_path / "train" / "cat" / "phone.HEIC"), "bytes": None})
    red, green, _ = image.getpixel((32, 32))
    assert red > 150
    assert green < 60


def test_images_in_heic_without_the_package_are_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images.can_read_heif.cache_clear()
    try:
        fill(tmp_path)
        (tmp_path / "train" / "cat" / "phone.heic").write_bytes(b"of a phone")
        with pytest.raises(ValueError, match=r"Images in HEIC: 1, such as '.*phone\.heic'. HEIC needs .*pillow-heif"):
            load_data(f"folder:{tmp_path}")
        with pytest.warns(UserWarning, match="Left out 1 of 13"):
            data = load_data(f"folder:{tmp_path}", skip_corrupt=True)
        assert data.skipped == (str(tmp_path / "train" / "cat" / "phone.heic"),)
        with pytest.raises(images.UnreadableImageError, match=r"HEIC needs the package pillow-heif"):
            images.read_image({"path": data.skipped[0], "bytes": None})
    finally:
        images.can_read_heif.cache_clear()
