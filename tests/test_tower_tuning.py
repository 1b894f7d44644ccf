"""LoRA, LayerNorm tuning and the two stages: what they train, and one step beside a slow, obvious version."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from peft import PeftModel
from PIL import Image as Pictures
from safetensors import safe_open
from tiny_families import FAMILIES
from torch import nn

from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation import LabelledImages, LayerNormTuning, LoRATuning, TwoStage, ZeroShot
from peft_coop.evaluation.baselines import tower_tuning, training_loop, training_pixels
from peft_coop.evaluation.frozen_clip import FrozenCLIP
from peft_coop.recipes import Recipe
from peft_coop.towers import FAMILIES as ROWS
from peft_coop.towers import attention_projections, layer_norms

NAMES = ["cat", "big red dog", "ship"]
NEW_NAMES = ["bird", "ship", "tree"]
TEMPLATE = "a photo of a {}."
METHODS = [LoRATuning, LayerNormTuning, TwoStage]
SUPPORTED = {key: family for key, family in FAMILIES.items() if family.model_type in ROWS}
TUNED = {key: family for key, family in SUPPORTED.items() if key != "align"}
NAFLEX = {"patch_size": 8, "max_num_patches": 6}

every_method = pytest.mark.parametrize("method_class", METHODS)


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    """Two of each class: a colour with a darker stripe."""
    pictures = [Pictures.new("RGB", (20, 28), colour) for colour in ("red", "tomato", "lime", "green", "blue", "cyan")]
    for number, picture in enumerate(pictures):
        picture.paste("black", (2 * number, 0, 2 * number + 4, 28))
    rows = {"image": pictures, "label": [0, 0, 1, 1, 2, 2]}
    train = Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=NAMES)}))
    return LabelledImages(NAMES, TEMPLATE, train, train.select([]))


def make_frozen(key: str, folder, dtype: torch.dtype = torch.float32) -> FrozenCLIP:
    family = FAMILIES[key]
    family.make_tokenizer(folder)
    size = {"height": 16, "width": 16}
    processor = transformers.Siglip2ImageProcessor(**NAFLEX) if family.naflex else None
    processor = processor or transformers.ViTImageProcessor(size=size)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = family.make_model().to(dtype)
    return FrozenCLIP(model, SimpleNamespace(image_processor=processor, tokenizer=tokenizer), key)


@pytest.fixture
def frozen(tmp_path) -> FrozenCLIP:
    return make_frozen("clip", tmp_path / "tokenizer", torch.float64)


def pixels(frozen: FrozenCLIP, images: LabelledImages) -> dict[str, torch.Tensor]:
    inputs = frozen.processor.image_processor(list(images.train["image"]), return_tensors="pt")
    dtype = next(frozen.model.parameters()).dtype
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in inputs.items()}


def own_logits(key: str, frozen: FrozenCLIP, model: nn.Module, images: LabelledImages, names: list[str]):
    """What the family's own forward says, of texts that its own tokenizer has read."""
    texts = [TEMPLATE.format(name) for name in names]
    return FAMILIES[key].own_logits(model, frozen.processor.tokenizer, pixels(frozen, images), texts)


def changed(before: nn.Module, tuned: nn.Module) -> set[str]:
    """Names in the base model of what a tuned one computes otherwise with: merged weights that differ."""
    merged = deepcopy(tuned).merge_and_unload().state_dict()
    own = before.state_dict()
    assert merged.keys() == own.keys()
    return {name for name, weight in own.items() if not torch.equal(weight.to(merged[name]), merged[name])}


@pytest.mark.parametrize("key", TUNED)
@every_method
def test_they_train_what_they_should_in_every_family(key, method_class, images, tmp_path):
    """And the numbers are those of the family's own forward with the tuned weights."""
    frozen = make_frozen(key, tmp_path / "tokenizer")
    before = deepcopy(frozen.model)
    method = method_class(learning_rate=0.01, num_epochs=3)
    learned = method.fit(frozen, images, 1, tmp_path / "run")
    assert all(torch.equal(weight, frozen.model.state_dict()[name]) for name, weight in before.state_dict().items())
    modules = attention_projections(before) if method_class is LoRATuning else layer_norms(before)
    expected = {f"{name}.weight" for name in modules}
    if method_class is not LoRATuning:
        expected |= {f"{name}.bias" for name in modules if f"{name}.bias" in before.state_dict()}
    merged = deepcopy(learned.model).merge_and_unload()
    assert changed(before, learned.model) == expected - unused(before, frozen, images, expected)
    assert not any(weight.requires_grad for weight in learned.model.parameters())
    assert not any(module.training for module in learned.model.modules())
    logits = own_logits(key, frozen, merged, images, NEW_NAMES)
    if method_class is TwoStage:  # "ship" was learned
        assert np.abs(learned.logits(images.train, NEW_NAMES)[:, 1] - logits[:, 1].numpy()).max() > 1e-3
        columns = [0, 2]
    else:
        columns = [0, 1, 2]
    found = torch.from_numpy(learned.logits(images.train, NEW_NAMES))
    torch.testing.assert_close(found[:, columns], logits[:, columns].float(), atol=5e-3, rtol=1e-4)


def unused(model: nn.Module, frozen: FrozenCLIP, images: LabelledImages, names: set[str]) -> set[str]:
    """Weights that no logit depends on."""
    model = deepcopy(model).requires_grad_(True)
    texts = FAMILIES[frozen.name].text_inputs(frozen.processor.tokenizer, [TEMPLATE.format(name) for name in NAMES])
    images_in = pixels(frozen, images)
    (model.get_text_features(**texts).pooler_output.square().sum()
     + model.get_image_features(**images_in).pooler_output.square().sum()).backward()  # fmt: skip
    return {name for name, weight in model.named_parameters() if name in names and weight.grad is None}


@every_method
def test_a_vision_tower_without_what_they_tune_is_refused(method_class, images, tmp_path):
    frozen = make_frozen("align", tmp_path / "tokenizer")
    what = "linear layers of queries, keys and values" if method_class is LoRATuning else "LayerNorm or RMSNorm"
    message = f"Both towers must have {what}.*: the vision tower AlignVisionModel of AlignModel has none"
    with pytest.raises(ValueError, match=message):
        method_class(num_epochs=1).fit(frozen, images, 1, tmp_path / "run")


def test_the_modules_of_clip():
    model = FAMILIES["clip"].make_model()
    layers = [f"{tower}_model.encoder.layers.{layer}" for tower in ("text", "vision") for layer in (0, 1)]
    assert set(attention_projections(model)) == {f"{layer}.self_attn.{name}_proj" for layer in layers for name in "qkv"}
    norms = {f"{layer}.layer_norm{number}" for layer in layers for number in (1, 2)}
    ends = {"text_model.final_layer_norm", "vision_model.pre_layrnorm", "vision_model.post_layernorm"}
    assert set(layer_norms(model)) == norms | ends


def slow_step(frozen, images, model, weights) -> None:
    """One step of AdamW by hand: all images in a batch, the texts by the tower's own forward."""
    texts = frozen.processor.tokenizer([TEMPLATE.format(name) for name in NAMES], padding=True, return_tensors="pt")
    text = model.get_text_features(**texts).pooler_output
    image = model.get_image_features(**pixels(frozen, images)).pooler_output
    cosines = (image / image.norm(dim=-1, keepdim=True)) @ (text / text.norm(dim=-1, keepdim=True)).T
    chances = (frozen.model.logit_scale.detach().exp() * cosines).softmax(dim=-1)
    loss = -chances[torch.arange(6), torch.tensor([0, 0, 1, 1, 2, 2])].log().mean()
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.mul_(1 - 0.01 * 0.01)
            weight.sub_(0.01 * gradient / (gradient.abs() + 1e-8))  # the first step's means are the gradient itself


@pytest.mark.parametrize("method_class", [LoRATuning, LayerNormTuning])
def test_one_step_is_that_of_a_slow_obvious_version(method_class, frozen, images, tmp_path):
    method = method_class(learning_rate=0.01, num_epochs=1)
    if method_class is LoRATuning:
        method = replace(method, dropout=0.0, rank=3, alpha=5)
    learned = method.fit(frozen, images, 1, tmp_path / "run").model
    slow = deepcopy(frozen.model).requires_grad_(False)
    if method_class is LayerNormTuning:
        norms = [module for module in slow.modules() if isinstance(module, nn.LayerNorm)]
        weights = [weight.requires_grad_(True) for norm in norms for weight in norm.parameters()]
        slow_step(frozen, images, slow, weights)
    else:
        # B starts as zero, so that the first step changes it alone; A only decays.
        start = method.wrap(frozen, 1).state_dict()
        changes = {}
        for name in attention_projections(slow):
            path = f"base_model.model.{name}.lora_{{}}.default.weight"
            lower, upper = start[path.format("A")].clone(), start[path.format("B")].clone()
            assert lower.shape[0] == 3
            assert not upper.any()
            changes[name] = (lower, upper.requires_grad_(True))
        for name, (lower, upper) in changes.items():
            layer = slow.get_submodule(name)
            layer.forward = lambda x, own=layer, a=lower, b=upper: (
                F.linear(x, own.weight, own.bias) + 5 / 3**0.5 * x @ a.T @ b.T
            )
        slow_step(frozen, images, slow, [upper for _, upper in changes.values()])
        for name, (lower, upper) in changes.items():
            layer = slow.get_submodule(name)
            del layer.forward
            layer.weight.data += 5 / 3**0.5 * upper.detach() @ lower * (1 - 0.01 * 0.01)
    merged = learned.merge_and_unload().state_dict()
    for name, weight in slow.state_dict().items():
        torch.testing.assert_close(merged[name], weight, atol=1e-9, rtol=1e-9)
    assert any(not torch.equal(merged[name], weight) for name, weight in frozen.model.state_dict().items())


def test_the_second_stage_is_that_of_a_slow_obvious_version(frozen, images, tmp_path):
    """Two steps, of which the second has half the rate."""
    method = TwoStage(learning_rate=0.01, num_epochs=5)
    assert method.steps_of_stages(images) == (3, 2)
    learned = method.fit(frozen, images, 1, tmp_path / "run")
    model = deepcopy(learned.model).merge_and_unload()
    first = LayerNormTuning(learning_rate=0.01, num_epochs=3).fit(frozen, images, 1, tmp_path / "first")
    assert changed(model, first.model) == set()  # the first stage alone, and its towers are fixed in the second
    texts = frozen.processor.tokenizer([TEMPLATE.format(name) for name in NAMES], padding=True, return_tensors="pt")
    with torch.no_grad():
        classes = F.normalize(model.get_text_features(**texts).pooler_output, dim=-1)
        embeds = F.normalize(model.get_image_features(**pixels(frozen, images)).pooler_output, dim=-1)
    classes.requires_grad_(True)
    optimizer = torch.optim.AdamW([classes], 0.01, weight_decay=0.01)
    for rate in (0.01, 1e-6 + (0.01 - 1e-6) / 2):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        cosines = embeds @ (classes / classes.norm(dim=-1, keepdim=True)).T
        F.cross_entropy(model.logit_scale.exp() * cosines, torch.tensor([0, 0, 1, 1, 2, 2])).backward()
        optimizer.step()
    torch.testing.assert_close(learned.classes.double(), classes.detach(), atol=1e-5, rtol=0)
    cosines = embeds @ F.normalize(classes.detach(), dim=-1).T
    expected = model.logit_scale.exp() * cosines
    np.testing.assert_allclose(learned.logits(images.train, NAMES), expected, atol=1e-3)


def test_the_second_stage_with_random_crops_learns_from_others_in_every_epoch(frozen, images, tmp_path):
    method = TwoStage(learning_rate=0.01, num_epochs=4, augment=True)
    embeds_of = method.fixed_embeds(frozen, images, 1)
    every = torch.arange(6)
    first, second, again = (embeds_of(every, epoch) for epoch in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, atol=1e-6)
    assert not first.requires_grad
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(6).double())


def test_learned_classes_have_their_rows_and_others_their_texts(frozen, images, tmp_path):
    learned = TwoStage(learning_rate=0.01, num_epochs=4).fit(frozen, images, 1, tmp_path / "run")
    logits = learned.logits(images.train, NAMES)
    mixed = learned.logits(images.train, ["tree", "ship", "cat"])
    np.testing.assert_allclose(mixed[:, 1:], logits[:, [2, 0]], atol=1e-6)
    other = learned.for_data("drawings", "a drawing of a {}.")
    drawn = other.logits(images.train, ["tree", "ship", "cat"])
    np.testing.assert_allclose(drawn[:, 1:], logits[:, [2, 0]], atol=1e-6)
    assert np.abs(drawn[:, 0] - mixed[:, 0]).max() > 1e-3
    twice = replace(images, class_names=["cat", "cat", "ship"])
    learned = TwoStage(learning_rate=0.01, num_epochs=4).fit(frozen, twice, 1, tmp_path / "twice")
    logits = learned.logits(images.train, ["cat", "cat", "ship"])
    assert np.abs(logits[:, 0] - logits[:, 1]).max() > 1e-3
    np.testing.assert_array_equal(learned.class_vectors(["ship", "cat"]), learned.classes[[2, 0]])


@pytest.mark.parametrize("method_class", METHODS)
def test_the_steps_are_the_papers(method_class, images):
    """By shots, and not by epochs: the last epoch may be cut."""
    per_shot = {LoRATuning: 500, LayerNormTuning: 300, TwoStage: 300}[method_class]
    assert method_class().training_steps(images) == per_shot * 2
    assert method_class(num_epochs=7, batch_size=4).training_steps(images) == 14
    assert TwoStage().steps_of_stages(images) == (360, 240)
    assert TwoStage(num_epochs=1).steps_of_stages(images) == (1, 1)


@pytest.mark.parametrize("method_class", METHODS)
def test_training_stops_within_an_epoch(method_class, frozen, images, tmp_path, monkeypatch):
    monkeypatch.setattr(method_class, "steps_per_shot", 5)
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *given: steps.append(self) or step(self, *given))
    method = method_class(batch_size=4)
    method.fit(frozen, images, 1, tmp_path / "run")
    assert len(steps) == method.training_steps(images) == 10
    [rate] = {group["lr"] for group in steps[-1].param_groups}
    assert rate == pytest.approx(1e-6)
    assert {id(each) for each in steps} == {id(steps[0]), id(steps[-1])}


def test_settings_are_complete_and_the_papers(images):
    assert LoRATuning().settings() == {
        "learning_rate": 2e-4, "num_epochs": None, "batch_size": 32, "augment": False,
        "rank": 2, "alpha": 1, "dropout": 0.25,
    }  # fmt: skip
    assert LayerNormTuning(augment=True, flip=False).settings() == {
        "learning_rate": 2e-4, "num_epochs": None, "batch_size": 32, "augment": True, "flip": False
    }  # fmt: skip
    assert TwoStage(num_epochs=3).settings() == {
        "learning_rate": 2e-4, "num_epochs": 3, "batch_size": 32, "augment": False, "first_share": 0.6
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method_class", "wrong", "message"),
    [
        (LoRATuning, {"rank": 0}, "`rank` must be 1 or more, got 0"),
        (LoRATuning, {"dropout": 1.0}, r"`dropout` must be 0 or more and below 1, got 1\.0"),
        (TwoStage, {"first_share": 1.0}, r"`first_share` must be above 0 and below 1, got 1\.0"),
        (LayerNormTuning, {"num_epochs": 0}, "`num_epochs` must be above 0 and finite, got 0"),
        (TwoStage, {"batch_size": 0}, "`batch_size` must be above 0 and finite, got 0"),
        (LoRATuning, {"learning_rate": 0.0}, r"`learning_rate` must be above 0 and finite, got 0\.0"),
    ],
)
def test_wrong_settings_are_refused(method_class, wrong, message):
    with pytest.raises(ValueError, match=message):
        method_class(**wrong)


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT's own, of the norms that it tunes
@every_method
def test_the_adapter_is_saved_for_peft(method_class, frozen, images, tmp_path):
    learned = method_class(learning_rate=0.01, num_epochs=3).fit(frozen, images, 1, tmp_path / "run")
    learned.save(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(deepcopy(frozen.model), tmp_path / "adapter")
    for name, weight in deepcopy(learned.model).merge_and_unload().state_dict().items():
        torch.testing.assert_close(loaded.merge_and_unload().state_dict()[name], weight, atol=1e-6, rtol=0)
    if method_class is TwoStage:
        with safe_open(tmp_path / "adapter" / "classes.safetensors", "pt") as file:
            assert json.loads(file.metadata()["class_names"]) == NAMES
            assert torch.equal(file.get_tensor("classes"), learned.classes)


def test_a_killed_dropout_goes_on_as_if_it_had_not_been(tmp_path):
    """What is dropped, too, is what would have been."""
    recipe = Recipe(num_epochs=4, batch_size=2, keep_last=True)

    def train(folder, killed_at: int | None = None) -> torch.Tensor:
        weight = nn.Parameter(torch.ones(5))
        optimizer = torch.optim.AdamW([weight], 0.1)
        steps = []

        def loss_of(indices, epoch):
            steps.append(epoch)
            if len(steps) == killed_at:
                raise KeyboardInterrupt("killed")
            return (F.dropout(weight * (indices.sum() + 1), 0.5) - 1).square().mean()

        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        training_loop.train(loss_of, 6, recipe, (optimizer, scheduler), 1, folder)
        return weight.detach()

    before = torch.get_rng_state()
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="killed"):
        train(tmp_path / "killed", killed_at=8)
    torch.manual_seed(77)
    assert torch.equal(train(tmp_path / "killed"), whole)
    torch.set_rng_state(before)


def test_a_finished_training_is_not_done_again(tmp_path):
    """Its last state is kept, also where it is not one of the ten that are."""
    done = []

    def train() -> torch.Tensor:
        weight = nn.Parameter(torch.ones(5))
        optimizer = torch.optim.AdamW([weight], 0.1)

        def loss_of(indices, epoch):
            done.append(epoch)
            return (weight * indices.sum()).square().mean()

        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 25)
        training_loop.train(loss_of, 3, Recipe(num_epochs=25, batch_size=3), (optimizer, scheduler), 1, tmp_path)
        return weight.detach()

    first = train()
    assert done == list(range(25))
    assert torch.equal(train(), first)
    assert len(done) == 25


def test_two_stages_that_are_killed_go_on(frozen, images, tmp_path, monkeypatch):
    """In either stage; what is done of the first is not done again."""
    method = TwoStage(learning_rate=0.01, num_epochs=5, batch_size=3)
    whole = method.fit(frozen, images, 1, tmp_path / "whole")
    done = []

    def killed_at(number: int):
        def train(loss_of, *given):
            def loss(indices, epoch):
                if len(done) == number:
                    done.append("killed")
                    raise KeyboardInterrupt("killed")
                done.append(epoch)
                return loss_of(indices, epoch)

            training_loop.train(loss, *given)

        return train

    for number in (3, 8):  # of 6 and 4 steps
        monkeypatch.setattr(tower_tuning, "train", killed_at(number))
        with pytest.raises(KeyboardInterrupt, match="killed"):
            method.fit(frozen, images, 1, tmp_path / "killed")
    resumed = method.fit(frozen, images, 1, tmp_path / "killed")
    assert done == [0, 0, 1, "killed", 1, 1, 2, 2, "killed", 0, 0, 1, 1]
    assert torch.equal(resumed.classes, whole.classes)
    assert changed(deepcopy(whole.model).merge_and_unload(), resumed.model) == set()


def test_prepared_pixels_are_the_processors_and_kept_as_far_as_there_is_room(frozen, images, monkeypatch):
    expected = pixels(frozen, images)["pixel_values"]
    prepared = []
    read = training_pixels.PreparedImages.__getitem__
    monkeypatch.setattr(
        training_pixels.PreparedImages, "__getitem__", lambda self, index: prepared.append(index) or read(self, index)
    )
    indices = torch.tensor([4, 0, 4, 2])
    for room, calls in ((2**30, 3), (2 * 3 * 16 * 16 * 4, 4)):  # two images have room
        monkeypatch.setattr(training_pixels, "KEPT_BYTES", room)
        prepared.clear()
        pixels_of = training_pixels.training_pixels(frozen, images.train, seed=1)
        for epoch in range(2):
            found = pixels_of(indices, epoch)["pixel_values"]
            torch.testing.assert_close(found.double(), expected[indices], atol=1e-6, rtol=0)
        assert len(prepared) == calls


def test_lora_on_the_demo_beats_zero_shot(tmp_path):
    from peft_coop.data import load_data
    from peft_coop.evaluation import draw_images, scores

    data = load_data("demo:digits")
    drawn = draw_images(data, 4, 1)
    frozen = FrozenCLIP(load_clip(), load_processor(), "demo")
    test = data.test.select(range(150))
    accuracies = [
        scores(method.fit(frozen, drawn, 1, tmp_path / method.key).logits(test, data.class_names), test["label"])
        for method in (ZeroShot(), LoRATuning(learning_rate=0.01, num_epochs=6))
    ]
    assert accuracies[1]["accuracy"] > accuracies[0]["accuracy"] + 0.03
