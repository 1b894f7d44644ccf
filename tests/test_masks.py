"""Images with masks: what a folder is read as, what values mean, what is told, and what is refused by name."""

import json

import numpy as np
import pytest
from mask_files import CLASSES, SIZE, ade, columns, mask, picture, plain
from PIL import Image

from peft_coop.data import MaskRows, MaskValues, images_fingerprint, load_data, load_masks
from peft_coop.data.class_lists import read_class_list
from peft_coop.data.images import UnreadableImageError
from peft_coop.data.mask_summary import counted_rows


def first_labels(data, split="train") -> np.ndarray:
    return MaskRows(getattr(data, split), data.values)[0][1]


def told(data, reason) -> tuple[str, ...]:
    return next((each.names for each in data.summary.left_out if each.reason == reason), ())


def test_ade20k_layout(tmp_path):
    """Classes count from 1 and 0 is none, as its table of classes says; its validation images are the test."""
    data = load_masks(f"masks:{ade(tmp_path)}")
    assert (data.class_names, data.values.reduce_labels) == (list(CLASSES), True)
    assert (len(data.train), len(data.val), len(data.test)) == (3, 0, 2)
    image, labels = MaskRows(data.train, data.values)[0]
    assert (image.mode, image.size) == ("RGB", SIZE)
    assert labels.tolist() == columns(255, 0, 1, 1, 2).tolist()
    assert "no test images: those of the validation are the test" in data.notes
    assert "train images are those in 'training'" in data.notes


def test_the_summary_counts_pixels(tmp_path):
    summary = load_masks(f"masks:{ade(tmp_path)}").summary
    train = summary.splits["train"]
    assert (train.images, train.counted, train.pixels, train.ignored) == (3, 3, (48, 96, 48), 48)
    assert (train.with_class, train.shares, train.ignored_share) == ((3, 3, 3), [0.25, 0.5, 0.25], 0.2)
    assert summary.lines()[1] == (
        "train: 10 x 8 pixels; sky 50.0%, wall 25.0%, tree 25.0%; 20.0% of all pixels have no class"
    )
    assert json.loads(json.dumps(summary.as_dict()))["splits"]["test"]["images"] == 2


@pytest.mark.parametrize("layout", ["folders", "splits within", "splits above"])
def test_layouts(tmp_path, layout):
    if layout == "folders":
        plain(tmp_path)
    else:
        (tmp_path / "classes.txt").write_text("wall\nsky\n\ntree\n", encoding="utf-8")
        for split, count in {"train": 8, "test": 2}.items():
            for index in range(count):
                inner = ("imgs/{}", "masks/{}") if layout == "splits within" else ("{}/image", "{}/labels")
                picture(tmp_path / inner[0].format(split) / f"{index}.png", seed=10 * len(split) + index)
                mask(tmp_path / inner[1].format(split) / f"{index}.png", columns(0, 0, 1, 2, 255))
    data = load_masks(f"masks:{tmp_path}")
    assert (data.class_names, len(data.train), len(data.test)) == (list(CLASSES), 8, 2)
    assert first_labels(data).tolist() == columns(0, 0, 1, 2, 255).tolist()
    assert data.summary.left_out == ()
    drawn = "no test images: a fifth was drawn for the test (seed 1)"
    assert (drawn in data.notes) == (layout == "folders")
    assert any("the value 0 in a mask is taken for the first class" in note for note in data.notes)


def test_a_drawn_test_is_the_seeds(tmp_path):
    plain(tmp_path)
    tests = [load_masks(f"masks:{tmp_path}", seed).test["image"][0].tobytes() for seed in range(6)]
    assert tests[0] == load_masks(f"masks:{tmp_path}", 0).test["image"][0].tobytes()
    assert len(set(tests)) > 1


def test_what_has_no_partner_is_left_out_by_name(tmp_path):
    ade(tmp_path)
    picture(tmp_path / "images" / "training" / "alone.jpg")
    mask(tmp_path / "annotations" / "training" / "lonely.png", 1)
    (tmp_path / "images" / "training" / "notes.txt").write_text("x", encoding="utf-8")
    (tmp_path / "readme.md").write_text("x", encoding="utf-8")
    data = load_masks(f"masks:{tmp_path}")
    assert len(data.train) == 3
    assert [name.rsplit("/", 1)[1] for name in told(data, "images without a mask")] == ["alone.jpg"]
    assert [name.rsplit("/", 1)[1] for name in told(data, "masks without an image")] == ["lonely.png"]
    assert [name.rsplit("/", 1)[1] for name in told(data, "no image by their names")] == ["notes.txt"]
    assert [name.rsplit("/", 1)[1] for name in told(data, "beside the folders of images and masks")] == ["readme.md"]


VALUES = MaskValues(3)
MANY = MaskValues(300)


@pytest.mark.parametrize(
    ("values", "made", "expected"),
    [
        (VALUES, Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)), [0, 1, 2, 255]),
        (MaskValues(3, True), Image.fromarray(np.array([[0, 1, 3, 255]], np.uint8)), [255, 0, 2, 255]),
        (MANY, Image.fromarray(np.array([[0, 255, 299, 65535]], np.uint16)), [0, 255, 299, 65535]),
        (MaskValues(300, True), Image.fromarray(np.array([[0, 1, 300, 65535]], np.uint16)), [65535, 0, 299, 65535]),
        (MANY, Image.fromarray(np.array([[0, 255, 299, 65535]], np.int32)), [0, 255, 299, 65535]),
        (MaskValues(2), Image.fromarray(np.array([[False, True]])), [0, 1]),
        (VALUES, Image.fromarray(np.array([[[2, 2, 2], [0, 0, 0]]], np.uint8)), [2, 0]),
        (VALUES, Image.fromarray(np.array([[[2, 2, 2, 255], [0, 0, 0, 255]]], np.uint8)), [2, 0]),
    ],
)
def test_what_values_mean(values, made, expected):
    assert values.labels(made).tolist() == [expected]


def test_a_palette_gives_its_numbers_and_not_its_colours(tmp_path):
    palette = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).convert("P")
    palette.putpalette([9, 200, 3] * 256)
    palette.putdata([0, 1, 2, 255])
    palette.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as read:
        assert read.mode == "P"
        assert VALUES.labels(read).tolist() == [[0, 1, 2, 255]]


def test_colours_are_classes_where_the_file_says_so(tmp_path):
    listed = [{"name": "wall", "color": [9, 9, 9]}, {"name": "sky", "color": [0, 0, 255]}]
    plain(tmp_path, count=2, classes=listed)
    for file in (tmp_path / "masks").iterdir():
        colours = np.array([[9, 9, 9], [0, 0, 255], [0, 0, 0]], np.uint8)
        Image.fromarray(colours[columns(0, 0, 1, 1, 2)]).save(file)
    data = load_masks(f"masks:{tmp_path}")
    assert data.class_names == ["wall", "sky"]
    assert first_labels(data).tolist() == columns(0, 0, 1, 1, 255).tolist()
    Image.new("RGB", SIZE, (1, 2, 3)).save(file)
    with pytest.raises(UnreadableImageError, match=r"it has 1 colours that are of no class, such as \[1, 2, 3\]"):
        _ = data.summary


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            Image.fromarray(np.array([[0, 3, 200]], np.uint8)),
            "the values 3, 200, which are of no class: 3 classes have 0 to",
        ),
        (Image.fromarray(np.array([[0, 3]], np.uint8)), r"ask for reduced labels \(--reduce-labels\)"),
        (Image.fromarray(np.array([[-1, 2]], np.int32)), "the values -1, which are of no class"),
        (Image.new("RGB", (2, 2), (1, 2, 3)), "it is in colour, and which colour is which class is not said"),
        (Image.new("RGBA", (2, 2), (1, 1, 1, 9)), "it is transparent in places"),
        (Image.new("CMYK", (2, 2)), "not of Pillow's mode CMYK|mode CMYK"),
        (Image.new("F", (2, 2)), "mode F"),
    ],
)
def test_values_of_no_class_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        VALUES.labels(made)


def break_mask(place, how):
    file = place / "annotations" / "training" / "1.png"
    if how == "another size":
        Image.new("L", (4, 4)).save(file)
    elif how == "damaged":
        file.write_bytes(file.read_bytes()[:50])
    elif how == "no image":
        file.write_bytes(b"nothing")
    elif how == "value":
        mask(file, 77)
    else:
        Image.new("L", SIZE).save(file, format="JPEG")


BROKEN = {
    "another size": r"1\.png is of 4 x 4 pixels, its image .*1\.jpg of 10 x 8",
    "damaged": r"The mask .*training/1\.png cannot be read",
    "no image": r"1\.png cannot be read: Pillow knows no such image format",
    "value": r"1\.png cannot be read: it has the values 77, which are of no class: 3 classes have 1 to 3",
    "jpeg": r"1\.png cannot be read: a JPEG does not keep the values",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_mask_is_named_or_left_out(tmp_path, how):
    break_mask(ade(tmp_path), how)
    data = load_masks(f"masks:{tmp_path}")
    with pytest.raises(UnreadableImageError, match=BROKEN[how]):
        _ = data.summary
    with pytest.raises(UnreadableImageError, match=BROKEN[how]):
        MaskRows(data.train, data.values)[1]
    with pytest.warns(UserWarning, match=r"Left out 1 of 5 images that cannot be read: .*1\.jpg"):
        data = load_masks(f"masks:{tmp_path}", skip_corrupt=True)
    assert len(data.train) == 2
    assert [name.rsplit("/", 1)[1] for name in told(data, "cannot be read, or their masks cannot")] == ["1.jpg"]


def test_a_turned_image_has_a_mask_of_the_turned_picture(tmp_path):
    ade(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images" / "training" / "1.jpg", size=SIZE[::-1], exif=exif)
    data = load_masks(f"masks:{tmp_path}")
    assert data.summary.splits["train"].turned == 1
    assert any(line.startswith("1 images that their EXIF data turn") for line in data.summary.lines())
    assert MaskRows(data.train, data.values)[1][0].size == SIZE
    picture(tmp_path / "images" / "training" / "1.jpg", exif=exif)
    with pytest.raises(UnreadableImageError, match=r"of 8 x 10, turned as its EXIF data say: a mask has the size"):
        _ = load_masks(f"masks:{tmp_path}").summary


def test_what_looks_wrong_is_noted(tmp_path):
    ade(tmp_path)
    mask(tmp_path / "annotations" / "training" / "0.png", 0)
    for index in range(2):
        mask(tmp_path / "annotations" / "validation" / f"{index}.png", columns(1, 2))
    source, copy = (tmp_path / "images" / split / "0.jpg" for split in ("training", "validation"))
    copy.write_bytes(source.read_bytes())
    lines = "\n".join(load_masks(f"masks:{tmp_path}").summary.lines())
    assert "masks in which no pixel has a class: 1 (" in lines
    assert "without a pixel in test: 1 of the classes (tree)" in lines
    assert "1 of 2 test images are training images too" in lines


def test_of_many_masks_some_are_counted():
    assert counted_rows(4, 5) == [0, 1, 2, 3]
    assert counted_rows(9, 5) == [0, 2, 4, 6, 8]


WRONG_FOLDERS = {
    "no classes": (["images/a.png", "masks/a.png"], "has no file with the names of the classes: objectInfo150.txt"),
    "two lists": (["images/a.png", "masks/a.png", "classes.txt", "classes.json"], "'classes.json' and 'classes.txt'"),
    "no masks": (["images/a.png", "classes.txt"], "must have one folder of masks, called .* it has none"),
    "two folders": (["images/a.png", "masks/a.png", "labels/a.png", "classes.txt"], "it has 'labels' and 'masks'"),
    "no folders": (["a.png", "classes.txt"], "has no folders of images and masks; looked for images/training"),
    "no pair": (["images/a.png", "masks/b.png", "classes.txt"], r"left out, images without a mask: 1 \(.*a\.png\)"),
    "one name": (
        ["images/a.png", "images/a.jpg", "masks/a.png", "classes.txt"],
        "two images of one name, a.jpg, a.png",
    ),
    "splits": (
        ["images/train/a.png", "masks/val/a.png", "classes.txt"],
        r"the splits \['train'\], .* has \['validation'\]",
    ),
    "beside": (["images/train/a.png", "images/b.png", "masks/train/a.png", "classes.txt"], "beside them 'b.png'"),
    "both": (
        ["images/a.png", "masks/a.png", "train/images/a.png", "classes.txt"],
        "'train', which is a name of a split",
    ),
    "bare split": (["train/a.png", "classes.txt"], "The split .*train' has no folders of images and masks"),
    "single": (["images/a.png", "masks/a.png", "classes.txt"], "has a single image, and no test split"),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_folders_that_are_not_understood_are_refused(tmp_path, case):
    names, message = WRONG_FOLDERS[case]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).write_text("\n".join(CLASSES), encoding="utf-8")
        else:
            picture(tmp_path / name, format="PNG")
    with pytest.raises(ValueError, match=message):
        load_masks(f"masks:{tmp_path}")


CLASS_FILES = {
    "classes.txt": ("wall\n sky \n\n", ["wall", "sky"], None),
    "classes.json": ('["wall", "sky"]', ["wall", "sky"], None),
    "id2label.json": ('{"0": "wall", "1": "sky"}', ["wall", "sky"], 0),
    "class_names.json": ('{"2": "sky", "1": "wall"}', ["wall", "sky"], 1),
    "objectInfo150.txt": ("Idx\tRatio\tName\n1\t0.1\twall \n2\t0.2\tsky;heaven, blue\n", ["wall", "sky"], 1),
}


@pytest.mark.parametrize("name", CLASS_FILES)
def test_files_of_classes(tmp_path, name):
    text, names, first = CLASS_FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    listed = read_class_list(tmp_path / name)
    assert (listed.names, listed.first_value) == (names, first)


WRONG_CLASS_FILES = {
    "one": ("classes.txt", "wall", r"must name two classes or more, got \['wall'\]"),
    "gap": ("classes.json", '{"0": "wall", "2": "sky"}', "must count from 0 or from 1 without gaps, got 0, 2"),
    "twice": ("classes.json", '{"1": "wall", "01": "sky"}', "without gaps, got 1, 01"),
    "from 5": ("classes.json", '{"5": "wall", "6": "sky"}', "must count from 0 or from 1 without gaps"),
    "no number": (
        "classes.json",
        '{"a": "wall", "b": "sky"}',
        "must be a whole number and have a name, got 'a': 'wall'",
    ),
    "no JSON": ("classes.json", "wall", r"classes\.json' cannot be read: Expecting value"),
    "a number": ("classes.json", "3", "it holds int 3. Accepted: objectInfo150.txt"),
    "no colour": ("classes.json", '[{"name": "wall"}]', 'class 0 must have a "name" and a "color"'),
    "one colour": (
        "classes.json",
        '[{"name": "wall", "color": [1, 2, 3]}, {"name": "sky", "color": [1, 2, 3]}]',
        r"'wall' and 'sky' have one colour, \[1, 2, 3\]",
    ),
    "line": (
        "objectInfo150.txt",
        "Idx\tName\n1\twall\n3\tsky\n",
        r"line 3 must begin with 2 and end with a name, got '3",
    ),
}


@pytest.mark.parametrize("case", WRONG_CLASS_FILES)
def test_wrong_files_of_classes_are_refused(tmp_path, case):
    name, text, message = WRONG_CLASS_FILES[case]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_class_list(tmp_path / name)


def test_reduced_labels_are_asked_for_or_refused(tmp_path):
    plain(tmp_path, classes=CLASSES)
    reduced = load_masks(f"masks:{tmp_path}", reduce_labels=True)
    assert first_labels(reduced).tolist() == columns(255, 255, 0, 1, 255).tolist()
    ade(tmp_path / "ade")
    with pytest.raises(ValueError, match=r"counts them from 1, and reduced labels would have them from 0"):
        load_masks(f"masks:{tmp_path / 'ade'}", reduce_labels=False)


def test_another_file_of_classes(tmp_path):
    plain(tmp_path / "data")
    (tmp_path / "names").write_text("a\nb\nc", encoding="utf-8")
    assert load_masks(f"masks:{tmp_path / 'data'}", classes=tmp_path / "names").class_names == ["a", "b", "c"]


@pytest.mark.parametrize("source", ["folder:x", "masks:", "scenes"])
def test_unknown_sources_are_refused(source):
    with pytest.raises(ValueError, match="Images with masks are one of demo:scenes and masks:PATH, got"):
        load_masks(source)


@pytest.mark.parametrize("source", ["masks:x", "demo:scenes"])
def test_masks_are_no_images_of_classes(source):
    with pytest.raises(ValueError, match=r"has images with a class for each pixel: `load_masks` reads them"):
        load_data(source)


def test_the_fingerprint_is_of_images_and_masks(tmp_path):
    data = load_masks(f"masks:{plain(tmp_path, 4)}")
    before = images_fingerprint(data.train, data.class_names)
    assert images_fingerprint(load_masks(f"masks:{tmp_path}").train, data.class_names) == before
    for file in (tmp_path / "masks").iterdir():
        mask(file, 1)
    assert images_fingerprint(data.train, data.class_names) != before
