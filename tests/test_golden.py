"""The original implementation's numbers, on a tiny random CLIP."""

import pytest
import torch
from peft import get_peft_model

from peft_coop import CoOpConfig

CASES = ["case0", "case1", "case2"]
PARTS = {
    "ctx": "learned_prompts.default.ctx",
    "meta_net.linear1.weight": "learned_prompts.default.meta_net_linear1.weight",
    "meta_net.linear1.bias": "learned_prompts.default.meta_net_linear1.bias",
    "meta_net.linear2.weight": "learned_prompts.default.meta_net_linear2.weight",
    "meta_net.linear2.bias": "learned_prompts.default.meta_net_linear2.bias",
}


def load_case(golden, key):
    [case] = [case for case in golden["cases"] if case["key"] == key]
    prefix = f"{key}/"
    return case, {
        name.removeprefix(prefix): value for name, value in golden["tensors"].items() if name.startswith(prefix)
    }


@pytest.fixture(params=CASES)
def case(request, golden):
    return load_case(golden, request.param)


@pytest.fixture
def model(golden, golden_clip, tokenizer_path, case):
    """The case's model at its start, and its learnable tensors by their golden names."""
    settings, tensors = case
    config = CoOpConfig(
        n_ctx=settings["n_ctx"],
        ctx_init=settings.get("ctx_init"),
        meta_net=settings["method"] == "cocoop",
        class_names=golden["class_names"],
        zero_shot_template=golden["zero_shot_template"],
        tokenizer_name_or_path=tokenizer_path,
    )
    model = get_peft_model(golden_clip, config)
    for name, parameter in learnable(model).items():
        if settings.get("ctx_init") and name == "ctx":
            assert torch.equal(parameter, tensors["ctx"])
        parameter.data.copy_(tensors[name])
    return model


def learnable(model):
    layer = model.get_base_model().text_model.embeddings
    parameters = dict(layer.named_parameters())
    return {name: parameters[path] for name, path in PARTS.items() if path in parameters}


def test_logits_at_the_start(model, golden, case):
    with torch.no_grad():
        logits = model(pixel_values=golden["tensors"]["pixel_values"]).logits
    torch.testing.assert_close(logits, case[1]["logits"], atol=1e-4, rtol=0)


def test_first_gradients(model, golden, case):
    model(pixel_values=golden["tensors"]["pixel_values"], labels=golden["tensors"]["labels"]).loss.backward()
    parameters = learnable(model)
    expected = {key.removeprefix("grad."): value for key, value in case[1].items() if key.startswith("grad.")}
    assert set(expected) == set(parameters)
    for name, gradient in expected.items():
        difference = (parameters[name].grad - gradient).norm() / gradient.norm()
        assert difference < 1e-4, name


def test_ten_steps(model, golden, case):
    settings, expected = case
    recipe = settings["optimizer"]
    optimizer = torch.optim.SGD(
        (parameter for parameter in model.parameters() if parameter.requires_grad),
        lr=recipe["lr"],
        momentum=recipe["momentum"],
        weight_decay=recipe["weight_decay"],
    )
    inputs = {name: golden["tensors"][name] for name in ("pixel_values", "labels")}
    losses = []
    for _ in range(recipe["steps"]):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(torch.tensor(losses, dtype=torch.float64), expected["losses"], atol=1e-4, rtol=0)
    for name, parameter in learnable(model).items():
        torch.testing.assert_close(parameter.detach(), expected[f"final.{name}"], atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected["final.logits"], atol=2e-3, rtol=0)


def test_disabled_is_zero_shot(model, golden):
    with torch.no_grad(), model.disable_adapter():
        logits = model(pixel_values=golden["tensors"]["pixel_values"]).logits
    torch.testing.assert_close(logits, golden["tensors"]["zero_shot/logits"], atol=1e-4, rtol=0)
