"""What is kept of the text side is dropped as soon as something that it depends on changes."""

import copy

import pytest
import torch
from conftest import make_clip
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from test_encoder import count_passes
from torch import nn
from transformers import Trainer, TrainingArguments

from peft_coop import CoOpConfig

BASE = "base_model.model."
LORA = ("text_model.encoder.layers.0.self_attn.q_proj", "text_projection")
POSITIONS = ["end", "front"]


@pytest.fixture
def make_model(tokenizer_path):
    def make(position="end"):
        config = CoOpConfig(
            n_ctx=4,
            class_names=["cat", "dog", "great white shark"],
            class_token_position=position,
            tokenizer_name_or_path=tokenizer_path,
        )
        return get_peft_model(make_clip().double(), config).eval()

    return make


@pytest.fixture
def features(pixel_values):
    """Text features of a model, learned or zero-shot, without gradients."""

    def compute(model, disabled=False):
        with torch.no_grad():
            if disabled:
                with model.disable_adapter():
                    return model.get_text_features().pooler_output
            return model.get_text_features().pooler_output

    return compute


def fresh(model, compute, **settings):
    """The same of a copy, which keeps nothing."""
    return compute(copy.deepcopy(model), **settings)


def by_optimizer(clip, weight):
    weight.requires_grad_(True)
    weight.grad = torch.rand_like(weight)
    torch.optim.SGD([weight], lr=0.5).step()
    weight.requires_grad_(False)


def by_fused_optimizer(clip, weight):
    """Whose kernel does not count the weight's version up."""
    weight.requires_grad_(True)
    weight.grad = torch.rand_like(weight) - 0.5
    torch.optim.AdamW([weight], lr=0.5, fused=True).step()
    weight.requires_grad_(False)


def in_place(clip, weight):
    with torch.no_grad():
        weight.mul_(1.5).add_(torch.rand_like(weight))


def in_inference_mode(clip, weight):
    with torch.inference_mode():
        weight.mul_(1.5).add_(torch.rand_like(weight))


def others(clip):
    return {name: value + torch.rand_like(value) for name, value in clip.state_dict().items()}


def by_load_state_dict(clip, weight):
    clip.load_state_dict(others(clip))


def by_assignment(clip, weight):
    clip.load_state_dict(
        {name: value + torch.rand_like(value) for name, value in clip.state_dict().items()}, assign=True
    )


def by_new_data(clip, weight):
    weight.data = weight.data * 1.5 + torch.rand_like(weight)


def by_rounding_all(clip, weight):
    clip.half().double()


LAYER = "text_model.encoder.layers.1.mlp.fc1.weight"
TABLES = "text_model.embeddings.base_layer.{}_embedding.weight"
CHANGES = [
    *((LAYER, change) for change in (by_optimizer, by_fused_optimizer, in_place, in_inference_mode)),
    *((LAYER, change) for change in (by_load_state_dict, by_assignment, by_new_data, by_rounding_all)),
    ("text_projection.weight", by_fused_optimizer),
    ("text_model.final_layer_norm.bias", in_place),
    (TABLES.format("token"), in_place),
    (TABLES.format("position"), in_place),
]


@pytest.mark.parametrize("disabled", [False, True], ids=["learned", "zero-shot"])
@pytest.mark.parametrize("name, change", CHANGES, ids=lambda value: getattr(value, "__name__", value))
def test_a_changed_weight_changes_the_features(make_model, features, name, change, disabled):
    model = make_model("front")
    before = features(model, disabled)
    clip = model.get_base_model()
    change(clip, clip.get_parameter(name))
    after = features(model, disabled)
    assert (after - before).abs().max() > 1e-6
    torch.testing.assert_close(after, fresh(model, features, disabled=disabled), atol=1e-12, rtol=0)


def test_a_change_through_data_needs_clearing(make_model, features):
    model = make_model("front")
    before = features(model)
    model.text_projection.weight.data.mul_(2)
    model.text_model.encoder.layers[0].self_attn.k_proj.weight.data.mul_(2)
    model.clear_prompt_cache()
    assert not torch.allclose(features(model), before)
    torch.testing.assert_close(features(model), fresh(model, features), atol=1e-12, rtol=0)


@pytest.fixture
def with_lora(make_model):
    """A prompt on a CLIP whose text tower holds the LoRAs "a" and "b"."""

    def make(position):
        model = make_model(position)
        config = LoraConfig(r=2)
        for path in LORA:
            parent, _, child = path.rpartition(".")
            layer = lora.Linear(model.get_submodule(BASE + path), "a", config, r=2, lora_alpha=8)
            layer.update_layer("b", r=2, lora_alpha=8, config=config)
            setattr(model.get_submodule((BASE + parent).rstrip(".")), child, layer)
        generator = torch.Generator().manual_seed(5)
        for layer in lora_layers(model):
            for weight in (*layer.lora_A.parameters(), *layer.lora_B.parameters()):
                weight.data.copy_(torch.randn(weight.shape, generator=generator))
        return model

    return make


def lora_layers(model):
    return [module for module in model.modules() if hasattr(module, "lora_A")]


LORA_CHANGES = {
    "switched": lambda layer: layer.set_adapter("b"),
    "both": lambda layer: layer.set_adapter(["a", "b"]),
    "scaled": lambda layer: layer.scale_layer(3.0),
    "disabled": lambda layer: layer.enable_adapters(False),
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("change", LORA_CHANGES.values(), ids=LORA_CHANGES)
def test_a_loras_state_changes_the_features(with_lora, features, position, change):
    model = with_lora(position)
    layers = lora_layers(model)
    assert len(layers) == 2
    for layer in layers:
        layer.set_adapter("a")
    before = features(model)
    for layer in layers:
        change(layer)
    after = features(model)
    assert (after - before).abs().max() > 1e-6
    torch.testing.assert_close(after, fresh(model, features), atol=1e-12, rtol=0)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_merged_lora_gives_the_same_features(with_lora, features, position, monkeypatch):
    model = with_lora(position)
    for layer in lora_layers(model):
        layer.set_adapter("a")
    before = features(model)
    calls = count_passes(monkeypatch)
    for layer in lora_layers(model):
        layer.merge()
    torch.testing.assert_close(features(model), before, atol=1e-9, rtol=0)
    assert calls


@pytest.mark.parametrize("change", [*LORA_CHANGES, "none"])
def test_in_training_too(with_lora, change, pixel_values):
    model = with_lora("front").train()
    for layer in lora_layers(model):
        layer.set_adapter("a")
        for weight in layer.parameters():
            weight.requires_grad_(False)

    def step(model):
        model.zero_grad()
        embeds = torch.ones(2, 40, dtype=torch.float64)
        model(image_embeds=embeds, labels=torch.tensor([0, 1])).loss.backward()
        return model.get_base_model().prompt_layer.learned_prompts["default"].ctx.grad.clone()

    before = step(model)
    for layer in lora_layers(model):
        LORA_CHANGES.get(change, lambda layer: None)(layer)
        for weight in layer.parameters():
            weight.requires_grad_(False)
    after = step(model)
    assert torch.equal(after, before) == (change == "none")
    torch.testing.assert_close(after, step(copy.deepcopy(model)), atol=1e-12, rtol=0)


def add_hook(clip):
    clip.text_projection.register_forward_hook(lambda module, given, output: output * 2)


def replace_forward(clip):
    clip.text_model.final_layer_norm.forward = lambda states: states * 2


class Doubled(nn.Linear):
    factor = 2

    def forward(self, states):
        return super().forward(states) * self.factor


def replace_layer(clip):
    clip.text_projection.__class__ = Doubled


def parametrize(clip):
    nn.utils.parametrize.register_parametrization(clip.text_projection, "weight", Doubling())


class Doubling(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("foreign", [add_hook, replace_forward, replace_layer, parametrize])
def test_what_is_foreign_is_computed_in_every_call(make_model, features, foreign, position, monkeypatch):
    model = make_model(position)
    before = features(model)
    foreign(model.get_base_model())
    after = features(model)
    assert not torch.allclose(after, before)
    calls = count_passes(monkeypatch)
    assert torch.equal(features(model), after)
    assert calls


def test_a_foreign_layer_may_change_unseen(make_model, features):
    model = make_model()
    replace_layer(model.get_base_model())
    before = features(model)
    model.text_projection.factor = 6
    torch.testing.assert_close(features(model), 3 * before, atol=1e-9, rtol=0)


def test_recorded_hidden_states_do_not_stop_the_keeping(make_model, features, tokenizer, monkeypatch):
    model = make_model()
    with model.disable_adapter(), torch.no_grad():
        texts = tokenizer(["a cat"], return_tensors="pt")
        recorded = model.get_base_model().text_model(**texts, output_hidden_states=True)
        assert recorded.hidden_states
    features(model)
    calls = count_passes(monkeypatch)
    features(model)
    assert not calls


@pytest.mark.parametrize("position", POSITIONS)
def test_dropout_is_drawn_anew(make_model, position, monkeypatch):
    model = make_model(position).train()
    attention = model.text_model.encoder.layers[0].self_attn.train()  # which a frozen tower's is not by itself
    attention.dropout = 0.5
    calls = count_passes(monkeypatch)
    for _ in range(2):
        model(image_embeds=torch.ones(2, 40), labels=torch.tensor([0, 1]))
    assert len(calls) == 2 * (1 if position == "end" else 2)


def test_a_weight_in_the_place_of_one_that_is_gone_is_another(make_model, features):
    model = make_model()
    before = features(model)
    for factor in (2, 3, 4, 5):
        weight = nn.Parameter(model.text_projection.weight.detach() * factor, requires_grad=False)
        model.get_base_model().text_projection.weight = weight
        after = features(model)
        torch.testing.assert_close(after, factor * before, atol=1e-9, rtol=1e-9)
        before = after


def test_the_trainers_loss_follows_a_projection_that_is_trained(make_model, tmp_path):
    model = make_model()
    model.requires_grad_(False)
    model.text_projection.weight.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(6, 40, generator=generator, dtype=torch.float64)
    data = [{"image_embeds": each, "labels": index % 3} for index, each in enumerate(embeds)]
    arguments = TrainingArguments(
        tmp_path,
        num_train_epochs=3,
        eval_strategy="epoch",
        learning_rate=0.1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses[0] > losses[1] > losses[2]
    model.eval()
    with torch.no_grad():
        labels = torch.tensor([each["labels"] for each in data])
        exact = copy.deepcopy(model)(image_embeds=embeds, labels=labels).loss.item()
    assert losses[-1] == pytest.approx(exact, abs=1e-6)
