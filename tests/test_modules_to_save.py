"""`modules_to_save`: parts of the base model that are trained and saved with a prompt, as with PEFT's other methods."""

import pytest
import torch
from conftest import make_clip
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from test_other_adapters import adapters_of, make_trainer
from torch import nn

from peft_coop import CoCoOpConfig, CoOpConfig

NAMES = ["cat", "dog", "great white shark"]
LABELS = torch.tensor([0, 1, 2, 0, 1])
MODULES = {
    "visual_projection": ["visual_projection"],
    "both projections": ["text_projection", "visual_projection"],
    "a layer of each tower": ["layers.1"],
    "final norm": ["text_model.final_layer_norm"],
    "the vision tower": ["vision_model"],
    "the text encoder": ["text_model.encoder"],
}
every_choice = pytest.mark.parametrize("modules", MODULES.values(), ids=MODULES)


@pytest.fixture
def config(tokenizer_path):
    def make(modules=None, **settings):
        settings = {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path, "n_ctx": 4, **settings}
        return CoOpConfig(**settings, modules_to_save=modules)

    return make


def train(model, pixel_values, steps=2):
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(pixel_values=pixel_values, labels=LABELS).loss.backward()
        optimizer.step()
    return model.eval()


def logits(model, pixel_values):
    with torch.no_grad():
        return model(pixel_values=pixel_values).logits


def base_weights(model):
    """The base model's own weights, by the names that they have without adapters."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", ""): weight
        for name, weight in model.named_parameters()
        if "learned_prompts" not in name and "modules_to_save" not in name
    }


@every_choice
def test_trained_saved_and_loaded(config, pixel_values, tmp_path, modules):
    model = get_peft_model(make_clip(), config(modules))
    start = logits(model.eval(), pixel_values)
    with_prompt_only = logits(train(get_peft_model(make_clip(), config()), pixel_values), pixel_values)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) > 1
    assert all("learned_prompts" in name or "modules_to_save.default" in name for name in trained)
    after = logits(train(model, pixel_values), pixel_values)
    assert (after - start).abs().max() > 1e-3
    assert (after - with_prompt_only).abs().max() > 1e-3
    for name, weight in make_clip().named_parameters():
        assert torch.equal(base_weights(model)[name], weight), name

    model.save_pretrained(tmp_path)
    saved = {key.removeprefix("base_model.model.") for key in load_file(tmp_path / "adapter_model.safetensors")}
    own = set(dict(make_clip().named_parameters()))
    assert saved - own == {"text_model.embeddings.coop_ctx"}
    assert len(saved & own) == len(trained) - 1
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path)
    assert loaded.peft_config["default"].modules_to_save == modules
    assert not any(weight.requires_grad for weight in loaded.parameters())
    torch.testing.assert_close(logits(loaded, pixel_values), after, atol=1e-4, rtol=0)


@every_choice
def test_disabled_and_switched(config, pixel_values, modules):
    plain = get_peft_model(make_clip(), config()).eval()
    with plain.disable_adapter():
        zero_shot = logits(plain, pixel_values)
    model = get_peft_model(make_clip(), config(modules))
    model.add_adapter("own", config(modules))
    model.add_adapter("none", config())
    first = logits(train(model, pixel_values), pixel_values)
    model.set_adapter("own")
    second = logits(train(model, pixel_values, steps=1), pixel_values)
    assert (first - second).abs().max() > 1e-3

    model.set_adapter("none")
    prompts = model.get_base_model().prompt_layer.learned_prompts
    plain.get_base_model().prompt_layer.learned_prompts["default"].ctx.data.copy_(prompts["none"].ctx)
    torch.testing.assert_close(logits(model, pixel_values), logits(plain, pixel_values), atol=1e-4, rtol=0)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert [name.rsplit(".", 2)[-2:] for name in trained] == [["none", "ctx"]]

    for name, expected in (("default", first), ("own", second)):
        model.set_adapter(name)
        torch.testing.assert_close(logits(model, pixel_values), expected, atol=1e-4, rtol=0)
        with model.disable_adapter():
            torch.testing.assert_close(logits(model, pixel_values), zero_shot, atol=1e-4, rtol=0)
        torch.testing.assert_close(logits(model, pixel_values), expected, atol=1e-4, rtol=0)
    model.set_adapter("default")
    model.delete_adapter("own")
    torch.testing.assert_close(logits(model, pixel_values), first, atol=1e-4, rtol=0)


def test_conditional_prompts_have_them_too(tokenizer_path, pixel_values, tmp_path):
    settings = {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path, "meta_net_reduction": 4}
    model = get_peft_model(make_clip(), CoCoOpConfig(**settings, modules_to_save=["visual_projection"]))
    after = logits(train(model, pixel_values), pixel_values)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path)
    torch.testing.assert_close(logits(loaded, pixel_values), after, atol=1e-4, rtol=0)


def test_beside_a_lora(config, pixel_values, tmp_path):
    model = get_peft_model(make_clip(), config(["visual_projection"]))
    model.add_adapter("style", LoraConfig(target_modules=["q_proj"], modules_to_save=["text_projection"]))
    before = adapters_of(model) | {n: w.clone() for n, w in model.named_parameters() if "modules_to_save" in n}
    after = logits(train(model, pixel_values), pixel_values)
    now = dict(model.named_parameters())
    changed = {name for name, weight in before.items() if not torch.equal(now[name], weight)}
    for part in (
        "learned_prompts",
        "visual_projection.modules_to_save.default",
        "text_projection.modules_to_save.style",
    ):
        assert any(part in name for name in changed), part
    model.set_adapter("default")
    model.set_adapter("style")
    assert torch.equal(logits(model, pixel_values), after)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path)
    loaded.load_adapter(tmp_path / "style", "style")
    torch.testing.assert_close(logits(loaded, pixel_values), after, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model")
def test_a_lora_of_pefts_own_function_does_not_switch_them_off_in_silence(config, pixel_values):
    model = get_peft_model(make_clip(), config(["visual_projection"]))
    after = logits(train(model, pixel_values), pixel_values)
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), model.get_base_model(), "style")
    with pytest.raises(ValueError, match=r"trained of 'visual_projection' is not, .*`set_adapter\('default'\)`"):
        model(pixel_values=pixel_values)
    model.set_adapter("default")
    torch.testing.assert_close(logits(model, pixel_values), after, atol=1e-4, rtol=0)


def test_one_module_for_two_methods_is_refused(config):
    model = get_peft_model(make_clip(), config(["visual_projection"]))
    lora = LoraConfig(target_modules=["q_proj"], modules_to_save=["visual_projection"])
    with pytest.raises(ValueError, match=r"'visual_projection', which adapter 'default' of another method trains"):
        model.add_adapter("style", lora)
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("visual_projection", TypeError, "must be a list of names of modules, got 'visual_projection'"),
        ([1], TypeError, r"must hold names of modules, got \[1\]"),
        (["logit_scale"], ValueError, "'logit_scale', which is a weight and no module"),
        (["no_such"], ValueError, "'no_such', which is in it nowhere"),
        (["text_model"], ValueError, "'text_model' holds the layer that the prompt stands in"),
        (["embeddings"], ValueError, r"'text_model\.embeddings' holds the layer that the prompt stands in"),
        (["token_embedding"], ValueError, r"'text_model\.embeddings\.token_embedding' is held by the layer"),
        (["vision_model", "layers.0"], ValueError, "'vision_model.encoder.layers.0' is part of 'vision_model'"),
    ],
)
def test_what_cannot_be_saved_is_refused(config, names, error, message):
    clip = make_clip()
    with pytest.raises(error, match=message):
        get_peft_model(clip, config(names))
    assert list(clip.state_dict()) == list(make_clip().state_dict())
    assert all(weight.requires_grad for weight in clip.parameters())
    assert not hasattr(clip, "prompt_layer")


def test_modules_with_adapters_are_refused(config):
    model = get_peft_model(make_clip(), LoraConfig(target_modules=["q_proj"]), "style")
    with pytest.raises(ValueError, match=r"'encoder', and 'text_model\.encoder' holds other adapters"):
        get_wrapped(model, config(["encoder"]))


def test_a_module_that_holds_what_another_prompt_trains_is_refused(config):
    """It was trained, and could not be saved."""
    model = get_peft_model(make_clip(), config(["vision_model.encoder"]))
    with pytest.raises(ValueError, match="'vision_model' holds other adapters"):
        model.add_adapter("second", config(["vision_model"]))
    model.add_adapter("second", config(["vision_model.encoder"]))
    assert model.peft_config.keys() == {"default", "second"}


def get_wrapped(model, config):
    with pytest.warns(UserWarning, match=r"modify a model with PEFT for a second time|Already found"):
        return get_peft_model(model, config, "prompt")


def test_a_failed_load_leaves_the_base_model(config, pixel_values, tmp_path):
    """The saved copy is of another size: what was read of it must not stay in the base model."""
    model = get_peft_model(make_clip(), config(["visual_projection", "text_projection"]))
    train(model, pixel_values).save_pretrained(tmp_path)
    clip = make_clip()
    clip.visual_projection = nn.Linear(32, 8, bias=False)
    before = {name: weight.clone() for name, weight in clip.named_parameters()}
    with pytest.raises(ValueError, match=r"does not fit this model: .*visual_projection\.weight"):
        PeftModel.from_pretrained(clip, tmp_path)
    assert list(dict(clip.named_parameters())) == list(before)
    for name, weight in clip.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.requires_grad


def test_buffers_are_part_of_them(config, pixel_values, tmp_path):
    def make():
        clip = make_clip()
        clip.visual_projection = nn.Sequential(clip.visual_projection, nn.BatchNorm1d(40))
        return clip.eval()

    model = train(get_peft_model(make(), config(["visual_projection"])), pixel_values)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make(), tmp_path)
    torch.testing.assert_close(logits(loaded, pixel_values), logits(model, pixel_values), atol=1e-4, rtol=0)
    file, key = tmp_path / "adapter_model.safetensors", "base_model.model.visual_projection.1.running_mean"
    tensors = load_file(file)
    for change, message in (
        ({}, f"does not fit its config: {key} is not among the weights"),
        ({key: torch.zeros(3)}, r"running_mean is \(3,\) in the file and \(40,\) here"),
    ):
        save_file({name: tensor for name, tensor in tensors.items() if name != key} | change, file)
        with pytest.raises(ValueError, match=message):
            PeftModel.from_pretrained(make(), tmp_path)


def test_the_trainer_saves_and_resumes_them(config, pixel_values, tmp_path):
    settings = {"max_steps": 4, "save_steps": 2, "learning_rate": 0.01}
    model = get_peft_model(make_clip(), config(["visual_projection"]))
    make_trainer(model, tmp_path / "once", pixel_values, **settings).train()
    resumed = get_peft_model(make_clip(), config(["visual_projection"]))
    make_trainer(resumed, tmp_path / "again", pixel_values, **settings).train(
        resume_from_checkpoint=str(tmp_path / "once" / "checkpoint-2")
    )
    torch.testing.assert_close(logits(resumed, pixel_values), logits(model, pixel_values), atol=1e-4, rtol=0)
    start = make_clip().visual_projection.weight
    trained = resumed.get_base_model().visual_projection.modules_to_save["default"].weight
    assert (trained - start).abs().max() > 1e-3


def test_trained_weights_that_are_not_saved_are_named(config, tmp_path):
    model = get_peft_model(make_clip(), config(["visual_projection"]))
    model.save_pretrained(tmp_path / "silent")
    model.logit_scale.requires_grad = True
    model.text_projection.weight.requires_grad = True
    with pytest.warns(UserWarning, match=r"not saved with the adapters: logit_scale, text_projection.weight\. Name"):
        model.save_pretrained(tmp_path / "two")
    model.get_base_model().requires_grad_(True)
    with pytest.warns(UserWarning, match=r"not saved with the adapters: logit_scale, .* and \d+ more\. Name"):
        model.save_pretrained(tmp_path / "all")


@pytest.mark.parametrize(("bias", "count"), [("all", 35), ("lora_only", 4)])
def test_biases_of_a_lora_are_trained_and_saved(config, tmp_path, bias, count):
    model = get_peft_model(make_clip(), config())
    model.add_adapter("style", LoraConfig(target_modules=["q_proj"], bias=bias))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad and name.endswith("bias")]
    assert len(trained) == count
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "style" / "adapter_model.safetensors")
    assert sum(key.endswith("bias") for key in saved) == count
