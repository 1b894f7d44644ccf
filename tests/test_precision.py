"""In which precision similarities, logits and losses are computed."""

import pytest
import torch
from peft import get_peft_model
from torch.func import functional_call

from peft_coop import CoCoOpConfig, CoOpConfig

NAMES = ["cat", "dog", "hot air balloon"]
METHODS = {"coop": CoOpConfig, "cocoop": CoCoOpConfig}


@pytest.fixture(params=METHODS)
def model(request, clip, tokenizer_path):
    config = METHODS[request.param](class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
    return get_peft_model(clip, config)


def test_gradients_of_a_float64_model_equal_finite_differences(model, pixel_values):
    model = model.double()
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    pixel_values, labels = pixel_values[:2].double(), torch.tensor([2, 0])

    def loss(*weights):
        call = functional_call(
            model, dict(zip(learned, weights, strict=True)), kwargs={"pixel_values": pixel_values, "labels": labels}
        )
        return call.loss

    assert torch.autograd.gradcheck(loss, tuple(learned.values()), fast_mode=True, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_outputs_are_float64_where_the_model_is(model, pixel_values):
    outputs = model.double()(pixel_values=pixel_values.double(), labels=torch.zeros(5, dtype=torch.int64))
    assert {value.dtype for value in outputs.values()} == {torch.float64}
    texts = outputs.text_embeds.expand(5, -1, -1)
    cosines = (outputs.image_embeds[:, None] * texts).sum(-1)
    torch.testing.assert_close(outputs.logits, model.logit_scale.exp() * cosines, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_outputs_are_float32_elsewhere(model, pixel_values, dtype):
    model = model.to(dtype)
    outputs = model(pixel_values=pixel_values.to(dtype), labels=torch.zeros(5, dtype=torch.int64))
    assert {value.dtype for value in outputs.values()} == {torch.float32}


def test_features_may_have_another_precision_than_the_model(model):
    embeds = torch.randn(5, 40, generator=torch.Generator().manual_seed(2))
    from_double = model(image_embeds=embeds.double())
    assert from_double.logits.dtype == torch.float32
    assert torch.equal(from_double.logits, model(image_embeds=embeds).logits)
    assert model.double()(image_embeds=embeds).logits.dtype == torch.float64
