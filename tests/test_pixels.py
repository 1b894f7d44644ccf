"""What prompts the vision tower reads pixels: in the protocols and on the command line, through the data loader."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel

from peft_coop.cli import main
from peft_coop.data import PreparedImages, load_data, prepare_images, with_image_embeds
from peft_coop.data.images import ImageRows
from peft_coop.data.tower_inputs import TowerInputs
from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation import FrozenCLIP, PromptClassifier, PromptLearning, draw_images, few_shot, nearest_words
from peft_coop.evaluation.planning import Estimator
from peft_coop.methods import METHODS

SHORT = {"num_epochs": 2, "learning_rate": 0.02}
READ_PIXELS = [key for key, method in METHODS.items() if method.config().changes_vision]


@pytest.fixture(scope="module")
def clip():
    return FrozenCLIP(load_clip(), load_processor(), "demo")


@pytest.fixture(scope="module")
def digits():
    data = load_data("demo:digits")
    train, test = (part.shuffle(seed=0).select(range(size)) for part, size in ((data.train, 120), (data.test, 30)))
    return replace(data, train=train, test=test)


@pytest.fixture
def features_are_not_computed(monkeypatch):
    def refuse(*_):
        raise AssertionError("features of the frozen tower were asked for")

    monkeypatch.setattr(FrozenCLIP, "with_image_embeds", refuse)


@pytest.fixture
def loaders(monkeypatch):
    """The numbers of workers that images were read with to classify them."""
    numbers, batches = [], TowerInputs.batches

    def count(self, batch_size, num_workers):
        numbers.append(num_workers)
        return batches(self, batch_size, 0)

    monkeypatch.setattr(TowerInputs, "batches", count)
    return numbers


def test_there_are_such_methods():
    assert {"maple", "ivlp", "vpt"} <= set(READ_PIXELS) < set(METHODS)


@pytest.mark.usefixtures("features_are_not_computed")
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("key", READ_PIXELS)
def test_a_protocol_trains_and_classifies_pixels(key, augment, clip, digits, tmp_path, loaders):
    """Its answers are the saved adapter's own, of images that are made ready one by one."""
    classifier = PromptLearning(key, {}, SHORT, augment=augment).fit(clip, draw_images(digits, 1, 1), 1, tmp_path)
    logits = classifier.logits(digits.test, digits.class_names)
    classifier.save(tmp_path / "adapter")
    model = PeftModel.from_pretrained(load_clip(), tmp_path / "adapter").eval()
    rows = ImageRows(digits.test)
    pixel_values = prepare_images([rows[index] for index in range(len(rows))], clip.processor.image_processor)
    with torch.no_grad():
        expected = model(pixel_values=pixel_values).logits
    np.testing.assert_allclose(logits, expected.numpy(), atol=2e-4, rtol=0)
    assert loaders == [0]


@pytest.mark.usefixtures("features_are_not_computed")
def test_a_run_is_kept(clip, digits, tmp_path, loaders):
    vpt = PromptLearning("vpt", {"n_ctx_vision": 2}, SHORT)
    first = few_shot(clip, digits, [vpt], tmp_path, shots=(1,), seeds=(1,))
    assert few_shot(clip, digits, [vpt], tmp_path, shots=(1,), seeds=(1,)) == first
    assert len(loaders) == 1
    assert first[0]["settings"]["n_ctx_vision"] == 2


def test_workers_of_a_method_load_images_to_train_and_to_classify(clip, digits, tmp_path, loaders, monkeypatch):
    given = {}
    monkeypatch.setattr(
        "peft_coop.evaluation.prompt_learning.train_prompt", lambda *_, **arguments: given.update(arguments)
    )
    for key, expected in (("vpt", 3), ("coop", 0)):
        method = PromptLearning(key, {}, SHORT, num_workers=3)
        classifier = method.fit(clip, draw_images(digits, 1, 1), 1, tmp_path)
        classifier.logits(digits.test.select(range(4)), digits.class_names)
        assert given["dataloader_num_workers"] == expected
    assert loaders[0] == 3


def test_prepared_images_are_what_the_tower_is_given(clip, digits):
    images = PreparedImages(digits.train, clip.processor.image_processor)
    rows = ImageRows(digits.train)
    assert len(images) == 120
    for index in (0, 7):
        expected = prepare_images([rows[index]], clip.processor.image_processor)[0]
        assert torch.equal(images[index]["pixel_values"], expected)
        assert images[index]["labels"] == digits.train[index]["label"]
    with pytest.raises(ValueError, match="no column 'picture'"):
        PreparedImages(digits.train, clip.processor.image_processor, image_column="picture")


def test_prompts_in_the_text_tower_alone_learn_on_features(clip, digits, tmp_path, loaders):
    method = PromptLearning("ivlp", {"n_ctx_vision": 0}, SHORT)
    assert not method.changes_vision
    classifier = method.fit(clip, draw_images(digits, 1, 1), 1, tmp_path)
    assert classifier.logits(digits.test, digits.class_names).shape == (30, 10)
    assert 0 not in loaders[2:]  # the features of both splits, and nothing more


def test_features_of_a_model_that_reads_pixels_are_refused(clip, digits, tmp_path):
    classifier = PromptLearning("vpt", {}, SHORT | {"num_epochs": 1}).fit(clip, draw_images(digits, 1, 1), 1, tmp_path)
    processor = clip.processor.image_processor
    with pytest.raises(
        ValueError, match=r"reads images with learned prompts in the vision tower.*give the model pixel"
    ):
        with_image_embeds(digits.test, classifier.model, processor)
    with pytest.raises(ValueError, match="has no vectors among words: what it learned is in the vision tower"):
        nearest_words(classifier.model)


def test_an_estimate_counts_the_images_within_the_step(clip, digits, monkeypatch):
    """Where features would be computed of crops, the vision tower is in the step already."""
    monkeypatch.setattr("peft_coop.evaluation.planning.seconds_of", lambda step, device: step() or 2.0)
    images = draw_images(digits, 1, 1)
    steps = PromptLearning("maple", {}, SHORT).training_steps(images)
    for augment in (False, True):
        method = PromptLearning("maple", {}, SHORT, augment=augment)
        assert Estimator(clip).seconds(method, images) == 2.0 * steps


@pytest.mark.usefixtures("features_are_not_computed")
def test_the_command_line(tmp_path, capsys, loaders, monkeypatch):
    """Zero-shot CLIP, which it compares with, is the only one that features are computed for."""

    def run(*arguments):
        main([str(argument) for argument in arguments])

    def fake_logits(self, images, class_names):
        return np.eye(len(class_names), dtype=np.float32)[[0] * len(images)]

    folder = tmp_path / "prompt"
    monkeypatch.setattr("peft_coop.evaluation.baselines.hand_written_prompts.TextClassifier.logits", fake_logits)
    common = ["--data", "demo:digits", "--quiet", "--json"]
    short = ["--epochs", "1", "--shots", "1", "--set", "n_ctx_vision=2", "--workers", "0"]
    run("train", "--method", "vpt", *common, *short, "--output", folder)
    trained = json.loads(capsys.readouterr().out)
    run("evaluate", "--adapter", folder, *common, "--workers", "0")
    measured = json.loads(capsys.readouterr().out)
    assert measured["accuracy"] == trained["accuracy"]
    assert len(loaders) == 2


def test_a_classifier_keeps_how_many_workers_load_its_images(clip, digits, tmp_path):
    method = PromptLearning("vpt", {}, SHORT | {"num_epochs": 1})
    model = method.fit(clip, draw_images(digits, 1, 1), 1, tmp_path).model
    alone = PromptClassifier(model, clip).logits(digits.test.select(range(6)), digits.class_names)
    shared = PromptClassifier(model, clip, num_workers=2).logits(digits.test.select(range(6)), digits.class_names)
    np.testing.assert_allclose(shared, alone, atol=1e-5, rtol=0)
