"""Images from folders and datasets, and features that are computed once."""

import io
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_clip
from coop_layout_files import make_coop_layout
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from peft import get_peft_model
from PIL import ExifTags
from PIL import Image as Picture
from transformers import CLIPImageProcessor, CLIPModel, Trainer, TrainingArguments

from peft_coop import CoOpConfig
from peft_coop.data import AugmentedImages, load_data, prepare_images, with_image_embeds
from peft_coop.data.images import ImageRows, read_image
from peft_coop.evaluation import FrozenCLIP

COLOURS = {"green": (0, 200, 0), "red": (200, 0, 0)}


@pytest.fixture
def processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def draw(folder, splits=("train", "test"), count=4):
    for split in splits:
        for name, colour in COLOURS.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                Picture.new("RGB", (20, 20), tuple(min(255, part + 10 * index) for part in colour)).save(
                    place / f"{index}.png"
                )
    return folder


def draw_noise(folder):
    """Four pictures on which every part looks different."""
    generator = np.random.default_rng(0)
    for name, index in [("a", 0), ("a", 1), ("b", 0), ("b", 1)]:
        (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Picture.fromarray(pixels).save(folder / "train" / name / f"{index}.png")
    shutil.copytree(folder / "train", folder / "test")
    return folder


def save_hub(folder, labels):
    """Splits whose images are bytes without a file, as the Hub's are."""
    names = ClassLabel(names=["a", "b"])
    splits = DatasetDict()
    for split, listed in labels.items():
        images = [{"bytes": png((40 * index, 0, 0)), "path": None} for index in range(len(listed))]
        features = Features({"image": Image(), "label": names})
        splits[split] = Dataset.from_dict({"image": images, "label": listed}, features=features)
    splits.save_to_disk(folder)
    return splits


def png(colour):
    stream = io.BytesIO()
    Picture.new("RGB", (8, 8), colour).save(stream, "png")
    return stream.getvalue()


def image_paths(dataset):
    return [Path(row["image"]["path"]) for row in dataset.cast_column("image", Image(decode=False))]


def test_folder_with_splits(tmp_path):
    data = load_data(f"folder:{draw(tmp_path / 'colours')}")
    assert (data.name, data.class_names, data.flip) == ("colours", ["green", "red"], True)
    assert (len(data.train), len(data.test)) == (8, 8)
    assert data.train.column_names == ["image", "label"]


def test_folder_without_splits_gives_a_fifth_to_the_test(tmp_path):
    data = load_data(f"folder:{draw(tmp_path / 'colours', splits=['.'], count=10)}", seed=3)
    again = load_data(f"folder:{tmp_path / 'colours'}", seed=3)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert list(data.test["label"]).count(0) == 2
    assert list(data.test["label"]) == list(again.test["label"])


def test_a_validation_split_is_for_validation_where_there_is_a_test(tmp_path):
    data = load_data(f"folder:{draw(tmp_path / 'colours', splits=['train', 'val', 'test'])}")
    assert (len(data.train), len(data.val), len(data.test)) == (8, 8, 8)
    assert [path.parent.parent.name for path in image_paths(data.val)] == ["val"] * 8
    assert {path.parent.parent.name for path in image_paths(data.test)} == {"test"}
    shutil.rmtree(tmp_path / "colours" / "test")
    data = load_data(f"folder:{tmp_path / 'colours'}")
    assert {path.parent.parent.name for path in image_paths(data.test)} == {"val"}
    assert len(data.val) == 0
    assert data.val.features == data.test.features


def test_a_source_with_only_a_test_split_has_nothing_to_train_on(tmp_path):
    data = load_data(f"folder:{draw(tmp_path / 'colours', splits=['test'])}")
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, 8)
    assert data.train.features == data.test.features
    assert data.class_names == ["green", "red"]


def test_the_demos_digits_have_no_validation_images_and_are_not_mirrored():
    data = load_data("demo:digits")
    assert (len(data.val), data.val.features) == (0, data.test.features)
    assert not data.flip
    assert data.class_names[:2] == ["zero", "one"]


def test_other_names_for_the_one_split_are_divided(tmp_path):
    save_hub(tmp_path / "saved", {"all": [index % 2 for index in range(10)]})
    data = load_data(f"hub:{tmp_path / 'saved'}")
    assert (len(data.train), len(data.test)) == (8, 2)


def test_saved_datasets_are_read(tmp_path):
    splits = save_hub(tmp_path / "saved", {"train": [0, 1, 0], "validation": [1, 1], "test": [0, 1]})
    for kind in ("folder", "hub"):
        data = load_data(f"{kind}:{tmp_path / 'saved'}")
        assert [list(part["label"]) for part in (data.train, data.val, data.test)] == [[0, 1, 0], [1, 1], [0, 1]]
    Dataset.from_dict(splits["train"][:] | {"label": [0, 1, 1]}, splits["train"].features).save_to_disk(
        tmp_path / "one"
    )
    with pytest.raises(ValueError, match=r"3 in 2 classes, 1 in the smallest"):
        load_data(f"folder:{tmp_path / 'one'}")


def test_a_test_split_without_labels_is_no_test(tmp_path):
    """As on the Hub for competitions: the labels of the test are -1."""
    save_hub(tmp_path / "saved", {"train": [0, 1], "validation": [1, 0, 0], "test": [-1, -1]})
    data = load_data(f"hub:{tmp_path / 'saved'}")
    assert (len(data.test), len(data.val)) == (3, 0)
    save_hub(tmp_path / "none", {"test": [-1, -1]})
    with pytest.raises(ValueError, match=r"has no split whose images all have a label, only \['test'\]"):
        load_data(f"hub:{tmp_path / 'none'}")


def test_usual_column_names_come_first(tmp_path):
    names = ClassLabel(names=["a", "b"])
    features = Features({"mask": Image(), "image": Image(), "coarse_label": names, "fine_label": names})
    black, white = (Picture.new("RGB", (4, 4), (tone,) * 3) for tone in (0, 255))
    rows = {"mask": [black] * 2, "image": [white] * 2, "coarse_label": [0, 0], "fine_label": [1, 1]}
    split = Dataset.from_dict(rows, features=features)
    DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "saved")
    row = load_data(f"hub:{tmp_path / 'saved'}").test[0]
    assert (row["image"].getpixel((0, 0)), row["label"]) == ((255, 255, 255), 1)


def test_data_that_datasets_cannot_build_is_refused(monkeypatch):
    def fail(name):
        raise DatasetGenerationError("An error occurred") from KeyError("label")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(ValueError, match=r"'hub:broken' cannot be read: 'label'"):
        load_data("hub:broken")


def test_unknown_sources_are_refused(tmp_path):
    for source in ("imagenet", "hub:", "folder:", "coop", "videos:"):
        with pytest.raises(
            ValueError, match=r"folder:PATH, hub:NAME and coop:NAME@DATA, or of videos|as in coop:oxford_pets"
        ):
            load_data(source)
    with pytest.raises(ValueError, match=r"There is no folder '.*nowhere'"):
        load_data(f"folder:{tmp_path / 'nowhere'}")


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"'folder:.*empty' cannot be read"):
        load_data(f"folder:{tmp_path / 'empty'}")


def draw_classes(folder, names, files=("0.png", "photo-test-1.png", "val.2.png", "train_3.png", "4.png")):
    for name in names:
        (folder / name).mkdir(parents=True)
        for index, file in enumerate(files):
            Picture.new("RGB", (8, 8), (20 * index, 0, 0)).save(folder / name / file)
    return folder


def test_names_of_splits_in_classes_and_files_are_no_splits(tmp_path):
    data = load_data(f"folder:{draw_classes(tmp_path / 'test images', ['cat', 'test dish', 'test tube', 'val-set'])}")
    assert data.class_names == ["cat", "test dish", "test tube", "val-set"]
    assert (len(data.train), len(data.val), len(data.test)) == (16, 0, 4)
    split = tmp_path / "split"
    draw_classes(split / "train", ["test dish", "train a"])
    draw_classes(split / "valid", ["test dish", "train a"])
    draw_classes(split / "test", ["test dish", "train a"])
    data = load_data(f"folder:{split}")
    assert (len(data.train), len(data.val), len(data.test)) == (10, 10, 10)
    assert data.class_names == ["test dish", "train a"]


def test_glob_characters_in_names_are_characters(tmp_path):
    place = draw_classes(tmp_path / "a [1] * ?", ["cat [new]", "dog?", "fox*"])
    draw_classes(tmp_path / "a 1 xx y", ["other"])
    data = load_data(f"folder:{place}")
    assert data.class_names == ["cat [new]", "dog?", "fox*"]
    assert (len(data.train), len(data.test)) == (12, 3)


def test_hidden_files_are_no_images_of_a_folder(tmp_path):
    place = draw_classes(tmp_path / "images", ["a", "b", ".thumbnails"])
    for name in ("a", "b"):
        (place / name / "._0.png").write_bytes(b"metadata of a Mac")
    data = load_data(f"folder:{place}", skip_corrupt=True)
    assert (data.class_names, len(data.train) + len(data.test), data.skipped) == (["a", "b"], 10, ())


def test_images_beside_the_classes_are_refused(tmp_path):
    place = draw_classes(tmp_path / "images", ["a", "b"])
    (place / "a" / "0.png").rename(place / "0.png")
    with pytest.raises(ValueError, match=r"in folders named after their class, '.*images/0\.png' is not"):
        load_data(f"folder:{place}")


def test_a_class_that_datasets_would_leave_out_is_read(tmp_path):
    data = load_data(f"folder:{draw_classes(tmp_path / 'images', ['a', '__b'])}")
    assert data.class_names == ["__b", "a"]


def test_a_folder_with_a_script_is_refused(tmp_path):
    place = tmp_path / "scripted"
    place.mkdir()
    (place / "scripted.py").write_text("import datasets\n")
    with pytest.raises(ValueError, match=r"'hub:.*scripted' cannot be read: .*script"):
        load_data(f"hub:{place}")


@pytest.mark.parametrize("content", ["{}", '{"splits": []}', '{"splits": ["train"]}', "no json"])
def test_a_damaged_saved_dataset_is_named(tmp_path, content):
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(ValueError, match=r"'folder:.*' cannot be read as a saved dataset: "):
        load_data(f"folder:{tmp_path}")


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.array([[0, 256, 257, 32768, 65535]], dtype=np.uint16)
    Picture.fromarray(values).save(tmp_path / "deep.png")
    image = read_image({"path": str(tmp_path / "deep.png"), "bytes": None})
    assert np.asarray(image)[0].tolist() == [[value] * 3 for value in (0, 1, 1, 128, 255)]


def test_too_few_images_for_a_test_are_counted(tmp_path):
    for name, count in {"green": 3, "red": 1}.items():
        (tmp_path / name).mkdir()
        for index in range(count):
            Picture.new("RGB", (20, 20), COLOURS[name]).save(tmp_path / name / f"{index}.png")
    with pytest.raises(ValueError, match=r"too few images .* 4 in 2 classes, 1 in the smallest"):
        load_data(f"folder:{tmp_path}")


def test_columns_are_found_by_their_types(tmp_path, monkeypatch):
    features = Features({"img": Image(), "fine": ClassLabel(names=["a", "b"]), "id": Value("int64")})
    rows = {"img": [Picture.new("RGB", (8, 8))] * 3, "fine": [0, 1, 0], "id": [1, 2, 3]}
    splits = DatasetDict({name: Dataset.from_dict(rows, features=features) for name in ("train", "validation")})
    monkeypatch.setattr("datasets.load_dataset", lambda name: splits)
    data = load_data("hub:someone/something")
    assert data.test.column_names == ["image", "label"]
    assert (data.name, data.class_names) == ("something", ["a", "b"])


def test_data_without_class_labels_is_refused(monkeypatch):
    plain = Dataset.from_dict({"text": ["a"], "label": [0]})
    monkeypatch.setattr("datasets.load_dataset", lambda name: DatasetDict({"train": plain}))
    with pytest.raises(ValueError, match=r"needs a column of images and one of class labels, it has .*'text': 'Value'"):
        load_data("hub:texts")


def test_features_equal_the_towers(tmp_path, processor):
    clip = make_clip()
    data = load_data(f"folder:{draw(tmp_path)}")
    features = with_image_embeds(data.train, clip, processor, batch_size=3)
    images = processor(list(data.train["image"]), return_tensors="pt")
    with torch.no_grad():
        expected = clip.get_image_features(**images).pooler_output
    torch.testing.assert_close(torch.tensor(features["image_embeds"]), expected, atol=1e-5, rtol=0)
    assert features.features["label"] == data.train.features["label"]


def test_features_draw_none_of_the_callers_random_numbers(tmp_path, processor):
    """What is random behind them is the same whether they were kept from before or not."""
    train, clip = load_data(f"folder:{draw(tmp_path)}").train, make_clip()
    state = torch.get_rng_state()
    with_image_embeds(train, clip, processor)
    assert torch.equal(torch.get_rng_state(), state)


def test_features_are_computed_once(tmp_path, processor, monkeypatch):
    """A second run reads them; another tower, another processor or other data compute them anew."""
    draw(tmp_path / "images")
    calls = []
    original = CLIPModel.get_image_features
    monkeypatch.setattr(
        CLIPModel, "get_image_features", lambda *given, **named: calls.append(1) or original(*given, **named)
    )

    def run(clip, processor, split="train"):
        calls.clear()
        dataset = load_dataset("imagefolder", data_dir=str(tmp_path / "images"), cache_dir=str(tmp_path / "cache"))
        with_image_embeds(dataset[split], clip, processor)
        return len(calls)

    clip = make_clip()
    assert run(clip, processor) == 1
    assert run(make_clip(), processor) == 0
    assert run(clip, processor, "test") == 1
    assert run(clip, CLIPImageProcessor(**{**processor.to_dict(), "image_mean": [0.1, 0.2, 0.3]})) == 1
    with torch.no_grad():
        clip.visual_projection.weight.mul_(2)
    assert run(clip, processor) == 1


def test_the_trainer_takes_features_as_they_are(tmp_path, processor, tokenizer_path):
    clip = make_clip()
    data = load_data(f"folder:{draw(tmp_path / 'images')}")
    train = with_image_embeds(data.train, clip, processor)
    config = CoOpConfig(n_ctx=4, class_names=data.class_names, tokenizer_name_or_path=tokenizer_path)
    arguments = TrainingArguments(str(tmp_path / "out"), max_steps=2, report_to="none", use_cpu=True)
    trainer = Trainer(get_peft_model(clip, config), arguments, train_dataset=train, eval_dataset=train)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_missing_column_is_named(processor):
    with pytest.raises(ValueError, match=r"has no column 'image', only \['label'\]"):
        with_image_embeds(Dataset.from_dict({"label": [0]}), make_clip(), processor)


def test_other_columns_are_no_images(processor):
    dataset = Dataset.from_dict({"image": ["a.png"], "label": [0]})
    with pytest.raises(ValueError, match=r"'image' must be of the type datasets\.Image, got Value\('string'\)"):
        with_image_embeds(dataset, make_clip(), processor)


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda path: path.write_bytes(b"no image"), "Pillow knows no such image format"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "[Tt]runcated"),
        (lambda path: path.write_bytes(b""), "Pillow knows no such image format"),
        (lambda path: path.unlink(), "No such file"),
    ],
    ids=["text", "truncated", "empty", "missing"],
)
@pytest.mark.parametrize("kind", ["folder", "coop"])
def test_an_unreadable_image_is_named_or_left_out(kind, damage, reason, tmp_path, processor):
    if kind == "folder":
        source = f"folder:{draw(tmp_path / 'colours')}"
    else:
        source = make_coop_layout(tmp_path, "dtd").source
    path = image_paths(load_data(source).train)[2]
    data = load_data(source)
    before = len(data.train)
    damage(path)
    with pytest.raises(ValueError, match=rf"The image {re.escape(str(path))} cannot be read: .*{reason}"):
        with_image_embeds(data.train, make_clip(), processor)
    with pytest.raises(ValueError, match=rf"The image {re.escape(str(path))} cannot be read: .*{reason}"):
        AugmentedImages(data.train, processor, seed=1)[2]
    if kind == "folder" and not path.exists():
        return
    total = sum(len(part) for part in (data.train, data.val, data.test))
    with pytest.warns(UserWarning, match=rf"Left out 1 of {total} images that cannot be read: {re.escape(str(path))}$"):
        kept = load_data(source, skip_corrupt=True)
    assert (len(kept.train), len(kept.test)) == (before - 1, len(data.test))
    assert kept.skipped == (str(path),)
    assert path not in image_paths(kept.train)
    assert len(with_image_embeds(kept.train, make_clip(), processor)) == before - 1


def test_an_unreadable_image_without_a_file_is_named_by_its_row(tmp_path, processor):
    save_hub(tmp_path / "saved", {"train": [0, 1], "test": [0, 1, 0]})
    splits = DatasetDict.load_from_disk(tmp_path / "saved")
    rows = splits["test"].cast_column("image", Image(decode=False))[:]
    rows["image"][1] = {"bytes": b"damaged", "path": "b.png"}
    rows["image"][2] = {"bytes": b"damaged", "path": None}
    test = Dataset.from_dict(rows, features=splits["test"].features, split="test")
    DatasetDict({"train": splits["train"], "test": test}).save_to_disk(tmp_path / "damaged")
    data = load_data(f"hub:{tmp_path / 'damaged'}")
    with pytest.raises(ValueError, match=r"The image row 1 of test \(b\.png\) cannot be read"):
        with_image_embeds(data.test, make_clip(), processor)
    with pytest.warns(UserWarning, match=r"Left out 2 of 5 images .*: row 1 of test \(b\.png\), row 2 of test$"):
        kept = load_data(f"hub:{tmp_path / 'damaged'}", skip_corrupt=True)
    assert list(kept.test["label"]) == [0]


def test_many_unreadable_images_are_counted_and_three_named(tmp_path):
    made = make_coop_layout(tmp_path, "dtd")
    paths = image_paths(load_data(made.source).test)
    for path in paths[:5]:
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"Left out 5 of 36 .*banded_0009\.jpg, …$"):
        data = load_data(made.source, skip_corrupt=True)
    assert len(data.skipped) == 5


def test_readable_images_are_all_kept_without_a_warning(tmp_path):
    data = load_data(make_coop_layout(tmp_path, "dtd").source, skip_corrupt=True)
    assert (len(data.train), len(data.val), len(data.test), data.skipped) == (16, 8, 12, ())


def test_turned_pictures_and_other_colour_modes_are_read_as_datasets_reads_them(tmp_path):
    turned = Picture.new("RGB", (10, 20), (9, 9, 9))
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Picture.new("LA", (6, 6), (99, 200)).save(tmp_path / "grey.png")
    dataset = Dataset.from_dict({"image": [str(tmp_path / name) for name in ("turned.jpg", "grey.png")]})
    dataset = dataset.cast_column("image", Image())
    for index, image in enumerate(ImageRows(dataset)[index] for index in range(2)):
        assert image.mode == "RGB"
        assert image.tobytes() == dataset[index]["image"].convert("RGB").tobytes()
    assert ImageRows(dataset)[0].size == (20, 10)


def test_views_are_those_of_the_first_epochs(tmp_path, processor):
    """V rows for each image, its views in the order of the epochs."""
    clip = make_clip()
    train = load_data(f"folder:{draw_noise(tmp_path / 'noise')}").train
    features = with_image_embeds(train, clip, processor, batch_size=3, views=2, seed=5)
    augmented = AugmentedImages(train, processor, seed=5)
    expected = []
    for epoch in range(2):
        augmented.set_epoch(epoch)
        pixel_values = torch.stack([augmented[index]["pixel_values"] for index in range(len(train))])
        with torch.no_grad():
            expected.append(clip.get_image_features(pixel_values).pooler_output)
    found = torch.tensor(features["image_embeds"][:]).unflatten(0, (len(train), 2))
    torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-5, rtol=0)
    assert list(features["label"]) == [label for label in train["label"] for _ in range(2)]
    assert (found[:, 0] - found[:, 1]).abs().amax(dim=-1).min() > 1e-3


def test_views_are_kept_apart_in_the_cache(tmp_path, processor):
    train = load_data(f"folder:{draw_noise(tmp_path / 'noise')}").train
    settings = [{}, {"views": 2}, {"views": 3}, {"views": 2, "seed": 2}, {"views": 2, "flip": False}]
    clip = make_clip()
    found = [with_image_embeds(train, clip, processor, **setting) for setting in settings]
    assert len({features._fingerprint for features in found}) == len(settings)
    assert [len(features) for features in found] == [4, 8, 12, 8, 8]
    assert with_image_embeds(train, clip, processor, seed=9)._fingerprint == found[0]._fingerprint


def test_one_view_is_a_view(tmp_path, processor):
    """Not the image as it is."""
    train = load_data(f"folder:{draw_noise(tmp_path / 'noise')}").train
    fixed, one, two = (with_image_embeds(train, make_clip(), processor, views=views) for views in (None, 1, 2))
    assert one["image_embeds"][:] == pytest.approx(np.array(two["image_embeds"][:])[::2], abs=1e-5)
    assert np.abs(np.array(one["image_embeds"][:]) - fixed["image_embeds"][:]).max(axis=1).min() > 1e-3


def test_views_drawn_in_another_way_are_others(tmp_path, processor, monkeypatch):
    train = load_data(f"folder:{draw_noise(tmp_path / 'noise')}").train
    before = [with_image_embeds(train, make_clip(), processor, views=views)._fingerprint for views in (None, 2)]
    monkeypatch.setattr("peft_coop.data.features.AUGMENTATION", "otherwise")
    after = [with_image_embeds(train, make_clip(), processor, views=views)._fingerprint for views in (None, 2)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def test_features_of_a_float64_model_keep_their_places(tmp_path, processor):
    train = load_data(f"folder:{draw_noise(tmp_path / 'noise')}").train
    clip = make_clip().double()
    found = torch.tensor(with_image_embeds(train, clip, processor)["image_embeds"][:], dtype=torch.float64)
    with torch.no_grad():
        expected = clip.get_image_features(prepare_images(list(train["image"]), processor)).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("views", [None, 2])
def test_images_that_processes_have_cut_are_the_same(views, tmp_path, processor, monkeypatch):
    train = load_data(f"folder:{draw_noise(tmp_path / 'noise')}").train
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "one")
    settings = {"batch_size": 3, "views": views}
    one = with_image_embeds(train, make_clip(), processor, **settings)["image_embeds"][:]
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "two")
    assert with_image_embeds(train, make_clip(), processor, num_workers=2, **settings)["image_embeds"][:] == one
    assert len(list((tmp_path / "two" / "peft_coop").glob("*.arrow"))) == 1


def test_an_unreadable_image_is_named_by_a_process_that_reads_it(tmp_path, processor):
    train = load_data(f"folder:{draw_noise(tmp_path / 'noise')}").train
    (tmp_path / "noise" / "train" / "b" / "0.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"The image .*b/0\.png cannot be read: Pillow knows no such image format"):
        with_image_embeds(train, make_clip(), processor, views=2, num_workers=1)


def test_no_images_give_no_features(tmp_path, processor):
    data = load_data(f"folder:{draw(tmp_path / 'colours')}")
    some, none = (with_image_embeds(part, make_clip(), processor) for part in (data.train, data.val))
    assert (len(none), none.features) == (0, some.features)


def test_no_views_are_refused(tmp_path, processor):
    data = load_data(f"folder:{draw(tmp_path / 'colours')}")
    with pytest.raises(ValueError, match=r"`views` must be 1 or more, or None for images as they are, got 0"):
        with_image_embeds(data.train, make_clip(), processor, views=0)


def test_features_of_files_are_kept_until_a_file_changes(coloured_files, monkeypatch):
    """A dataset that is made of paths lies in memory; its features are on disk all the same."""
    calls = []
    original = CLIPModel.get_image_features
    monkeypatch.setattr(
        CLIPModel, "get_image_features", lambda *given, **named: calls.append(1) or original(*given, **named)
    )
    model, processor = make_clip(), CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)

    def embed():
        paths = {"image": [str(path) for path in coloured_files], "label": [0, 1]}
        dataset = Dataset.from_dict(paths, features=Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}))
        return with_image_embeds(dataset, model, processor)["image_embeds"][:]

    first = embed()
    assert embed() == first
    assert len(calls) == 1
    Picture.new("RGB", (20, 20), (0, 0, 255)).save(coloured_files[0])
    changed = embed()
    assert len(calls) == 2
    assert changed[0] != first[0]
    assert changed[1] == first[1]


@pytest.fixture
def coloured_files(tmp_path):
    files = [tmp_path / "red.png", tmp_path / "green.png"]
    for file, colour in zip(files, ((255, 0, 0), (0, 255, 0)), strict=True):
        Picture.new("RGB", (16, 16), colour).save(file)
    return files


def test_features_that_a_clip_has_in_memory_are_those_of_the_files_now(coloured_files):
    processor = SimpleNamespace(image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16))
    clip = FrozenCLIP(make_clip(), processor, "tiny")

    def embed():
        rows = {"image": [str(path) for path in coloured_files], "label": [0, 1]}
        dataset = Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}))
        return clip.image_embeds(dataset)

    first = embed()
    assert torch.equal(embed(), first)
    Picture.new("RGB", (20, 20), (0, 0, 255)).save(coloured_files[0])
    assert (embed() - first).abs()[0].max() > 1e-3
