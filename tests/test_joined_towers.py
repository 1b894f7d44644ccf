"""Two towers loaded separately are the dual encoder that they come from."""

import pytest
import torch
import transformers
from peft import get_peft_model
from tiny_families import FAMILIES
from transformers import AutoModel

from peft_coop import CoOpConfig, join_towers

TEXTS = ["a photo of a cat.", "a photo of a big dog."]
TOWERS = {
    "clip": ("CLIPTextModelWithProjection", "CLIPVisionModelWithProjection"),
    "metaclip_2": ("MetaClip2TextModelWithProjection", "MetaClip2VisionModelWithProjection"),
    "siglip": ("SiglipTextModel", "SiglipVisionModel"),
    "siglip2": ("Siglip2TextModel", "Siglip2VisionModel"),
}


def load(family, folder, **more):
    """The whole model as it was saved, and its two towers loaded alone."""
    model = family.make_model()
    model.save_pretrained(folder)
    family.make_tokenizer(folder)
    width = {"projection_dim": 40} if "projection_dim" in family.settings else {}
    towers = [getattr(transformers, name).from_pretrained(folder, **width, **more) for name in TOWERS[family.key]]
    scale = {"logit_scale": model.logit_scale.exp().item()}
    if hasattr(model, "logit_bias"):
        scale["logit_bias"] = model.logit_bias.item()
    return model, *towers, scale


@pytest.mark.parametrize("key", TOWERS)
def test_joined_towers_are_the_model_they_come_from(key, tmp_path):
    family = FAMILIES[key]
    model, text, vision, scale = load(family, tmp_path)
    joined = join_towers(text, vision, **scale)
    assert type(joined) is type(model)
    assert joined.name_or_path == str(tmp_path)
    assert {weight.data_ptr() for weight in text.parameters()} <= {weight.data_ptr() for weight in joined.parameters()}
    tokenizer, images = family.make_tokenizer(tmp_path), family.image_inputs()
    expected = family.own_logits(model, tokenizer, images, TEXTS)
    torch.testing.assert_close(family.own_logits(joined, tokenizer, images, TEXTS), expected)
    joined.save_pretrained(tmp_path / "joined")
    loaded = AutoModel.from_pretrained(tmp_path / "joined")
    torch.testing.assert_close(family.own_logits(loaded, tokenizer, images, TEXTS), expected)


@pytest.mark.parametrize("key", ["clip"])
def test_a_prompt_is_learned_on_joined_towers(key, tmp_path):
    family = FAMILIES[key]
    model, text, vision, scale = load(family, tmp_path)
    joined = join_towers(text, vision, **scale)
    config = CoOpConfig(class_names=["cat", "big dog"], ctx_init="a photo of a")
    classifier = get_peft_model(joined, config)
    logits = classifier.eval()(**family.image_inputs()).logits
    expected = family.own_logits(model, family.make_tokenizer(tmp_path), family.image_inputs(), TEXTS)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_towers_in_half_precision(tmp_path):
    _, text, vision, scale = load(FAMILIES["siglip"], tmp_path, dtype=torch.bfloat16)
    assert join_towers(text, vision, **scale).logit_bias.dtype == torch.bfloat16


def test_towers_that_do_not_fit_are_refused(tmp_path):
    _, text, vision, scale = load(FAMILIES["clip"], tmp_path / "clip")
    _, siglip_text, siglip_vision, _ = load(FAMILIES["siglip"], tmp_path / "siglip")
    with pytest.raises(ValueError, match=r"joined: CLIPTextModelWithProjection \('clip_text_model'\) and Siglip"):
        join_towers(text, siglip_vision, **scale)
    with pytest.raises(ValueError, match="cannot be joined: CLIPVisionModelWithProjection"):
        join_towers(vision, text, **scale)
    with pytest.raises(ValueError, match=r"CLIPTextModel has no `text_projection`: .* CLIPTextModelWithProjection"):
        join_towers(text.text_model, vision, **scale)
    with pytest.raises(ValueError, match=r"CLIPModel has no `logit_bias`, got -12\.0"):
        join_towers(text, vision, logit_scale=100, logit_bias=-12.0)
    with pytest.raises(ValueError, match="SiglipModel needs `logit_bias`"):
        join_towers(siglip_text, siglip_vision, logit_scale=100)
    for wrong in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"`logit_scale` must be above 0 and finite, got"):
            join_towers(text, vision, logit_scale=wrong)
    vision.config.projection_dim = 41
    with pytest.raises(ValueError, match="differ in width: 40 of texts and 41 of images"):
        join_towers(text, vision, **scale)
