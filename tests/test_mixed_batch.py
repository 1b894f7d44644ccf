"""`adapter_names`: each image of a batch has its own prompt. Compared in float64 with one call per adapter."""

import pytest
import torch
from conftest import make_clip
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch.nn.functional import cross_entropy
from transformers import CLIPModel

from peft_coop import CoOpConfig

CLASSES = {"plain": ["cat", "dog", "bird"], "conditional": ["rose", "tulip", "oak"], "own": ["a", "b", "c"]}
LABELS = torch.tensor([0, 1, 2, 0, 1])
MIXES = {
    "two methods": ["plain", "conditional", "plain", "conditional", "plain"],
    "four": ["own", "conditional", "plain", "__base__", "own"],
    "all alike": ["conditional"] * 5,
    "the base model": ["__base__"] * 5,
}
every_mix = pytest.mark.parametrize("names", MIXES.values(), ids=MIXES)


@pytest.fixture
def config(tokenizer_path):
    def make(class_names, **settings):
        return CoOpConfig(class_names=class_names, tokenizer_name_or_path=tokenizer_path, n_ctx=4, **settings)

    return make


@pytest.fixture
def model(config):
    """An unconditional, a conditional and a class-specific prompt, the last with a projection of its own."""
    model = get_peft_model(make_clip(), config(CLASSES["plain"]), "plain")
    model.add_adapter("conditional", config(CLASSES["conditional"], meta_net=True))
    specific = {"class_specific_context": True, "modules_to_save": ["visual_projection"]}
    model.add_adapter("own", config(CLASSES["own"], **specific))
    model.add_adapter("two classes", config(["cat", "dog"]))
    model.add_adapter("no classes", config(None))
    return perturb(model)


@torch.no_grad()
def perturb(model):
    generator = torch.Generator().manual_seed(3)
    for name, weight in sorted(model.double().named_parameters()):
        if "learned_prompts" in name or "lora_" in name or "modules_to_save" in name:
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.2)
    return model.eval()


@pytest.fixture
def images(pixel_values):
    return pixel_values.double()


def state_of(model):
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    return model.active_adapters, dict(model.config.id2label), trained


@torch.no_grad()
def one_by_one(model, names, images):
    """Each image by itself, its adapter chosen with `set_adapter`."""
    rows = []
    for name, image in zip(names, images, strict=True):
        if name == "__base__":
            model.set_adapter("plain")
            with model.disable_adapter():
                rows.append(model(pixel_values=image[None]))
        else:
            model.set_adapter(name)
            rows.append(model(pixel_values=image[None]))
    model.set_adapter("plain")
    texts = [row.text_embeds.reshape(1, 3, 40) for row in rows]
    return torch.cat([row.logits for row in rows]), torch.cat(texts), torch.cat([row.image_embeds for row in rows])


@every_mix
@torch.no_grad()
def test_each_image_has_its_own_adapter(model, images, names):
    logits, text_embeds, image_embeds = one_by_one(model, names, images)
    state = state_of(model)
    outputs = model(pixel_values=images, adapter_names=names, labels=LABELS)
    torch.testing.assert_close(outputs.logits, logits, atol=1e-9, rtol=0)
    torch.testing.assert_close(outputs.text_embeds, text_embeds, atol=1e-9, rtol=0)
    torch.testing.assert_close(outputs.image_embeds, image_embeds, atol=1e-9, rtol=0)
    torch.testing.assert_close(outputs.loss, cross_entropy(logits, LABELS), atol=1e-9, rtol=0)
    assert state_of(model) == state
    alone = model(pixel_values=images).logits
    model.set_adapter("plain")
    assert torch.equal(model(pixel_values=images).logits, alone)


@torch.no_grad()
def test_features_instead_of_images(model, images):
    names = ["plain", "conditional", "conditional", "plain", "__base__"]
    features = model.get_image_features(images).pooler_output
    expected = model(pixel_values=images, adapter_names=names).logits
    torch.testing.assert_close(
        model(image_embeds=features, adapter_names=tuple(names)).logits, expected, atol=1e-9, rtol=0
    )


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model")
@torch.no_grad()
def test_the_model_inside_takes_them_too(config, images):
    clip = make_clip()
    for name in ("plain", "conditional"):
        inject_adapter_in_model(config(CLASSES[name], meta_net=name == "conditional"), clip, name)
    perturb(clip)
    names = MIXES["two methods"]
    mixed = clip(pixel_values=images, adapter_names=names).logits
    inside = clip.prompt_layer
    for name in ("plain", "conditional"):
        inside.set_adapter(name)
        chosen = torch.tensor([each == name for each in names])
        torch.testing.assert_close(mixed[chosen], clip(pixel_values=images).logits[chosen], atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_lora_beside_belongs_to_every_image_but_the_base_models(model, images):
    model.add_adapter("style", LoraConfig(r=2, target_modules=["q_proj", "fc1"]))
    perturb(model)
    names = ["plain", "conditional", "__base__", "own", "conditional"]
    logits, _, _ = one_by_one(model, names, images)
    mixed = model(pixel_values=images, adapter_names=names).logits
    torch.testing.assert_close(mixed, logits, atol=1e-9, rtol=0)
    clip = make_clip().double()
    features = clip.get_image_features(images[2:3]).pooler_output
    with model.disable_adapter():
        torch.testing.assert_close(model(image_embeds=features).logits, mixed[2:3], atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match=r"must be prompts of this model, .* or '__base__'; got 'style'"):
        model(pixel_values=images, adapter_names=["style"] * 5)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("plain", TypeError, "must be a list with the name of an adapter per image, got 'plain'"),
        (["plain"] * 4, ValueError, "an adapter for each of the 5 images, got 4"),
        ([], ValueError, "an adapter for each of the 5 images, got 0"),
        (["plain", "unknown", "plain", "plain", None], ValueError, "or '__base__'; got 'unknown', None"),
        (["plain"] * 4 + ["two classes"], ValueError, r"numbers of classes, \{'plain': 3, 'two classes': 2\}"),
        (["plain"] * 4 + ["no classes"], ValueError, "'no classes' has no classes: call `set_classes`"),
    ],
)
def test_names_that_do_not_fit_are_refused(model, images, names, error, message):
    state = state_of(model)
    with pytest.raises(error, match=message):
        model(pixel_values=images, adapter_names=names)
    assert state_of(model) == state


def test_other_calls_that_are_refused(model, images):
    names = MIXES["two methods"]
    with pytest.raises(ValueError, match=r"Give either `pixel_values` or `image_embeds`.*, got neither"):
        model(adapter_names=names)
    with pytest.raises(ValueError, match="`adapter_names` choose classes, and `input_ids` name other ones"):
        model(pixel_values=images, input_ids=torch.tensor([[49406, 320, 49407]]), adapter_names=names)
    with pytest.raises(ValueError, match="cannot be passed in training mode"):
        model.train()(pixel_values=images, adapter_names=names)


def test_without_an_adapter_nothing_can_be_named(model, images):
    for name in list(model.peft_config):
        model.delete_adapter(name) if name != "plain" else None
    model.delete_adapter("plain")
    assert isinstance(model.get_base_model(), CLIPModel)
    with pytest.raises(ValueError, match="must be prompts of this model"):
        model(pixel_values=images, adapter_names=["plain"] * 5)
