"""What folders of attributes and objects are read as, what is told of them, and what is refused."""

import pytest
from datasets import Image
from PIL import Image as Picture

from peft_coop.data import load_compositions

PAIRS = {"train": ["old/car", "new/house", "dark red/car"], "val": ["old/house"], "test": ["new/car", "old/car"]}


def draw(*files):
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Picture.new("RGB", (8, 8), (number, 7, 9)).save(file)


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "photos"
    draw(*(place / split / pair / f"{index}.png" for split in PAIRS for pair in PAIRS[split] for index in (1, 0)))
    return place


def paths_of(dataset) -> list[str]:
    return [row["image"]["path"] for row in dataset.cast_column("image", Image(decode=False))]


def test_folders_of_attributes_and_objects(place):
    data = load_compositions(f"pairs:{place}")
    assert data.name == "photos"
    assert (data.attributes, data.objects) == (["dark red", "new", "old"], ["car", "house"])
    assert data.train_pairs == [("dark red", "car"), ("new", "house"), ("old", "car")]
    assert (data.val_pairs, data.test_pairs) == ([("old", "house")], [("new", "car"), ("old", "car")])
    names = ["dark red/car", "new/house", "old/car"]
    assert paths_of(data.train) == [f"{place}/train/{name}/{index}.png" for name in names for index in (0, 1)]
    assert data.train["attribute"][:] == [0, 0, 1, 1, 2, 2]
    assert data.train["object"][:] == [0, 0, 1, 1, 0, 0]
    assert (len(data.val), len(data.test)) == (2, 4)
    assert (data.left_out, data.notes) == ((), ())


def test_a_folder_without_validation_images(place):
    (place / "val").rename(place / ".val")
    data = load_compositions(f"pairs:{place}")
    assert (len(data.val), data.val_pairs) == (0, [])
    assert data.val.features == data.test.features
    assert [one.reason for one in data.left_out] == ["hidden"]


def test_validation_images_are_the_test_where_there_is_none(place):
    (place / "test").rename(place.parent / "test")
    data = load_compositions(f"pairs:{place}")
    assert (data.test_pairs, len(data.test), len(data.val)) == ([("old", "house")], 2, 0)
    assert data.notes == ("no test images: those in 'val' are the test",)


def test_splits_of_other_names_are_splits(place):
    (place / "train").rename(place / "Training")
    data = load_compositions(f"pairs:{place}")
    assert len(data.train) == 6
    assert "train images are those in 'Training'" in data.notes


def test_what_is_no_image_is_left_out_and_told(place):
    for name in ("train/notes.txt", "train/old/notes.txt", "train/old/car/notes.txt", "notes.txt"):
        (place / name).write_text("notes")
    (place / "test" / "big" / "dog").mkdir(parents=True)
    (place / "test" / "wide").mkdir(parents=True)
    data = load_compositions(f"pairs:{place}")
    assert data.attributes == ["dark red", "new", "old"]
    assert data.objects == ["car", "house"]
    assert {one.reason: [name.removeprefix(f"{place}/") for name in one.names] for one in data.left_out} == {
        "beside the folders of the splits": ["notes.txt"],
        "no image by their names": ["train/notes.txt", "train/old/car/notes.txt", "train/old/notes.txt"],
        "folders without images": ["test/big/dog", "test/wide"],
    }


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("train/1.png", r"folders named after their attribute and object, '.*train/1\.png' is not"),
        (
            "train/old car/1.png",
            r"folders named after their object, '.*/old car/1\.png' is not.*train/ATTRIBUTE/OBJECT",
        ),
        ("train/old/car/front/1.png", r"in a folder inside '.*/old/car': which of the two is its object\?"),
        ("old/car/1.png", r"beside it 'old', which holds images and is none. Are these attributes\?"),
        ("train/Old/bus/1.png", r"/Old' and '.*/old' are two folders of what reads as one attribute"),
        ("test/dark_red/bus/1.png", r"dark red' and '.*dark_red' are two folders of what reads as one attribute"),
        ("test/new/Car/1.png", r"/Car' and '.*/car' are two folders of what reads as one object"),
        ("valid/old/car/1.png", r"both 'val' and 'valid' are names of the validation images"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(place, image, message):
    draw(place / image)
    with pytest.raises(ValueError, match=rf"'pairs:.*photos' cannot be read: .*{message}"):
        load_compositions(f"pairs:{place}")


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["train"], r"has no folder 'test': which pairs are seen in training"),
        (["test"], r"has no folder 'train': which pairs are seen in training"),
        ([], r"has no folder 'train'"),
    ],
)
def test_both_kinds_of_pairs_are_needed(place, kept, message):
    for split in PAIRS:
        if split not in kept:
            (place / split).rename(place / f".{split}")
    with pytest.raises(ValueError, match=message):
        load_compositions(f"pairs:{place}")


def test_folders_without_splits_are_refused(tmp_path):
    draw(tmp_path / "old" / "car" / "1.png", tmp_path / "new" / "car" / "1.png")
    with pytest.raises(ValueError, match=r"has no folder 'train': .*train/ATTRIBUTE/OBJECT/IMAGE and test"):
        load_compositions(f"pairs:{tmp_path}")


def test_a_split_without_images_is_refused(place):
    for file in (place / "test").rglob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"There is no test image in '.*photos'; looked for train/ATTRIBUTE/OBJECT"):
        load_compositions(f"pairs:{place}")


def test_a_single_pair_to_train_on_is_refused(tmp_path):
    draw(tmp_path / "train" / "old" / "car" / "1.png", tmp_path / "test" / "new" / "car" / "1.png")
    with pytest.raises(ValueError, match=r"training images of a single pair, \('old', 'car'\)"):
        load_compositions(f"pairs:{tmp_path}")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"There is no folder '.*nowhere' \(from 'pairs:"):
        load_compositions(f"pairs:{tmp_path / 'nowhere'}")


def test_damaged_images_are_left_out_when_asked(place):
    (place / "test" / "new" / "car" / "0.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="Left out 1 of 12 images that cannot be read"):
        data = load_compositions(f"pairs:{place}", skip_corrupt=True)
    assert data.skipped == (f"{place}/test/new/car/0.png",)
    assert len(data.test) == 3
