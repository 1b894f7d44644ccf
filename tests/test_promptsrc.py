"""PromptSRC: IVLP's prompts, three further terms of the loss, and a mean over epochs in the end."""

import pytest
import torch
from conftest import make_clip
from golden_cases import AFTER_STEPS, LOGITS, assert_first_gradient, golden_case, golden_inputs, golden_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_deep_golden import tensors_of
from torch.nn.functional import kl_div, log_softmax, normalize

from peft_coop import METHODS, PromptAggregation, PromptSRCConfig
from peft_coop.recipes import Recipe
from peft_coop.towers.tree_tower import TreeTower

EXACT = {"atol": 1e-9, "rtol": 0}
NAMES = ["cat", "dog", "big ship"]
TEMPLATES = ["a photo of a {}.", "the {}.", "a drawing of many {}."]


def config_of(case, tokenizer_path):
    given = case.cases
    return PromptSRCConfig(
        class_names=case.class_names,
        tokenizer_name_or_path=tokenizer_path,
        n_ctx=given["n_ctx_text"],
        n_ctx_vision=given["n_ctx_vision"],
        prompt_depth=given["prompt_depth_text"],
        prompt_depth_vision=given["prompt_depth_vision"],
        aggregation_mean=given["gpa_mean"],
        aggregation_std=given["gpa_std"],
    )


@pytest.fixture(params=["case0", "case1"])
def case(request):
    return golden_case("promptsrc", request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def golden(request, case, tokenizer_path):
    model = get_peft_model(golden_model(case), config_of(case, tokenizer_path))
    model.prompt_layer.prompt.load_state_dict(tensors_of(case, "init"))
    return model.to(request.param).train()


def test_the_templates_are_the_originals(case):
    from peft_coop.methods.promptsrc import clip_templates

    assert clip_templates() == case.templates


def test_start(golden, case):
    outputs = golden(**golden_inputs(case, golden.dtype))
    torch.testing.assert_close(outputs.logits.float(), case.tensors["logits"], **LOGITS)
    parts, settings = outputs.loss_parts, golden.prompt_layer.prompt.settings
    weights = {"cross_entropy": 1, "text": settings.text_loss_weight, "image": settings.image_loss_weight, "logit": 1}
    weighted = torch.stack([weight * parts[name] for name, weight in weights.items()])
    torch.testing.assert_close(weighted.float(), case.tensors["loss_parts"].float(), atol=2e-5, rtol=0)
    torch.testing.assert_close(outputs.loss, weighted.sum(), atol=1e-5, rtol=0)
    outputs.loss.backward()
    expected = tensors_of(case, "grad")
    for name, parameter in golden.prompt_layer.prompt.named_parameters():
        assert_first_gradient(parameter.grad, expected[name])


def test_ten_steps_and_the_mean_over_epochs(golden, case):
    recipe, prompt = case.cases["optimizer"], golden.prompt_layer.prompt
    rates = {name: recipe[name] for name in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(prompt.parameters(), **rates)
    aggregation = PromptAggregation(case.cases["max_epoch"], case.cases["gpa_mean"], case.cases["gpa_std"])
    torch.testing.assert_close(torch.tensor(aggregation.weights), case.tensors["gauss"].float(), atol=1e-6, rtol=0)
    losses, inputs = [], golden_inputs(case, golden.dtype)
    for step in range(recipe["steps"]):
        golden.zero_grad()
        losses.append(golden(**inputs).loss)
        losses[-1].backward()
        optimizer.step()
        if (step + 1) % case.cases["steps_per_epoch"] == 0:
            aggregation.update(golden)
    torch.testing.assert_close(torch.stack(losses).float(), case.tensors["losses"].float(), atol=3e-5, rtol=0)
    for name, expected in tensors_of(case, "final_before_gpa").items():
        torch.testing.assert_close(prompt.get_parameter(name).float(), expected, atol=1e-5, rtol=0)
    aggregation.finish(golden)
    for name, expected in tensors_of(case, "final").items():
        torch.testing.assert_close(prompt.get_parameter(name).float(), expected, atol=1e-5, rtol=0)
    golden.eval()
    images = {"pixel_values": inputs["pixel_values"]}
    with torch.no_grad():
        torch.testing.assert_close(golden(**images).logits.float(), case.tensors["final.logits"], **AFTER_STEPS)
        golden.set_classes(case.new_class_names)
        torch.testing.assert_close(golden(**images).logits.float(), case.tensors["final.logits_new"], **AFTER_STEPS)


@pytest.fixture
def make_model(tokenizer_path):
    def make(**settings):
        torch.manual_seed(0)
        config = PromptSRCConfig(
            **{
                "class_names": NAMES,
                "tokenizer_name_or_path": tokenizer_path,
                "teacher_templates": TEMPLATES,
                **settings,
            }
        )
        model = get_peft_model(make_clip().double(), config)
        for weight in model.prompt_layer.prompt.parameters():
            weight.data.add_(torch.randn(weight.shape), alpha=0.3)
        return model

    return make


def pixels(count=4):
    return torch.randn(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def teacher(tokenizer, images):
    """Unit features of the frozen model: texts averaged before they are normalised, and images."""
    clip = make_clip().double()
    with torch.no_grad():
        features = []
        for template in TEMPLATES:
            inputs = tokenizer([template.format(name) for name in NAMES], padding=True, return_tensors="pt")
            features.append(clip.get_text_features(**inputs).pooler_output)
        texts = normalize(torch.stack(features).mean(0), dim=-1)
        seen = normalize(clip.get_image_features(pixel_values=images).pooler_output, dim=-1)
    return texts, seen, clip.logit_scale.exp() * seen @ texts.T


def test_the_terms_of_the_loss_are_those_written_out(make_model, tokenizer):
    model, labels = (
        make_model(text_loss_weight=3.0, image_loss_weight=0.5, logit_loss_weight=7.0),
        torch.tensor([0, 1, 2, 0]),
    )
    outputs = model.train()(pixel_values=pixels(), labels=labels)
    texts, images, logits = teacher(tokenizer, pixels())
    parts = {
        "cross_entropy": torch.nn.functional.cross_entropy(outputs.logits, labels),
        "text": (outputs.text_embeds - texts).abs().mean(),
        "image": (outputs.image_embeds - images).abs().mean(),
        "logit": kl_div(log_softmax(outputs.logits, -1), log_softmax(logits, -1), log_target=True, reduction="sum")
        / 12,
    }
    for name, expected in parts.items():
        torch.testing.assert_close(outputs.loss_parts[name], expected.detach(), **EXACT)
    expected = parts["cross_entropy"] + 3 * parts["text"] + 0.5 * parts["image"] + 7 * parts["logit"]
    torch.testing.assert_close(outputs.loss, expected, **EXACT)


def test_in_evaluation_the_loss_is_cross_entropy(make_model):
    labels = torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        outputs = make_model().eval()(pixel_values=pixels(), labels=labels)
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, labels), **EXACT)


@pytest.mark.parametrize("beside", [False, True])
def test_the_frozen_models_texts_are_computed_once(make_model, monkeypatch, beside):
    """What is trained beside the prompt, a LoRA for example, has no part in the frozen model."""
    model = make_model()
    if beside:
        model.add_adapter("style", LoraConfig(target_modules=["q_proj"], lora_dropout=0.5, modules_to_save=["fc1"]))
        model.double()
    optimizer = torch.optim.SGD([weight for weight in model.train().parameters() if weight.requires_grad], lr=0.1)
    encode, read = TreeTower.encode, []
    monkeypatch.setattr(TreeTower, "encode", lambda *given, **more: read.append(0) or encode(*given, **more))

    def step():
        read.clear()
        optimizer.zero_grad()
        model(pixel_values=pixels(), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        optimizer.step()
        return len(read)

    assert [step() for _ in range(3)] == [1 + len(TEMPLATES), 1, 1]
    model.set_classes(NAMES[:2])
    assert [step() for _ in range(2)] == [1 + len(TEMPLATES), 1]


def test_a_lora_beside_it_does_not_teach(make_model, tokenizer):
    model = make_model()
    model.add_adapter("style", LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    outputs = model.double().train()(pixel_values=pixels(), labels=torch.tensor([0, 1, 2, 0]))
    texts, images, _ = teacher(tokenizer, pixels())
    torch.testing.assert_close(outputs.loss_parts["text"], (outputs.text_embeds - texts).abs().mean().detach(), **EXACT)
    torch.testing.assert_close(
        outputs.loss_parts["image"], (outputs.image_embeds - images).abs().mean().detach(), **EXACT
    )


def test_saved_under_the_names_of_the_contract(make_model, tmp_path):
    model = make_model().eval()
    model.save_pretrained(tmp_path)
    place = "base_model.model.text_model.embeddings.promptsrc_"
    names = {"ctx", "deep_ctx.0", "vision_ctx", "deep_vision_ctx.0"}
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {place + name for name in names}
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path).eval()
    torch.testing.assert_close(loaded(pixel_values=pixels()).logits, model(pixel_values=pixels()).logits, **EXACT)


def test_depths_and_numbers_are_the_papers():
    config = PromptSRCConfig()
    assert (config.n_ctx, config.n_ctx_vision, config.depth) == (4, 4, 9)
    assert (config.text_loss_weight, config.image_loss_weight, config.logit_loss_weight) == (25, 10, 1)
    assert (config.aggregation_mean, config.aggregation_std) == (15, 1)


def test_the_papers_recipes():
    method = METHODS["promptsrc"]
    assert method.recipe(16, None, "base-to-new") == Recipe(20, 4, 0.0025)
    assert method.recipe(16, "dtd", "few-shot") == Recipe(50, 4, 0.0025)
    assert method.fields("few-shot", "dtd") == {"aggregation_mean": 45.0, "aggregation_std": 5.0}
    assert method.fields("few-shot", "food101") == {"aggregation_mean": 30.0, "aggregation_std": 30.0}
    far = {"prompt_depth": 3, "prompt_depth_vision": 3, "aggregation_mean": 6.0, "aggregation_std": 10.0}
    assert method.fields("domain") == method.fields("cross-dataset", "imagenet") == far
    assert method.fields("base-to-new") == {}
    [callback] = method.callbacks_of(PromptSRCConfig(aggregation_mean=6, aggregation_std=10), Recipe(20, 4))
    assert (callback.num_epochs, callback.mean, callback.std) == (20, 6, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_loss_weight": -1}, "`text_loss_weight` must be a finite number of 0 or more"),
        ({"aggregation_std": 0}, "`aggregation_std` must be a finite number above 0"),
        ({"teacher_templates": []}, "`teacher_templates` must be a list of one template or more"),
        ({"teacher_templates": "a {}"}, "`teacher_templates` must be a list of one template or more"),
        ({"teacher_templates": ["a photo"]}, "`teacher_templates` must hold the class name's place"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PromptSRCConfig(**settings)
