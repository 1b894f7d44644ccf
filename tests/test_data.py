"""Images from folders and datasets, and features that are computed once."""

import pytest
import torch
from conftest import make_clip
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset
from peft import get_peft_model
from PIL import Image as Picture
from transformers import CLIPImageProcessor, Trainer, TrainingArguments

from peft_coop import CoOpConfig
from peft_coop.data import load_data, with_image_embeds

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


def test_folder_with_splits(tmp_path):
    data = load_data(f"folder:{draw(tmp_path / 'colours')}")
    assert (data.name, data.class_names) == ("colours", ["green", "red"])
    assert (len(data.train), len(data.test)) == (8, 8)
    assert data.train.column_names == ["image", "label"]


def test_folder_without_splits_gives_a_fifth_to_the_test(tmp_path):
    data = load_data(f"folder:{draw(tmp_path / 'colours', splits=['.'], count=10)}", seed=3)
    again = load_data(f"folder:{tmp_path / 'colours'}", seed=3)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert list(data.test["label"]).count(0) == 2
    assert list(data.test["label"]) == list(again.test["label"])


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
    torch.testing.assert_close(torch.tensor(features["image_embeds"]), expected, atol=1e-6, rtol=0)
    assert features.features["label"] == data.train.features["label"]


def test_features_are_computed_once(tmp_path, processor):
    """A second run reads them; another tower, another processor or other data compute them anew."""
    draw(tmp_path / "images")

    def run(clip, processor, split="train"):
        calls = []
        handle = clip.vision_model.register_forward_hook(lambda *_: calls.append(1))
        dataset = load_dataset("imagefolder", data_dir=str(tmp_path / "images"), cache_dir=str(tmp_path / "cache"))
        with_image_embeds(dataset[split], clip, processor)
        handle.remove()
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
