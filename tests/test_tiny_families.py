"""The small models that stand for every family: that they are what they claim to be."""

import ast
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from tiny_families import FAMILIES, REFUSED, TinyFamily, make_refused
from transformers import AutoModel, AutoTokenizer, FlavaForPreTraining

TEXTS = ["a photo of a cat.", "a photo of a big dog.", "a red ship"]
KEYS = list(FAMILIES)


@pytest.fixture(params=KEYS)
def family(request) -> TinyFamily:
    return FAMILIES[request.param]


@pytest.fixture
def family_tokenizer(family, tmp_path):
    return family.make_tokenizer(tmp_path)


def test_own_logits_tell_texts_and_images_apart(family, family_tokenizer):
    model = family.make_model().double()
    logits = family.own_logits(model, family_tokenizer, family.image_inputs(batch=4), TEXTS)
    assert logits.shape == (4, 3)
    assert logits.dtype == torch.float64
    assert logits.isfinite().all()
    for rows in (logits, logits.T):
        assert torch.pdist(rows).min() > 0.01, rows


def test_a_model_is_the_same_each_time_and_leaves_the_random_numbers_alone(family):
    state = torch.get_rng_state()
    first, second, other = family.make_model(), family.make_model(), family.make_model(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    weights = dict(first.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in second.named_parameters())
    assert any(not torch.equal(parameter, weights[name]) for name, parameter in other.named_parameters())
    assert not first.training
    assert first.dtype == torch.float32


def test_the_model_is_of_the_family_and_loads_again(family, family_tokenizer, tmp_path):
    model = family.make_model()
    assert type(model).__name__ == family.model_class
    assert model.config.model_type == family.model_type
    model.save_pretrained(tmp_path)
    images = family.image_inputs()
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    logits = [family.own_logits(each, family_tokenizer, images, TEXTS) for each in (model, loaded)]
    torch.testing.assert_close(*logits)


def test_the_tokenizer_frames_a_text_and_loads_again(family, family_tokenizer, tmp_path):
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is type(family_tokenizer)
    before, behind = family.frame
    for each in (family_tokenizer, loaded):
        text = each.tokenize("a photo of a cat")
        assert len(text) == 5, text
        assert each.unk_token_id not in each.convert_tokens_to_ids([*text[1:], *each.tokenize("big red pet.")[1:]])
        framed = each.convert_ids_to_tokens(each("a photo of a cat")["input_ids"])
        assert framed == [*before, *text, *behind]


def test_texts_are_padded_as_the_processor_does(family, family_tokenizer):
    inputs = family.text_inputs(family_tokenizer, TEXTS)
    lengths = {len(each) for each in family_tokenizer(TEXTS)["input_ids"]}
    expected = family.positions if family.tokenize["padding"] == "max_length" else max(lengths)
    assert inputs["input_ids"].shape == (3, expected)
    assert ("attention_mask" in inputs) == ("siglip" not in family.key)


def test_a_state_depends_on_what_stands_behind_it_where_the_tower_is_not_causal(family, family_tokenizer):
    model = family.make_model().double()
    inputs = family.text_inputs(family_tokenizer, ["a photo of a cat", "a photo of a dog"])
    states = model.get_text_features(**inputs).last_hidden_state
    assert torch.equal(states[0, :4], states[1, :4]) == family.causal
    assert not torch.equal(states[0], states[1])


def test_the_scale_is_a_parameter(family):
    model = family.make_model()
    scale = getattr(model, family.scale)
    assert scale.numel() == 1
    assert isinstance(scale, torch.nn.Parameter)


def test_flava_logits_are_those_of_its_pretraining(tmp_path):
    family = FAMILIES["flava"]
    model = family.make_model()
    pretraining = FlavaForPreTraining(model.config).eval()
    pretraining.flava = model
    for other in ("itm", "mmm_image", "mmm_text"):  # heads for towers of one width
        setattr(pretraining, f"{other}_weight", 0)
    tokenizer, images = family.make_tokenizer(tmp_path), family.image_inputs(batch=3)
    inputs = {**family.text_inputs(tokenizer, TEXTS), **images}
    outputs = pretraining(**inputs, input_ids_masked=inputs["input_ids"], return_loss=False)
    logits = family.own_logits(model, tokenizer, images, TEXTS)
    torch.testing.assert_close(outputs.contrastive_logits_per_image, logits)


def test_aimv2_is_causal_by_torchs_attention_only_beside_a_pad(tmp_path):
    """Why its texts are padded to all positions here: this test fails when transformers has mended it."""
    family = FAMILIES["aimv2"]
    model, tokenizer = family.make_model(), family.make_tokenizer(tmp_path)

    def first_feature(texts, implementation):
        model.set_attn_implementation(implementation)
        return model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output[0]

    alone, beside = (["a dog"], ["a dog", "a photo of a cat"])
    assert not torch.allclose(first_feature(alone, "sdpa"), first_feature(beside, "sdpa"), atol=1e-2)
    torch.testing.assert_close(first_feature(alone, "eager"), first_feature(beside, "eager"))
    torch.testing.assert_close(first_feature(beside, "sdpa"), first_feature(beside, "eager"))


def test_widths_differ(family):
    """All but what the architecture ties together: SigLIP has no projection of images, TIPSv2 none at all."""
    text, vision = family.text_config, family.vision
    widths = [text["hidden_size"], vision["hidden_size"] if "hidden_size" in vision else vision["hidden_dim"] + 1]
    widths += [family.settings.get("projection_dim"), text["max_position_embeddings"], text["vocab_size"]]
    tied = family.model_type == "tipsv2"
    assert len(set(widths)) == len(widths) - tied


def methods_of_classes(folder: Path) -> dict[str, set[str]]:
    """Every class in transformers' modeling files that gives features of texts, and its methods."""
    sources = [file.read_text(encoding="utf-8") for file in folder.glob("*/modeling_*.py")]
    classes = [
        node
        for source in sources
        if "def get_text_features(" in source
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    ]
    methods = {each.name: {node.name for node in each.body if isinstance(node, ast.FunctionDef)} for each in classes}
    return {name: of_class for name, of_class in methods.items() if "get_text_features" in of_class}


@pytest.mark.skipif(
    Version(transformers.__version__) >= Version("5.24"), reason="newer than the last release that was looked through"
)
def test_every_class_of_transformers_that_gives_text_features_is_a_family_or_refused():
    found = methods_of_classes(Path(transformers.__file__).parent / "models")
    tested = {family.model_class for family in FAMILIES.values()}
    assert found.keys() - tested - REFUSED.keys() == set()
    assert tested <= found.keys()
    assert all("get_image_features" in found[name] for name in tested)


@pytest.mark.parametrize("model_class", REFUSED)
def test_what_is_refused_is_no_class_of_a_family(model_class):
    model = make_refused(model_class)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert (model.config.model_type, model_class) not in {(f.model_type, f.model_class) for f in FAMILIES.values()}
