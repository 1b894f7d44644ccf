"""CLIP-Adapter against its own code's numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from few_digits import frozen_clip
from golden_cases import LOGITS, assert_first_gradient, golden_case, golden_model
from golden_images import golden_frozen, numbered_images
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR

from peft_coop.demo import load_task
from peft_coop.evaluation import CLIPAdapter, LabelledImages, ZeroShot
from peft_coop.evaluation.baselines import clip_adapter
from peft_coop.evaluation.baselines.clip_adapter import AdaptedClassifier, FeatureAdapter
from peft_coop.evaluation.frozen_clip import FrozenCLIP
from peft_coop.recipes import Recipe

WEIGHTS = ("fc.0.weight", "fc.2.weight")

every_case = pytest.mark.parametrize("key", ["case0", "case1"])


def started(case, when: str = "init") -> FeatureAdapter:
    """The case's adapter; a strict loading, so that the names are the original's."""
    adapter = FeatureAdapter(40, case.cases["ratio"], case.cases["reduction"])
    adapter.load_state_dict({name: case.tensors[f"{when}.{name}"] for name in WEIGHTS})
    return adapter


@every_case
def test_logits_and_gradients_are_its_own_codes(key, tokenizer):
    """In float64: nothing is off but the rounding of the golden numbers."""
    case = golden_case("clip_adapter", key)
    model, adapter = golden_model(case).double(), started(case).double()
    names = [case.cases["template"].format(name.replace("_", " ")) for name in case.class_names]
    with torch.no_grad():
        features = model.get_image_features(case.all["pixel_values"].double()).pooler_output
        texts = model.get_text_features(**tokenizer(names, return_tensors="pt", padding=True)).pooler_output
    adapted = F.normalize(adapter(features), dim=-1)
    logits = model.logit_scale.detach().exp() * adapted @ F.normalize(texts, dim=-1).T
    torch.testing.assert_close(logits.float(), case.tensors["logits"], **LOGITS)
    F.cross_entropy(logits, case.all["labels"]).backward()
    for name, weight in adapter.named_parameters():
        assert_first_gradient(weight.grad, case.tensors[f"grad.{name}"])


@every_case
def test_training_and_new_classes_are_its_own_codes(key, tokenizer, tmp_path, monkeypatch):
    """From images to logits; the golden training has one learning rate for its ten steps."""
    case = golden_case("clip_adapter", key)
    frozen, [numbers] = golden_frozen(case, tokenizer, case.all["pixel_values"])
    train = numbered_images(numbers, case.all["labels"], case.class_names)
    images = LabelledImages(case.class_names, case.cases["template"], train, train.select([]))
    recipe, losses = case.cases["optimizer"], []

    def constant(parameters, steps_per_epoch, num_epochs, base):
        settings = {name: recipe[name] for name in ("momentum", "weight_decay")}
        optimizer = torch.optim.SGD(list(parameters), lr=base, **settings)
        return optimizer, LambdaLR(optimizer, lambda step: 1.0)

    def noted_train(loss_of, *args):
        train_as_it_is(lambda *given: losses.append(loss_of(*given)) or losses[-1], *args)

    train_as_it_is = clip_adapter.train
    monkeypatch.setattr(clip_adapter, "train", noted_train)
    monkeypatch.setattr(clip_adapter, "make_optimizer", constant)
    monkeypatch.setattr(CLIPAdapter, "start", lambda self, width, seed: started(case))
    adapted = CLIPAdapter(recipe["lr"], recipe["steps"]).fit(frozen, images, 1, tmp_path)
    torch.testing.assert_close(torch.stack(losses).detach(), case.tensors["losses"], atol=1e-5, rtol=0)
    for name, weight in adapted.adapter.state_dict().items():
        torch.testing.assert_close(weight, case.tensors[f"final.{name}"], atol=1e-6, rtol=0)
    for names, kept in ((case.class_names, "final.logits"), (case.new_class_names, "final.logits_new")):
        logits = torch.from_numpy(adapted.logits(train, names))
        torch.testing.assert_close(logits, case.tensors[kept], atol=4e-5, rtol=0)


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    task = load_task("digits")
    train = task.train.select([task.train["label"].index(digit) for digit in range(10)])
    return LabelledImages(task.class_names, task.zero_shot_template, train, train.select([]))


@pytest.fixture(scope="module")
def frozen() -> FrozenCLIP:
    return frozen_clip()


def test_an_adapter_that_adds_nothing_is_zero_shot(frozen, images, tmp_path):
    """The mix with nothing does not change a direction."""
    adapter = FeatureAdapter(128)
    adapter.fc[2].weight.data.zero_()
    adapted = AdaptedClassifier(frozen, images.zero_shot_template, adapter)
    expected = ZeroShot().fit(frozen, images, 1, tmp_path)
    for names in (images.class_names, ["circle", "square"]):
        np.testing.assert_allclose(adapted.logits(images.train, names), expected.logits(images.train, names), atol=1e-4)


def test_the_start_follows_from_the_seed():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, again, other = (CLIPAdapter().start(24, seed).fc[0].weight for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (6, 24)
    assert CLIPAdapter(reduction=100).start(24, 1).fc[2].weight.shape == (24, 1)


def test_the_recipe_is_coops():
    assert CLIPAdapter().make_recipe(num_shots=16) == Recipe(200, 32)
    assert CLIPAdapter(0.02, 3, 8).make_recipe(num_shots=16) == Recipe(3, 8, 0.02)


def test_settings_tell_runs_apart():
    ways = [{}, {"ratio": 0.5}, {"reduction": 2}, {"views": 2}, {"views": 2, "flip": False}]
    told = [str(CLIPAdapter(**way).settings()) for way in ways]
    assert len(set(told)) == len(ways)
    assert CLIPAdapter(flip=False, num_workers=2, data="dtd").settings() == CLIPAdapter().settings()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ratio": 0.0}, r"`ratio` must be above 0 and at most 1, got 0\.0"),
        ({"ratio": 1.5}, r"`ratio` must be above 0 and at most 1, got 1\.5"),
        ({"reduction": 0}, r"`reduction` must be 1 or more, got 0"),
        ({"num_epochs": 0}, r"`num_epochs` must be above 0 and finite, got 0"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CLIPAdapter(**wrong)


def test_what_is_learned_is_saved_under_the_originals_names(frozen, images, tmp_path):
    adapted = CLIPAdapter(0.02, 2).fit(frozen, images, 1, tmp_path)
    adapted.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "clip_adapter.safetensors")
    assert set(saved) == set(WEIGHTS)
    assert torch.equal(saved["fc.0.weight"], adapted.adapter.fc[0].weight)
    assert not torch.equal(saved["fc.0.weight"], CLIPAdapter().start(128, 1).fc[0].weight)


def test_training_on_views_is_another_one(frozen, images, tmp_path):
    ways = [{}, {"views": 2}, {"views": 2, "flip": False}]
    logits = [
        CLIPAdapter(0.02, 2, **way).fit(frozen, images, 1, tmp_path / str(way)).logits(images.train, ["six", "two"])
        for way in ways
    ]
    assert not np.array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[1], logits[2])
