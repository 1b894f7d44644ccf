"""DenseCLIP: the numbers of the original's code, in float32 and in float64, from pixels to ten steps of training."""

import pytest
import torch
from golden_cases import golden_case, golden_model
from peft import get_peft_model

from peft_coop import DenseCLIPConfig
from peft_coop.towers import cosine_logits, encode_templates, normalize, scale_and_bias, text_reader

CLOSE = {"atol": 8e-5, "rtol": 0}  # ten times what was seen
NAMES = {"contexts": "ctx", "context_decoder": "decoder", "backbone": "pyramid", "decode_head": "head"}
EVALUATED = ("text_embeds", "score_map", "logits")


def own_name(name: str) -> str:
    first, dot, rest = name.partition(".")
    return NAMES.get(first, first) + dot + rest


def tensors_of(tensors: dict, start: str) -> dict[str, torch.Tensor]:
    """The original's tensors, by our names; its contexts are those of a batch of one."""
    own = {own_name(key.removeprefix(start)): value for key, value in tensors.items() if key.startswith(start)}
    return own | ({"ctx": own["ctx"][0]} if "ctx" in own else {})


@pytest.fixture(params=["case0", "case1"])
def case(request):
    return golden_case("denseclip", request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def model(request, case, tokenizer_path):
    """At the case's start."""
    clip = golden_model(case)
    if "class_embedding" in case.tensors:
        clip.vision_model.embeddings.class_embedding.data.copy_(case.tensors["class_embedding"])
    decoder = {f"decoder_{name}": case.decoder[name] for name in ("width", "layers", "heads")}
    config = DenseCLIPConfig(
        class_names=case.class_names,
        tokenizer_name_or_path=tokenizer_path,
        n_ctx=case.n_ctx,
        max_class_tokens=case.max_class_tokens,
        out_indices=case.out_indices,
        score_level=case.score_level,
        tau=case.tau,
        aux_loss_weight=case.aux_loss_weight,
        head_channels=case.head_channels,
        train_vision=False,
        reference_quirks=True,
        decoder_dropout=0,
        head_dropout=0,
        drop_path=0,
        **decoder,
    )
    model = get_peft_model(clip, config)
    model.prompt_layer.prompt.load_state_dict(tensors_of(case.all, "model/"))
    return model.to(request.param)


def inputs_of(case, model) -> dict[str, torch.Tensor]:
    return {"pixel_values": case.tensors["pixel_values"].to(model.dtype), "labels": case.tensors["labels"]}


def assert_stored(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), **CLOSE)


def test_in_evaluation(model, case):
    with torch.no_grad():
        outputs = model.eval()(**inputs_of(case, model))
        assert_stored(model.get_text_features().pooler_output, case.all["text_bank"])
    for name in EVALUATED:
        assert_stored(outputs[name], case.tensors[f"eval.{name}"])
    assert_stored(case.aux_loss_weight * outputs.loss_aux, case.tensors["eval.loss_aux"])
    decode = outputs.loss - case.aux_loss_weight * outputs.loss_aux
    assert_stored(decode, case.tensors["eval.loss_decode"])
    assert_stored(outputs.loss_parts["cross_entropy"], case.tensors["eval.loss_decode"])


def test_first_step(model, case):
    outputs = model.train()(**inputs_of(case, model))
    assert_stored(outputs.logits, case.tensors["train.logits"])
    assert_stored(outputs.loss, case.tensors["loss"])
    outputs.loss.backward()
    expected = tensors_of(case.tensors, "grad.")
    own = dict(model.prompt_layer.prompt.named_parameters())
    assert own.keys() == expected.keys()
    for name, parameter in own.items():
        # Where the true gradient is zero, what is stored is rounding.
        tolerance = 6e-5 * max(expected[name].abs().max().item(), 1e-3)
        torch.testing.assert_close(parameter.grad.float(), expected[name], atol=tolerance, rtol=0, msg=name)
    learned = {f"base_model.model.text_model.embeddings.learned_prompts.default.{name}" for name in own}
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == learned


def test_ten_steps(model, case):
    """Batch norms' statistics included: they are used afterwards."""
    recipe, prompt = case.cases["optimizer"], model.prompt_layer.prompt
    rates = {"neck": "lr", "head": "lr", "pyramid": "lr_of_backbone"}
    groups = [
        {"params": [weight], "lr": recipe[rates.get(name.split(".")[0], "lr_of_prompt")]}
        for name, weight in prompt.named_parameters()
    ]
    optimizer = torch.optim.SGD(groups, momentum=recipe["momentum"])
    inputs, noted = inputs_of(case, model), {"losses": [], "losses_decode": [], "losses_aux": []}
    model.train()
    for _ in range(recipe["steps"]):
        optimizer.zero_grad()
        outputs = model(**inputs)
        outputs.loss.backward()
        optimizer.step()
        noted["losses"].append(outputs.loss.detach())
        noted["losses_decode"].append(outputs.loss_parts["cross_entropy"])
        noted["losses_aux"].append(case.aux_loss_weight * outputs.loss_parts["auxiliary"])
    for name, values in noted.items():
        assert_stored(torch.stack(values), case.tensors[name])
    with torch.no_grad():
        outputs = model.eval()(pixel_values=inputs["pixel_values"])
    for name in ("logits", "score_map"):
        assert_stored(outputs[name], case.tensors[f"final.{name}"])
    assert_stored(prompt.ctx.detach()[None], case.tensors["final.contexts"])
    assert_stored(prompt.gamma.detach(), case.tensors["final.gamma"])


def test_the_frozen_model_on_whole_images(case, tokenizer_path):
    """That the weights are right: without the quirks, on whole images, as any CLIP."""
    clip = golden_model(case).double()
    texts = encode_templates(clip, case.class_names, ["a photo of a {}."], text_reader(clip, tokenizer_path))
    with torch.no_grad():
        images = clip.get_image_features(case.all["zero_shot/pixel_values"].double()).pooler_output
    logits = cosine_logits(normalize(images), normalize(texts), *scale_and_bias(clip, images))
    torch.testing.assert_close(logits, case.all["zero_shot/logits"].double(), atol=2e-4, rtol=0)
