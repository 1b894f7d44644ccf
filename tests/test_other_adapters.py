"""A LoRA beside a prompt, in both orders: numbers, switching, merging, saving, the Trainer.

What claims equality is computed in float64, against prompts that are padded one by one on a CLIP without the prompt's
machinery, whose LoRA is its own or merged.
"""

from copy import deepcopy
from functools import partial

import pytest
import torch
from conftest import make_clip
from datasets import Dataset
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    inject_adapter_in_model,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from test_prompts import padded_feature
from torch.nn.functional import cross_entropy, normalize
from transformers import Trainer, TrainingArguments

from peft_coop import CoOpConfig
from peft_coop.towers import text_memory

NAMES = ["cat", "dog", "great white shark"]
LABELS = torch.tensor([0, 1, 2, 0, 1])
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "text_projection", "visual_projection"]
SETTINGS = {
    "end": {"n_ctx": 4},
    "front": {"n_ctx": 4, "class_token_position": "front"},
    "class-specific": {"n_ctx": 4, "class_specific_context": True, "class_token_position": "middle"},
    "conditional": {"n_ctx": 4, "meta_net": True},
}

# PEFT warns of a second method in one model, which is what is done here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model"),
]
both_orders = pytest.mark.parametrize("order", ["lora first", "prompt first"])
every_method = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


@pytest.fixture
def images(pixel_values):
    return pixel_values.double()


@pytest.fixture
def prompt_config(tokenizer_path):
    def make(**settings):
        return CoOpConfig(**{"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path, "n_ctx": 4, **settings})

    return make


def lora_config(**settings):
    return LoraConfig(**{"r": 2, "target_modules": TARGETS, **settings})


@pytest.fixture
def make_both(prompt_config):
    """A model in float64 with the adapters "prompt" and "style", neither as it started."""

    def make(order="prompt first", lora=None, **settings):
        if order == "lora first":
            model = get_peft_model(make_clip(), lora or lora_config(), "style")
            model = get_peft_model(model, prompt_config(**settings), "prompt")
        else:
            model = get_peft_model(make_clip(), prompt_config(**settings), "prompt")
            model.add_adapter("style", lora or lora_config())
        return perturb(model.double())

    return make


@torch.no_grad()
def perturb(model, seed=3):
    """Random adapters: a LoRA starts with zeros, and a lucky start must not pass."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if "learned_prompts" in name or "lora_" in name:
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)  # exact in float32, as they are loaded
    return model.eval()


def lora_alone(model):
    """A plain CLIP with the model's LoRA and no prompt."""
    alone = get_peft_model(make_clip(), lora_config(), "style").double().eval()
    weights = {
        name.replace("text_model.embeddings.base_layer", "text_model.embeddings"): value
        for name, value in model.state_dict().items()
    }
    result = alone.load_state_dict(weights, strict=False)
    assert not result.missing_keys
    assert all(".learned_prompts." in key for key in result.unexpected_keys)
    return alone


def slow_logits(clip, layer, tokenizer, images, position, class_specific):
    """The logits of a prompt, each class padded to 77 positions by itself; `layer` holds the context."""
    embeds = normalize(clip.get_image_features(images).pooler_output, dim=-1)
    ctx = layer.learned_prompts["prompt"].ctx.flatten(0, -2)
    tables = [ctx]
    if layer.prompt.needs_images:
        hidden = torch.relu(layer.learned_prompts["prompt"].meta_net_linear1(embeds))
        tables = [ctx + shift for shift in layer.learned_prompts["prompt"].meta_net_linear2(hidden)]
    rows = [
        torch.cat(
            [
                padded_feature(clip, tokenizer, name, table, index, position, class_specific)
                for index, name in enumerate(NAMES)
            ]
        )
        for table in tables
    ]
    texts = normalize(torch.stack(rows), dim=-1).expand(len(embeds), -1, -1)
    return clip.logit_scale.exp() * torch.einsum("bp,bcp->bc", embeds, texts)


def layer_of(model):
    return model.get_base_model().prompt_layer


def expected_logits(clip, model, tokenizer, images, settings):
    position, specific = settings.get("class_token_position", "end"), settings.get("class_specific_context", False)
    return slow_logits(clip, layer_of(model), tokenizer, images, position, specific)


@both_orders
@every_method
def test_logits_and_gradients_equal_a_padded_loop(make_both, tokenizer, images, settings, order):
    model = make_both(order, **settings)
    alone = lora_alone(model)
    clip = alone.get_base_model()
    expected = expected_logits(clip, model, tokenizer, images, settings)
    cross_entropy(expected, LABELS).backward()
    slow = {name: weight.grad for name, weight in alone.named_parameters() if weight.requires_grad}
    slow_ctx = layer_of(model).learned_prompts["prompt"].ctx.grad.clone()
    model.zero_grad()

    outputs = model.train()(pixel_values=images, labels=LABELS)
    outputs.loss.backward()
    torch.testing.assert_close(outputs.logits, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(layer_of(model).learned_prompts["prompt"].ctx.grad, slow_ctx, atol=1e-9, rtol=1e-9)
    fast = {name: weight.grad for name, weight in model.named_parameters() if "lora_" in name}
    assert len(fast) == len(slow) > 40
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        evaluated = model.eval()(pixel_values=images).logits
    torch.testing.assert_close(evaluated, expected, atol=1e-9, rtol=0)


@both_orders
@every_method
@torch.no_grad()
def test_merged_lora_gives_the_same_numbers(make_both, tokenizer, images, settings, order):
    model = make_both(order, **settings)
    before = model(pixel_values=images).logits
    merged = lora_alone(model).merge_and_unload()
    torch.testing.assert_close(before, expected_logits(merged, model, tokenizer, images, settings), atol=1e-9, rtol=0)
    model.merge_adapter(["style"])
    projection = model.get_base_model().visual_projection
    assert projection.merged
    torch.testing.assert_close(projection.weight, merged.visual_projection.weight, atol=1e-12, rtol=0)
    torch.testing.assert_close(model(pixel_values=images).logits, before, atol=1e-9, rtol=0)
    model.unmerge_adapter()
    assert not projection.merged
    torch.testing.assert_close(model(pixel_values=images).logits, before, atol=1e-9, rtol=0)


def test_merging_without_a_name_says_what_can_be_merged(make_both):
    model = make_both()
    for call in (model.merge_adapter, model.merge_and_unload, lambda: model.merge_adapter(["style", "prompt"])):
        with pytest.raises(
            NotImplementedError, match=r"no weight that they could be added to.*merge_adapter\(\['style'\]\)"
        ):
            call()
    assert not any(layer.merged for layer in model.modules() if isinstance(layer, BaseTunerLayer))


@both_orders
@torch.no_grad()
def test_disabled_is_zero_shot_clip(make_both, tokenizer, images, order):
    model = make_both(order)
    with_both = model(pixel_values=images).logits
    clip = make_clip().double()
    texts = tokenizer([f"a photo of a {name}." for name in NAMES], padding=True, return_tensors="pt")
    expected = clip(**texts, pixel_values=images).logits_per_image
    with model.disable_adapter():
        torch.testing.assert_close(model(pixel_values=images).logits, expected, atol=1e-9, rtol=0)
    assert torch.equal(model(pixel_values=images).logits, with_both)
    assert (with_both - expected).abs().max() > 1e-3


@both_orders
@torch.no_grad()
def test_prompts_and_loras_are_chosen_apart(make_both, prompt_config, images, order):
    model = make_both(order)
    model.add_adapter("other prompt", prompt_config(class_names=["rose", "tulip"]))
    model.add_adapter("other style", lora_config(target_modules=["v_proj", "visual_projection"]))
    before = model(pixel_values=images).logits
    perturb(model, seed=3)  # the new adapters are drawn, too; the first ones may be others now
    first = model(pixel_values=images).logits
    assert first.shape == before.shape == (5, 3)
    state = {name: weight.requires_grad for name, weight in model.named_parameters()}

    model.set_adapter("other prompt")
    assert model.active_adapters == ["other prompt"]
    assert model.base_model.active_beside() == ["style"]
    assert model(pixel_values=images).logits.shape == (5, 2)
    model.set_adapter("prompt")
    assert torch.equal(model(pixel_values=images).logits, first)
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == state

    model.set_adapter("other style")
    assert model.active_adapters == ["prompt"]
    assert model.base_model.active_beside() == ["other style"]
    assert (model(pixel_values=images).logits - first).abs().max() > 1e-3
    model.set_adapter("style")
    assert torch.equal(model(pixel_values=images).logits, first)


@torch.no_grad()
def test_deleting_the_lora_leaves_the_prompt(make_both, tokenizer, images):
    model = make_both()
    model.delete_adapter("style")
    assert list(model.peft_config) == ["prompt"] == model.active_adapters
    expected = expected_logits(make_clip().double(), model, tokenizer, images, {})
    torch.testing.assert_close(model(pixel_values=images).logits, expected, atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_merged_lora_is_not_deleted(make_both, images):
    model = make_both()
    before = model(pixel_values=images).logits
    model.merge_adapter(["style"])
    with pytest.raises(ValueError, match=r"Adapter 'style' is merged.*unmerge_adapter"):
        model.delete_adapter("style")
    torch.testing.assert_close(model(pixel_values=images).logits, before, atol=1e-9, rtol=0)


@both_orders
@torch.no_grad()
def test_unload_gives_the_base_model_back(make_both, images, order):
    clip = make_both(order).unload()
    expected = make_clip().double()
    assert type(clip) is type(expected)
    assert list(clip.state_dict()) == list(expected.state_dict())
    for name, weight in expected.state_dict().items():
        assert torch.equal(clip.state_dict()[name], weight), name


@both_orders
def test_one_name_for_both_is_refused(prompt_config, order):
    if order == "lora first":
        model = get_peft_model(make_clip(), lora_config())
        with pytest.raises(ValueError, match=r"has an adapter 'default' already, of the method LORA.*adapter_name="):
            get_peft_model(model, prompt_config())
        assert model.peft_config["default"].peft_type == "LORA"
        assert type(model.get_base_model()).__name__ == "CLIPModel"
        assert not hasattr(model.get_base_model(), "prompt_layer")
    else:
        model = get_peft_model(make_clip(), prompt_config())
        with pytest.raises(ValueError, match="'default' already exists"):
            model.add_adapter("default", lora_config())
        assert model.peft_config["default"].peft_type == "COOP"


@torch.no_grad()
@pytest.mark.parametrize("wrong", ["no module", "prefix tuning", "prompt tuning"])
def test_what_cannot_stand_beside_a_prompt_leaves_the_model(make_both, images, wrong):
    model = make_both()
    before, state = model(pixel_values=images).logits, {n: w.requires_grad for n, w in model.named_parameters()}
    config, message = {
        "no module": (LoraConfig(target_modules=["no_such_module"]), "not found in the base model"),
        "prefix tuning": (PrefixTuningConfig(num_virtual_tokens=2), "PREFIX_TUNING cannot stand beside"),
        "prompt tuning": (PromptTuningConfig(num_virtual_tokens=2), "PROMPT_TUNING cannot stand beside"),
    }[wrong]
    with pytest.raises(ValueError, match=message):
        model.add_adapter("wrong", config)
    assert list(model.peft_config) == ["prompt", "style"]
    assert model.base_model.active_beside() == ["style"]
    assert torch.equal(model(pixel_values=images).logits, before)
    assert {n: w.requires_grad for n, w in model.named_parameters()} == state


def test_a_failed_prompt_leaves_the_lora(prompt_config):
    model = get_peft_model(make_clip(), lora_config(), "style")
    with pytest.raises(ValueError, match="n_ctx"):
        get_peft_model(model, prompt_config(n_ctx=100), "prompt")
    assert list(model.peft_config) == ["style"]
    assert type(model.get_base_model()).__name__ == "CLIPModel"
    assert not hasattr(model.get_base_model(), "prompt_layer")


def test_a_lora_on_the_word_embeddings_is_refused(prompt_config):
    model = get_peft_model(make_clip(), LoraConfig(target_modules=["token_embedding"]), "style")
    with pytest.raises(ValueError, match=r"stands at text_model\.embeddings\.token_embedding, inside of the layer"):
        get_peft_model(model, prompt_config(), "prompt")


@torch.no_grad()
def test_another_method_than_lora(make_both, images):
    model = make_both(lora=IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"]))
    before = model(pixel_values=images).logits
    for name, weight in model.named_parameters():
        if "ia3_l" in name:
            weight.mul_(1.5)
    after = model(pixel_values=images).logits
    assert (after - before).abs().max() > 1e-3
    model.merge_adapter(["style"])
    torch.testing.assert_close(model(pixel_values=images).logits, after, atol=1e-9, rtol=0)


def load_both(folder, order):
    if order == "lora first":
        model = PeftModel.from_pretrained(make_clip(), folder / "style", adapter_name="style")
        model = PeftModel.from_pretrained(model, folder / "prompt", adapter_name="prompt")
    else:
        model = PeftModel.from_pretrained(make_clip(), folder / "prompt", adapter_name="prompt")
        model.load_adapter(folder / "style", "style")
    return model


@both_orders
@pytest.mark.parametrize("saved", ["lora first", "prompt first"])
@torch.no_grad()
def test_saved_and_loaded(make_both, images, tmp_path, saved, order):
    model = make_both(saved)
    before = model(pixel_values=images).logits
    model.save_pretrained(tmp_path)
    loaded = load_both(tmp_path, order)
    assert not any(weight.requires_grad for weight in loaded.parameters())
    torch.testing.assert_close(loaded.double().eval()(pixel_values=images).logits, before, atol=1e-9, rtol=0)


@torch.no_grad()
def test_the_lora_loads_without_the_prompt(make_both, images, tmp_path):
    model = make_both()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path / "style").double().get_base_model()
    expected = lora_alone(model).get_base_model().get_image_features(images).pooler_output
    torch.testing.assert_close(loaded.get_image_features(images).pooler_output, expected, atol=1e-9, rtol=0)


@torch.no_grad()
def test_injected_by_pefts_own_function(make_both, prompt_config, images, tmp_path):
    """The way without a `PeftModel`, which put a LoRA into the model before `add_adapter` could."""
    model = get_peft_model(make_clip(), prompt_config(), "prompt")
    inject_adapter_in_model(lora_config(), model.get_base_model(), "style")
    before = perturb(model.double())(pixel_values=images).logits
    assert torch.equal(before, make_both()(pixel_values=images).logits)
    model.save_pretrained(tmp_path)
    loaded = load_both(tmp_path, "prompt first").double()
    torch.testing.assert_close(loaded(pixel_values=images).logits, before, atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_deep_copy_is_independent(make_both, images):
    model = make_both()
    before = model(pixel_values=images).logits
    other = deepcopy(model)
    other.delete_adapter("style")
    assert torch.equal(model(pixel_values=images).logits, before)
    assert (other(pixel_values=images).logits - before).abs().max() > 1e-3


def gradients(model, images):
    model.zero_grad()
    model.train()(pixel_values=images, labels=LABELS).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


@every_method
def test_a_lora_alone_is_trained_within_the_memory(make_both, images, settings):
    """The prompt is frozen; what exceeds the memory is computed again for the LoRA, too."""
    model = make_both(**settings)
    with_prompt = gradients(model, images)
    model.set_requires_grad("prompt", False)
    assert not any("learned_prompts" in name for name, weight in model.named_parameters() if weight.requires_grad)
    alone = gradients(model, images)
    again = []
    encode = text_memory.checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_memory, "checkpoint", lambda *given, **more: again.append(1) or encode(*given, **more))
        model.set_prompt_memory(1e-9)
        in_parts = gradients(model, images)
    assert again
    assert alone.keys() == in_parts.keys() == {name for name in with_prompt if "lora_" in name}
    for name, gradient in alone.items():
        torch.testing.assert_close(gradient, with_prompt[name], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(in_parts[name], gradient, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_layers_have_the_same_gradients(make_both, images, use_reentrant):
    model = make_both()
    expected = gradients(model, images)
    inner = model.get_base_model()
    enable = getattr(inner, "activation_checkpointing_enable", inner.gradient_checkpointing_enable)  # renamed in 5.x
    enable({"use_reentrant": use_reentrant})
    inner.enable_input_require_grads()
    for name, gradient in gradients(model, images).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("broken", ["prompt", "style"])
@torch.no_grad()
def test_a_failed_load_leaves_the_other(make_both, images, tmp_path, broken):
    make_both().save_pretrained(tmp_path)
    weights = tmp_path / broken / "adapter_model.safetensors"
    saved = load_file(weights)
    save_file({name: torch.cat([value, value]) for name, value in saved.items()}, weights)
    kept = "style" if broken == "prompt" else "prompt"
    model = PeftModel.from_pretrained(make_clip(), tmp_path / kept, adapter_name=kept).double()
    inputs = {"pixel_values": images}
    if kept == "style":
        inputs["input_ids"] = torch.tensor([[49406, 320, 2368, 49407]])
    before, kind, names = model(**inputs), type(model.get_base_model()), list(model.state_dict())
    load = partial(PeftModel.from_pretrained, model) if kept == "style" else model.load_adapter
    with pytest.raises((ValueError, RuntimeError), match=r"does not fit|size mismatch"):
        load(tmp_path / broken, broken)
    assert list(model.peft_config) == [kept]
    assert list(model.state_dict()) == names
    assert type(model.get_base_model()) is kind
    assert torch.equal(model(**inputs).image_embeds, before.image_embeds)
    assert torch.equal(model(**inputs).text_embeds, before.text_embeds)


def test_a_trained_vision_tower_wants_pixels(make_both, images):
    """Features that were computed before pass no gradient to it."""
    model = make_both(lora=lora_config(target_modules=["visual_projection"]))
    features = model.get_image_features(images).pooler_output.detach()
    with pytest.warns(UserWarning, match=r"vision tower is trained, and gets no gradient from `image_embeds`"):
        model.train()(image_embeds=features, labels=LABELS)
    model.eval()(image_embeds=features)
    on_the_text = make_both(lora=lora_config(target_modules=["text_projection"]))
    on_the_text.train()(image_embeds=features, labels=LABELS).loss.backward()
    trained = {name: weight for name, weight in on_the_text.named_parameters() if weight.requires_grad}
    assert any("lora_" in name for name in trained)
    assert all(weight.grad.abs().max() > 0 for weight in trained.values())


def adapters_of(model):
    return {n: w.detach().clone() for n, w in model.named_parameters() if "learned_prompts" in n or "lora_" in n}


def make_trainer(model, folder, images, **settings):
    data = Dataset.from_dict({"pixel_values": images.numpy(), "labels": LABELS.tolist()}).with_format("torch")
    arguments = TrainingArguments(
        str(folder), **{"per_device_train_batch_size": 5, "use_cpu": True, "disable_tqdm": True, **settings}
    )
    return Trainer(model, arguments, train_dataset=data, eval_dataset=data)


NAMES_OF_ADAPTERS = {"default prompt": ("default", "style"), "default lora": ("prompt", "default")}
either_name = pytest.mark.parametrize("names", NAMES_OF_ADAPTERS.values(), ids=NAMES_OF_ADAPTERS)


def make_named(prompt_config, names, seed=3):
    prompt, lora = names
    torch.manual_seed(seed)
    if prompt == "default":
        model = get_peft_model(make_clip(), prompt_config())
        model.add_adapter(lora, lora_config())
    else:
        model = get_peft_model(get_peft_model(make_clip(), lora_config(), lora), prompt_config(), prompt)
    return perturb(model, seed)


@either_name
def test_the_trainer_trains_saves_and_resumes_both(prompt_config, pixel_values, tmp_path, names):
    settings = {"max_steps": 4, "save_steps": 2, "learning_rate": 0.01}
    model = make_named(prompt_config, names)
    start = adapters_of(model)
    make_trainer(model, tmp_path / "once", pixel_values, **settings).train()
    trained = adapters_of(model)
    for name, value in start.items():
        assert not torch.equal(trained[name], value), name

    resumed = make_named(prompt_config, names, seed=5)
    make_trainer(resumed, tmp_path / "again", pixel_values, **settings).train(
        resume_from_checkpoint=str(tmp_path / "once" / "checkpoint-2")
    )
    for name, value in adapters_of(resumed).items():
        torch.testing.assert_close(value, trained[name], atol=1e-6, rtol=0)


@either_name
def test_the_best_checkpoint_brings_both_back(prompt_config, pixel_values, tmp_path, names):
    model = make_named(prompt_config, names)
    settings = {"max_steps": 3, "save_steps": 1, "eval_steps": 1, "eval_strategy": "steps", "learning_rate": 0.01}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "step", "greater_is_better": False}
    trainer = make_trainer(model, tmp_path, pixel_values, **settings)
    seen = []

    def count_steps(_):
        seen.append(adapters_of(model))
        return {"step": len(seen)}

    trainer.compute_metrics = count_steps
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    for name, value in adapters_of(model).items():
        assert torch.equal(value, seen[0][name]), name
        assert not torch.equal(value, seen[2][name]), name
