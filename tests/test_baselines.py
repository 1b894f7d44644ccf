"""Baselines against slow, obvious versions of themselves."""

import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from transformers import CLIPImageProcessor, CLIPProcessor

from peft_coop.data import COOP_LAYOUTS, AugmentedImages
from peft_coop.demo import load_clip, load_processor, load_task
from peft_coop.evaluation.baselines import (
    CLIPAdapter,
    ImageEncoderFineTuning,
    LayerNormTuning,
    LinearProbe,
    LoRATuning,
    PromptEnsemble,
    TextBias,
    TextTransform,
    TipAdapterF,
    TwoStage,
    ZeroShot,
    all_baselines,
    training_loop,
)
from peft_coop.evaluation.baselines.hand_written_prompts import text_features, text_logits
from peft_coop.evaluation.baselines.linear_probe import raw_features, search_exponent
from peft_coop.evaluation.baselines.training_pixels import training_pixels
from peft_coop.evaluation.compared_methods import LabelledImages
from peft_coop.evaluation.frozen_clip import FrozenCLIP
from peft_coop.evaluation.scores import scores
from peft_coop.evaluation.templates import imagenet_templates
from peft_coop.recipes import Recipe

NEW_NAMES = ["circle", "square"]
ON_FEATURES = [TextTransform, TextBias, CLIPAdapter, TipAdapterF]
ON_PIXELS = [ImageEncoderFineTuning, LoRATuning, LayerNormTuning, TwoStage]
GRADIENT_METHODS = [*ON_FEATURES, *ON_PIXELS]

every_gradient_method = pytest.mark.parametrize("method_class", GRADIENT_METHODS)


@pytest.fixture(scope="module")
def task():
    return load_task("digits")


@pytest.fixture(scope="module")
def test_images(task):
    return task.test.select(range(40))


@pytest.fixture(scope="module")
def images(task) -> LabelledImages:
    """Two training images and one for validation of each digit."""
    rows = [[i for i, label in enumerate(task.train["label"]) if label == digit][:3] for digit in range(10)]
    train = task.train.select([index for group in rows for index in group[:2]])
    val = task.train.select([group[2] for group in rows])
    return LabelledImages(task.class_names, task.zero_shot_template, train, val)


@pytest.fixture(scope="module")
def frozen() -> FrozenCLIP:
    return FrozenCLIP(load_clip(), load_processor(), "demo")


def of_classes(images: LabelledImages, labels: list[int]) -> LabelledImages:
    """Only the training images of some classes, for validation none."""
    kept = images.train.filter(lambda label: label in labels, input_columns="label")
    return replace(images, train=kept, val=images.val.select([]))


@torch.no_grad()
def clip_logits(frozen: FrozenCLIP, images, texts: list[str]) -> np.ndarray:
    """What Hugging Face's own CLIP says."""
    pictures = [image.convert("RGB") for image in images["image"]]
    inputs = frozen.processor(text=texts, images=pictures, return_tensors="pt", padding=True)
    return frozen.model(**inputs).logits_per_image.numpy()


@torch.no_grad()
def clip_text_features(frozen: FrozenCLIP, texts: list[str]) -> torch.Tensor:
    inputs = frozen.processor.tokenizer(texts, return_tensors="pt", padding=True)
    return frozen.model.get_text_features(**inputs).pooler_output


def test_templates_are_clips_eighty_and_seven_of_them():
    everything, selection = imagenet_templates(), imagenet_templates(selection=True)
    assert len(everything) == len(set(everything)) == 80
    assert len(selection) == 7
    assert set(selection) < set(everything)
    assert all(template.count("{}") == 1 for template in everything)
    assert (everything[0], everything[-1]) == ("a bad photo of a {}.", "a tattoo of the {}.")
    assert (selection[0], selection[-1]) == ("itap of a {}.", "a photo of the small {}.")
    everything.clear()
    assert len(imagenet_templates()) == 80


def test_text_features_are_clips_own(tokenizer):
    size = {"height": 16, "width": 16}
    processor = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size), tokenizer)
    frozen = FrozenCLIP(make_clip(), processor, "tiny")
    features = text_features(frozen, ["maine_coon", "kite (bird of prey)"], ["a photo of a {}, a type of pet."])
    texts = ["a photo of a maine coon, a type of pet.", "a photo of a kite (bird of prey), a type of pet."]
    torch.testing.assert_close(features, clip_text_features(frozen, texts), atol=1e-4, rtol=0)


def test_zero_shot_logits_are_clips_own(frozen, images, test_images, tmp_path):
    classifier = ZeroShot().fit(frozen, images, 1, tmp_path)
    expected = clip_logits(frozen, test_images, [f"a photo of the digit {name}." for name in images.class_names])
    logits = classifier.logits(test_images, images.class_names)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_zero_shot_takes_any_classes(frozen, images, test_images, tmp_path):
    logits = ZeroShot().fit(frozen, images, 1, tmp_path).logits(test_images, NEW_NAMES)
    expected = clip_logits(frozen, test_images, [f"a photo of the digit {name}." for name in NEW_NAMES])
    np.testing.assert_allclose(logits, expected, atol=1e-3)


@pytest.mark.parametrize(
    "options, num_templates",
    [({}, 8), ({"all_templates": True}, 81), ({"with_own_template": False}, 7)],
)
def test_ensemble_averages_the_templates(frozen, images, test_images, tmp_path, options, num_templates):
    own = images.zero_shot_template
    templates = imagenet_templates(selection=not options.get("all_templates", False))
    templates += [own] if options.get("with_own_template", True) else []
    assert len(templates) == num_templates
    total = torch.zeros(len(images.class_names), 128)
    for template in templates:
        total += F.normalize(clip_text_features(frozen, [template.replace("{}", name) for name in images.class_names]))
    expected = text_logits(frozen, frozen.image_embeds(test_images), total / num_templates)
    classifier = PromptEnsemble(**options).fit(frozen, images, 1, tmp_path)
    np.testing.assert_allclose(classifier.logits(test_images, images.class_names), expected, atol=1e-3)


def test_ensemble_counts_a_template_once(frozen, images, tmp_path):
    images = replace(images, zero_shot_template="a photo of a {}.")
    assert len(PromptEnsemble(all_templates=True).fit(frozen, images, 1, tmp_path).templates) == 80
    assert len(PromptEnsemble().fit(frozen, images, 1, tmp_path).templates) == 8


@pytest.mark.parametrize("data", ["imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"])
def test_the_ensemble_of_imagenet_and_its_variants_is_imagenets_seven(frozen, images, tmp_path, data):
    """Nothing of the template "a photo of a {}." is added to them."""
    assert data in COOP_LAYOUTS
    images = replace(images, zero_shot_template="a photo of a {}.", data=data)
    templates = PromptEnsemble().fit(frozen, images, 1, tmp_path).templates
    assert templates == imagenet_templates(selection=True)
    assert len(templates) == 7


def test_hand_written_prompts_are_each_datasets_own(frozen, images, tmp_path):
    """What was learned from one dataset and asked for another's classes takes that one's template."""
    own, other = images.zero_shot_template, "a drawing of a {}."
    methods = [ZeroShot(), TextBias(num_epochs=1), TextTransform(num_epochs=1), ImageEncoderFineTuning(num_epochs=1)]
    for method in methods:
        classifier = method.fit(frozen, images, 1, tmp_path / method.key)
        assert classifier.templates == [own]
        assert classifier.for_data("drawings", other).templates == [other]
        assert classifier.for_data("drawings", other).change is classifier.change
        assert classifier.for_data("drawings", other).clip is classifier.clip
    ensemble = PromptEnsemble().fit(frozen, images, 1, tmp_path)
    assert ensemble.for_data("drawings", other).templates == [*imagenet_templates(selection=True), other]
    assert ensemble.for_data("imagenet_a", "a photo of a {}.").templates == imagenet_templates(selection=True)
    only = PromptEnsemble(with_own_template=False).fit(frozen, images, 1, tmp_path)
    assert only.for_data("drawings", other).templates == imagenet_templates(selection=True)


def slow_search(train, val, num_steps: int) -> float:
    """The original's search as it was written: everything fitted anew, on a line of C and not of exponents."""

    def accuracy(strength: float) -> float:
        return (LogisticRegression(C=strength, max_iter=1000).fit(*train).predict(val[0]) == val[1]).mean()

    tried = [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6]
    peak = tried[int(np.argmax([accuracy(strength) for strength in tried]))]
    left, right = peak / 10, peak * 10
    for _ in range(num_steps):
        worth_left, worth_right = accuracy(left), accuracy(right)
        chosen = right if worth_left < worth_right else left
        middle = np.sqrt(left * right)
        left, right = (middle, right) if worth_left < worth_right else (left, middle)
    return chosen


def noisy_points(seed: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 12)
    return np.eye(3)[labels] + spread * generator.normal(size=(36, 3)), labels


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(4))
def test_search_finds_what_the_original_finds(seed):
    train, val = noisy_points(seed, 1.0), noisy_points(seed + 10, 1.0)
    probe = LinearProbe()
    exponent = search_exponent(lambda tried: probe.regression(*train, tried).score(*val), 8)
    assert 10**exponent == pytest.approx(slow_search(train, val, 8))


@pytest.mark.parametrize("best", [5.3, -0.2, -6.5])
def test_search_approaches_a_single_peak(best):
    assert search_exponent(lambda exponent: -abs(exponent - best), 8) == pytest.approx(best, abs=2 / 2**7)


def test_search_prefers_the_first_and_then_the_lower():
    """With separable data everything is right: the largest C first, then always the left end."""
    assert search_exponent(lambda exponent: 1.0, 8) == 5


def test_search_fits_no_strength_twice():
    asked = []
    search_exponent(lambda exponent: asked.append(exponent) or -abs(exponent - 0.3), 8)
    assert len(asked) == len(set(asked)) == 7 + 2 + 6


def test_linear_probe_is_a_regression_on_raw_features(frozen, images, test_images, tmp_path):
    classifier = LinearProbe().fit(frozen, images, 1, tmp_path)
    train, val = ((raw_features(frozen, part), np.array(part["label"])) for part in (images.train, images.val))
    with torch.no_grad():
        pictures = frozen.processor(images=list(images.train["image"]), return_tensors="pt")
        expected_features = frozen.model.get_image_features(**pictures).pooler_output
    np.testing.assert_allclose(train[0], expected_features, atol=1e-5)
    chosen = classifier.probe.C
    assert chosen == pytest.approx(slow_search(train, val, 8))
    expected = LogisticRegression(C=chosen, max_iter=1000).fit(*train)
    logits = classifier.logits(test_images, images.class_names)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected.decision_function(raw_features(frozen, test_images)), rtol=1e-5)
    assert (logits.argmax(1) == np.array(test_images["label"])).mean() > 0.3


def test_linear_probe_searches_on_training_images_where_there_is_no_other(frozen, images, tmp_path):
    images = replace(images, val=images.val.select([]))
    chosen = LinearProbe().fit(frozen, images, 1, tmp_path).probe.C
    features, labels = raw_features(frozen, images.train), np.array(images.train["label"])
    accuracies = {
        exponent: LinearProbe().cross_validate(features, labels, exponent, seed=1)
        for exponent in (*range(-6, 7, 2), np.log10(chosen))
    }
    assert max(accuracies.values()) - accuracies[np.log10(chosen)] <= 0.1
    again = LinearProbe().fit(frozen, images, 1, tmp_path).probe.C
    assert again == chosen


def test_cross_validation_leaves_out_what_it_predicts():
    labels = np.repeat([0, 1], 8)
    noise = np.random.default_rng(0).normal(size=(16, 200))
    assert LinearProbe().regression(noise, labels, 6).score(noise, labels) == 1
    assert LinearProbe().cross_validate(noise, labels, 6, seed=1) < 0.9
    assert LinearProbe().cross_validate(np.eye(2)[labels], labels, 6, seed=1) == 1


def test_linear_probe_of_one_shot_without_validation_takes_clips_strength(frozen, images, tmp_path):
    one_shot = replace(images, train=images.train.select(range(0, 20, 2)), val=images.val.select([]))
    with pytest.warns(UserWarning, match=r"linear probe: no images to choose its strength C by, so it is 0\.316"):
        chosen = LinearProbe().fit(frozen, one_shot, 1, tmp_path).probe.C
    assert chosen == pytest.approx(0.316)


def test_linear_probe_of_two_classes_has_two_logits(frozen, images, test_images, tmp_path):
    classifier = LinearProbe().fit(frozen, of_classes(images, [3, 7]), 1, tmp_path)
    logits = classifier.logits(test_images, images.class_names)
    assert logits.shape == (40, 10)
    chances = torch.from_numpy(logits).softmax(-1).numpy()
    expected = classifier.probe.predict_proba(raw_features(frozen, test_images))
    np.testing.assert_allclose(chances[:, [3, 7]], expected, atol=1e-5)
    assert (np.delete(chances, [3, 7], axis=1) == 0).all()


def test_linear_probe_is_scored_where_a_class_has_no_training_image(frozen, images, test_images, tmp_path):
    classifier = LinearProbe().fit(frozen, of_classes(images, [0, 3, 7]), 1, tmp_path)
    measured = scores(classifier.logits(test_images, images.class_names), test_images["label"])
    predicted = classifier.probe.predict(raw_features(frozen, test_images))
    assert measured["accuracy"] == (predicted == np.array(test_images["label"])).mean() > 0


def test_linear_probe_refuses_other_classes_and_takes_some_of_its_own(frozen, images, test_images, tmp_path):
    classifier = LinearProbe().fit(frozen, images, 1, tmp_path)
    with pytest.raises(ValueError, match=r"A linear probe is for the classes that it was learned from; 'circle'"):
        classifier.logits(test_images, NEW_NAMES)
    logits = classifier.logits(test_images, images.class_names)
    np.testing.assert_array_equal(classifier.logits(test_images, ["seven", "two"]), logits[:, [7, 2]])


def test_linear_probe_needs_two_classes(frozen, images, tmp_path):
    with pytest.raises(ValueError, match=r"training images of two classes or more, got 1\."):
        LinearProbe().fit(frozen, of_classes(images, [4]), 1, tmp_path)
    with pytest.raises(ValueError, match=r"training images of two classes or more, got 0\."):
        LinearProbe().fit(frozen, of_classes(images, []), 1, tmp_path)


def test_linear_probe_saves_its_weights(frozen, images, test_images, tmp_path):
    classifier = LinearProbe().fit(frozen, images, 1, tmp_path)
    classifier.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "linear_probe.safetensors")
    scores = raw_features(frozen, test_images) @ saved["coef"].T + saved["intercept"]
    np.testing.assert_allclose(scores, classifier.logits(test_images, images.class_names), rtol=1e-4)
    np.testing.assert_array_equal(saved["classes"], range(10))


@pytest.mark.parametrize("method_class", [TextTransform, TextBias])
def test_a_change_of_text_features_starts_at_zero_shot(frozen, images, test_images, tmp_path, method_class):
    features = text_features(frozen, images.class_names, [images.zero_shot_template])
    assert torch.equal(method_class().start(128)(features), features)


def training_loss(classifier, images: LabelledImages) -> float:
    logits = torch.from_numpy(classifier.logits(images.train, images.class_names))
    return F.cross_entropy(logits, torch.tensor(images.train["label"])).item()


@every_gradient_method
def test_learning_lowers_the_training_loss(frozen, images, tmp_path, method_class):
    rates = {TextTransform: 0.02, TextBias: 0.5, CLIPAdapter: 0.2, TipAdapterF: 0.001, ImageEncoderFineTuning: 1e-4}
    rate, num_epochs = rates.get(method_class, 2e-3), 8 if method_class in ON_PIXELS else 20
    before = training_loss(ZeroShot().fit(frozen, images, 1, tmp_path), images)
    learned = method_class(rate, num_epochs=num_epochs).fit(frozen, images, 1, tmp_path)
    assert training_loss(learned, images) < before - 0.02


@pytest.mark.parametrize("method_class", [TextTransform, TextBias])
def test_text_changes_follow_the_papers_recipe(frozen, images, tmp_path, method_class):
    """All images in one batch, so that a hand-written loop has nothing random."""
    learned = method_class(0.02, num_epochs=4).fit(frozen, images, 1, tmp_path)
    features = text_features(frozen, images.class_names, [images.zero_shot_template])
    embeds, labels = frozen.image_embeds(images.train), torch.tensor(images.train["label"])
    change = torch.eye(128) if method_class is TextTransform else torch.zeros(128)
    velocity = torch.zeros_like(change)
    for rate in (1e-5, 0.02, 0.01 * (1 + np.cos(np.pi / 4)), 0.01 * (1 + np.cos(np.pi / 2))):
        change.requires_grad_(True)
        texts = features @ change.T if method_class is TextTransform else features + change
        logits = frozen.model.logit_scale.detach().exp() * embeds @ (texts / texts.norm(dim=-1, keepdim=True)).T
        [gradient] = torch.autograd.grad(F.cross_entropy(logits, labels), change)
        velocity = 0.9 * velocity + gradient + 5e-4 * change.detach()
        change = change.detach() - rate * velocity
    [parameter] = learned.change.parameters()
    torch.testing.assert_close(parameter.detach(), change, atol=1e-5, rtol=1e-4)


@every_gradient_method
def test_the_shared_model_is_left_as_it_was(images, test_images, tmp_path, method_class):
    frozen = FrozenCLIP(load_clip(), load_processor(), "demo")
    before, kind = deepcopy(frozen.model.state_dict()), type(frozen.model)
    logits = clip_logits(frozen, test_images, images.class_names)
    classifier = method_class(0.01, num_epochs=2).fit(frozen, images, 1, tmp_path)
    classifier.logits(test_images, NEW_NAMES)
    assert type(frozen.model) is kind
    assert not frozen.model.training
    assert all(weight.requires_grad and weight.grad is None for weight in frozen.model.parameters())
    after = frozen.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert np.array_equal(clip_logits(frozen, test_images, images.class_names), logits)


def test_only_the_image_encoder_changes(frozen, images, tmp_path):
    tuned = ImageEncoderFineTuning(1e-3, num_epochs=2).fit(frozen, images, 1, tmp_path).clip.model
    changed = {
        name.split(".")[0]
        for name, weight in tuned.state_dict().items()
        if not torch.equal(weight, frozen.model.state_dict()[name])
    }
    assert changed == {"vision_model", "visual_projection"}
    assert not any(weight.requires_grad for weight in tuned.parameters())


def test_pixels_are_what_the_processor_gives_or_random_parts(frozen, images):
    indices = torch.tensor([3, 1])
    plain = training_pixels(frozen, images.train, seed=1)
    pictures = [images.train[index]["image"] for index in (3, 1)]
    expected = frozen.processor(images=pictures, return_tensors="pt")["pixel_values"]
    assert torch.equal(plain(indices, 0)["pixel_values"], expected)
    augmented = training_pixels(frozen, images.train, seed=1, augment=True)
    first, second, again = (augmented(indices, epoch)["pixel_values"] for epoch in (0, 1, 0))
    assert first.shape == expected.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@every_gradient_method
def test_what_is_learned_follows_from_the_seed(frozen, images, test_images, tmp_path, method_class):
    def logits(seed: int, folder: str, disturbance: int) -> np.ndarray:
        torch.manual_seed(disturbance)
        method = method_class(0.01, num_epochs=2, batch_size=6)
        state = torch.get_rng_state()
        learned = method.fit(frozen, images, seed, tmp_path / folder)
        assert torch.equal(torch.get_rng_state(), state)
        return learned.logits(test_images, images.class_names)

    first = logits(1, "a", 5)
    assert np.array_equal(logits(1, "b", 6), first)
    assert not np.array_equal(logits(2, "c", 5), first)


@pytest.mark.parametrize("method_class", [each for each in GRADIENT_METHODS if each is not TwoStage])
def test_a_killed_training_goes_on(frozen, images, test_images, tmp_path, monkeypatch, method_class):
    method = method_class(0.01, num_epochs=4, batch_size=10)
    whole = method.fit(frozen, images, 1, tmp_path / "whole").logits(test_images, images.class_names)
    epochs = []

    def train_until_killed(loss_of, *args):
        def loss(indices, epoch):
            epochs.append(epoch)
            if len(epochs) == 6:  # in the third epoch, of two batches each
                raise KeyboardInterrupt("killed")
            return loss_of(indices, epoch)

        training_loop.train(loss, *args)

    monkeypatch.setattr(sys.modules[method_class.__module__], "train", train_until_killed)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        method.fit(frozen, images, 1, tmp_path / "killed")
    resumed = method.fit(frozen, images, 1, tmp_path / "killed").logits(test_images, images.class_names)
    assert epochs == [0, 0, 1, 1, 2, 2, 2, 2, 3, 3]
    assert np.array_equal(resumed, whole)
    method.fit(frozen, images, 1, tmp_path / "killed")
    assert len(epochs) == 10


@pytest.mark.parametrize("method_class", [TextTransform, TextBias])
def test_what_is_learned_takes_new_classes_and_is_saved(frozen, images, test_images, tmp_path, method_class):
    classifier = method_class(0.02, num_epochs=3).fit(frozen, images, 1, tmp_path)
    classifier.save(tmp_path / "saved")
    [tensor] = load_file(tmp_path / "saved" / "change.safetensors").values()
    features = text_features(frozen, NEW_NAMES, [images.zero_shot_template])
    changed = features @ torch.from_numpy(tensor).T if tensor.ndim == 2 else features + torch.from_numpy(tensor)
    expected = text_logits(frozen, frozen.image_embeds(test_images), changed)
    np.testing.assert_allclose(classifier.logits(test_images, NEW_NAMES), expected, atol=1e-3)


def test_zero_shot_saves_nothing(frozen, images, tmp_path):
    ZeroShot().fit(frozen, images, 1, tmp_path).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@every_gradient_method
def test_learning_needs_images(frozen, images, tmp_path, method_class):
    with pytest.raises(ValueError, match=f"'{method_class.name}' learns from labelled images, and there is no"):
        method_class().fit(frozen, of_classes(images, []), 1, tmp_path)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"learning_rate": 0.0}, r"`learning_rate` must be above 0 and finite, got 0\.0"),
        ({"num_epochs": 0}, r"`num_epochs` must be above 0 and finite, got 0"),
        ({"batch_size": -1}, r"`batch_size` must be above 0 and finite, got -1"),
    ],
)
def test_wrong_numbers_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TextBias(**wrong)


def test_epochs_are_the_papers():
    assert TextBias().make_recipe(num_shots=16) == Recipe(200, 32)
    assert TextBias(data="imagenet").make_recipe(num_shots=16) == Recipe(50, 32)
    assert ImageEncoderFineTuning(num_epochs=3, batch_size=8).make_recipe(num_shots=1) == Recipe(3, 8, 1e-5)


def test_the_list_of_baselines():
    methods = {method.key: method for method in all_baselines(learning_rate=0.02, data="imagenet")}
    assert list(methods) == [
        "zero-shot",
        "prompt-ensemble",
        "prompt-ensemble-80",
        "tip-adapter",
        "gda",
        "text-bias",
        "text-transform",
        "clip-adapter",
        "linear-probe",
        "tip-adapter-f",
        "layer-norm",
        "two-stage",
        "lora",
        "image-encoder",
    ]
    assert {key for key, method in methods.items() if not method.learns} == set(list(methods)[:3])
    assert {key for key, method in methods.items() if not method.takes_new_classes} == {"linear-probe", "gda"}
    assert methods["prompt-ensemble-80"].settings() == {"num_templates": 80, "with_own_template": True}
    assert methods["text-bias"].settings() == {"learning_rate": 0.02, "num_epochs": None, "batch_size": 32}
    assert methods["image-encoder"].settings()["learning_rate"] == 1e-5
    assert methods["image-encoder"].settings()["batch_size"] == 32
    assert methods["clip-adapter"].settings()["learning_rate"] == 0.02
    for key in ("lora", "layer-norm", "two-stage"):
        assert methods[key].settings()["learning_rate"] == 2e-4
        assert methods[key].changes_vision
    assert methods["tip-adapter-f"].settings()["learning_rate"] == 0.001
    assert methods["tip-adapter-f"].settings()["batch_size"] == 256
    for key in ("text-transform", "clip-adapter", "tip-adapter", "tip-adapter-f", "gda"):
        assert methods[key].data == "imagenet"


@pytest.mark.parametrize("method_class", [TextTransform, TextBias])
def test_views_are_learned_from_one_in_each_epoch(method_class, frozen, images, test_images, tmp_path):
    method = method_class(learning_rate=0.5, num_epochs=3, views=2, flip=False)
    embeds_of = method.training_embeds(frozen, images, seed=1)
    augmented = AugmentedImages(images.train, frozen.processor.image_processor, seed=1, flip=False)
    chosen = torch.tensor([3, 0, 11])
    for epoch in range(2):
        augmented.set_epoch(epoch)
        pixel_values = torch.stack([augmented[index]["pixel_values"] for index in chosen.tolist()])
        with torch.no_grad():
            expected = F.normalize(frozen.model.get_image_features(pixel_values).pooler_output, dim=-1)
        torch.testing.assert_close(embeds_of(chosen, epoch), expected, atol=1e-5, rtol=0)
    logits = [
        each.fit(frozen, images, 1, tmp_path / str(number)).logits(test_images, images.class_names)
        for number, each in enumerate((method, replace(method, views=None), replace(method, views=1)))
    ]
    assert min(np.abs(logits[0] - other).max() for other in logits[1:]) > 1e-2


def test_the_list_passes_the_views_on():
    by_key = {method.key: method for method in all_baselines(views=4, flip=False, num_workers=2)}
    for key in ("text-bias", "text-transform", "clip-adapter", "tip-adapter", "tip-adapter-f", "gda"):
        assert (by_key[key].views, by_key[key].num_workers) == (4, 2)
        assert by_key[key].settings().items() >= {"views": 4, "flip": False}.items()
        assert "num_workers" not in by_key[key].settings()
    assert by_key["linear-probe"].views is None
    assert by_key["image-encoder"].changes_vision
    with pytest.raises(ValueError, match="`views` must be 1 or more"):
        all_baselines(views=0)


@pytest.mark.parametrize(
    ("key", "rate"),
    [
        ("text-bias", 0.002),
        ("text-transform", 0.002),
        ("clip-adapter", 0.002),
        ("tip-adapter-f", 0.001),
        ("image-encoder", 1e-5),
    ],
)
def test_the_list_passes_the_recipe_on(key, rate):
    methods = {method.key: method for method in all_baselines(num_epochs=3, batch_size=8)}
    assert methods[key].make_recipe(num_shots=1) == Recipe(3, 8, rate, keep_last=key == "tip-adapter-f")
    settings = methods[key].settings()
    assert (settings["num_epochs"], settings["batch_size"]) == (3, 8)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, {"augment": False}),
        ({"flip": False}, {"augment": False}),
        ({"augment": True}, {"augment": True, "flip": True}),
        ({"augment": True, "flip": False}, {"augment": True, "flip": False}),
    ],
)
def test_the_list_passes_the_augmentation_on(given, expected):
    methods = {method.key: method for method in all_baselines(**given)}
    for each in (methods[key] for key in ("image-encoder", "lora", "layer-norm", "two-stage")):
        assert (each.augment, each.flip) == (given.get("augment", False), given.get("flip", True))
        settings = each.settings()
        assert {name: settings[name] for name in ("augment", "flip") if name in settings} == expected


@pytest.mark.parametrize("key", ["lora", "layer-norm", "two-stage"])
def test_the_list_passes_the_recipe_of_towers_on(key):
    methods = {each.key: each for each in all_baselines(num_epochs=3, batch_size=8, tower_learning_rate=0.01)}
    settings = methods[key].settings()
    assert [settings[name] for name in ("num_epochs", "batch_size", "learning_rate")] == [3, 8, 0.01]


def test_the_list_refuses_wrong_numbers():
    with pytest.raises(ValueError, match="`batch_size` must be above 0 and finite, got 0"):
        all_baselines(batch_size=0)
