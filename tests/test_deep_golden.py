"""MaPLe, IVLP and VPT: the numbers of the papers' own code, in float32 and in float64."""

import re

import pytest
import torch
from golden_cases import AFTER_STEPS, LOGITS, assert_first_gradient, golden_case, golden_inputs, golden_model
from peft import get_peft_model

from peft_coop import IVLPConfig, MaPLeConfig, VPTConfig

CASES = [(method, f"case{index}") for method in ("maple", "ivlp") for index in range(3)]
# What the original calls each tensor, and what it is called here.
NAMES = {
    r"prompt_learner\.ctx": "ctx",
    r"prompt_learner\.proj\.(\w+)": r"projection.\1",
    r"prompt_learner\.compound_prompts_text\.(\d+)": r"deep_ctx.\1",
    r"prompt_learner\.compound_prompt_projections\.(\d+)\.(\w+)": r"deep_projections.\1.\2",
    r"image_encoder\.VPT": "vision_ctx",
    r"image_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow": lambda found: f"deep_vision_ctx.{int(found[1]) - 1}",
    r"text_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow": lambda found: f"deep_ctx.{int(found[1]) - 1}",
}


def own_name(name: str) -> str:
    [(pattern, own)] = [(pattern, own) for pattern, own in NAMES.items() if re.fullmatch(pattern, name)]
    return re.sub(pattern, own, name)


def tensors_of(case, kind: str) -> dict[str, torch.Tensor]:
    """The original's tensors of one kind ("init", "grad", "final"), by our names."""
    start = f"{kind}."
    own = {key.removeprefix(start): value for key, value in case.tensors.items() if key.startswith(start)}
    return {own_name(key): value for key, value in own.items() if key not in ("logits", "logits_new")}


def config_of(case, tokenizer_path):
    given = case.cases
    settings = {"class_names": case.class_names, "tokenizer_name_or_path": tokenizer_path}
    if given.get("trainer") == "VPT":
        vision = {"n_ctx_vision": given["n_ctx_vision"], "prompt_depth_vision": given["prompt_depth_vision"]}
        return VPTConfig(**settings, **vision, zero_shot_template=case.zero_shot_template)
    if given["method"] == "maple":
        return MaPLeConfig(**settings, n_ctx=given["n_ctx"], prompt_depth=given["prompt_depth"])
    depths = {"prompt_depth": given["prompt_depth_text"], "prompt_depth_vision": given["prompt_depth_vision"]}
    return IVLPConfig(**settings, **depths, n_ctx=given["n_ctx_text"], n_ctx_vision=given["n_ctx_vision"])


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    return golden_case(*request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def model(request, case, tokenizer_path):
    """At the case's start, in training mode; what words start is checked, what is random is copied."""
    model = get_peft_model(golden_model(case), config_of(case, tokenizer_path))
    prompt, start = model.prompt_layer.prompt, tensors_of(case, "init")
    if "ctx" in start and "noise" not in case.cases:
        assert torch.equal(prompt.ctx, start["ctx"])
    assert {name: value.shape for name, value in start.items()} == {
        name: value.shape for name, value in prompt.state_dict().items()
    }
    prompt.load_state_dict(start)
    return model.to(request.param).train()


def test_start(model, case):
    outputs = model(**golden_inputs(case, model.dtype))
    torch.testing.assert_close(outputs.logits.float(), case.tensors["logits"], **LOGITS)
    outputs.loss.backward()
    expected = tensors_of(case, "grad")
    learned = dict(model.prompt_layer.prompt.named_parameters())
    assert learned.keys() == expected.keys()
    for name, parameter in learned.items():
        assert_first_gradient(parameter.grad, expected[name])


def test_after_ten_steps(model, case):
    recipe = case.cases["optimizer"]
    prompt = model.prompt_layer.prompt
    rates = {name: recipe[name] for name in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(prompt.parameters(), **rates)
    losses, inputs = [], golden_inputs(case, model.dtype)
    for _ in range(recipe["steps"]):
        model.zero_grad()
        losses.append(model(**inputs).loss)
        losses[-1].backward()
        optimizer.step()
    torch.testing.assert_close(torch.stack(losses).float(), case.tensors["losses"], atol=2e-5, rtol=0)
    for name, expected in tensors_of(case, "final").items():
        torch.testing.assert_close(prompt.state_dict()[name].float(), expected, atol=1e-5, rtol=0)
    model.eval()
    images = {"pixel_values": inputs["pixel_values"]}
    with torch.no_grad():
        torch.testing.assert_close(model(**images).logits.float(), case.tensors["final.logits"], **AFTER_STEPS)
        model.set_classes(case.new_class_names)
        torch.testing.assert_close(model(**images).logits.float(), case.tensors["final.logits_new"], **AFTER_STEPS)


def test_disabled_it_is_the_frozen_model(model, case):
    inputs = {"pixel_values": case.all["pixel_values"].to(model.dtype)}
    with model.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits.float(), case.all["zero_shot/logits"], **LOGITS)
