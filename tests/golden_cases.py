"""The numbers that later methods' own code computed: `golden/METHOD.json` and `.safetensors`, one file for each.

Tolerances are those of ten times what an independent computation on `transformers` differed by.
"""

import json
from types import SimpleNamespace

import torch
from conftest import GOLDEN
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

LOGITS = {"atol": 2e-5, "rtol": 0}
AFTER_STEPS = {"atol": 1e-4, "rtol": 0}


def golden_case(method: str, key: str) -> SimpleNamespace:
    """A case: its settings, its tensors without the prefix, the inputs, and how to make the CLIP."""
    settings = json.loads((GOLDEN / f"{method}.json").read_text(encoding="utf-8"))
    tensors = load_file(GOLDEN / f"{method}.safetensors")
    [case] = [each for each in settings["cases"] if each["key"] == key]
    own = {name.removeprefix(f"{key}/"): value for name, value in tensors.items() if name.startswith(f"{key}/")}
    return SimpleNamespace(**settings | {"cases": case, "tensors": own, "all": tensors})


def golden_model(case: SimpleNamespace) -> CLIPModel:
    """The tiny random CLIP."""
    model = CLIPModel(CLIPConfig(**case.clip_config)).eval()
    weights = {key.removeprefix("clip/"): value for key, value in case.all.items() if key.startswith("clip/")}
    result = model.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) <= {"text_model.embeddings.token_embedding.weight"}
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight[case.all["token_ids"]] = case.all["token_embedding_rows"]
    return model


def golden_start(case: SimpleNamespace, config: PeftConfig, dtype: torch.dtype) -> PeftModel:
    """The case's model at its start, in training mode; what words start is checked, what is random is copied."""
    model = get_peft_model(golden_model(case), config)
    ctx = model.prompt_layer.prompt.ctx
    if config.ctx_init is not None:
        assert torch.equal(ctx, case.tensors["init.ctx"])
    ctx.data.copy_(case.tensors["init.ctx"])
    return model.to(dtype).train()


def golden_inputs(case: SimpleNamespace, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {"pixel_values": case.all["pixel_values"].to(dtype), "labels": case.all["labels"]}


def take_steps(model: PeftModel, case: SimpleNamespace) -> list[dict[str, float]]:
    """The case's SGD steps; the parts of each step's loss, and the loss as "loss"."""
    recipe = case.cases["optimizer"]
    ctx = model.prompt_layer.prompt.ctx
    names = ("lr", "momentum", "weight_decay")
    optimizer = torch.optim.SGD([ctx], **{name: recipe[name] for name in names})
    inputs, noted = golden_inputs(case, ctx.dtype), []
    for _ in range(recipe["steps"]):
        model.zero_grad()
        outputs = model(**inputs)
        outputs.loss.backward()
        optimizer.step()
        noted.append({"loss": outputs.loss.item()} | {key: part.item() for key, part in outputs.loss_parts.items()})
    return noted


def assert_first_gradient(gradient: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = 1e-5 * max(1, expected.abs().max().item())
    torch.testing.assert_close(gradient.float(), expected, atol=tolerance, rtol=0)


def assert_end(model: PeftModel, case: SimpleNamespace) -> None:
    """The learned vectors, and logits of the classes and of new ones, after the steps."""
    ctx = model.prompt_layer.prompt.ctx.detach()
    torch.testing.assert_close(ctx.float(), case.tensors["final.ctx"], atol=1e-5, rtol=0)
    model.eval()
    inputs = {"pixel_values": case.all["pixel_values"].to(ctx.dtype)}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits.float(), case.tensors["final.logits"], **AFTER_STEPS)
        model.set_classes(case.new_class_names)
        torch.testing.assert_close(model(**inputs).logits.float(), case.tensors["final.logits_new"], **AFTER_STEPS)
