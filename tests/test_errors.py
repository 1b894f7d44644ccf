"""What is refused, with which message, and that everything is left as it was."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from conftest import TEXT, VISION, make_clip
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModel,
)

from peft_coop import AutoPeftModelForImageClassification, CoCoOpConfig, CoOpConfig

ANIMALS = ["cat", "dog", "fox"]
KEY = "base_model.model.text_model.embeddings.coop_ctx"


@pytest.fixture
def config(tokenizer_path):
    def make(**settings):
        return CoOpConfig(**{"class_names": ANIMALS, "tokenizer_name_or_path": tokenizer_path, "n_ctx": 4, **settings})

    return make


@pytest.fixture
def model(config):
    return get_peft_model(make_clip(), config()).eval()


def state_of(module: nn.Module) -> dict:
    """Everything about a model that a failed call could leave changed."""
    modules = dict(module.named_modules())
    configs = [each.config for each in modules.values() if hasattr(each, "config")]
    return {
        "classes": {name: type(each) for name, each in modules.items()},
        "modes": {name: each.training for name, each in modules.items()},
        "attributes": {name: sorted(vars(each)) for name, each in modules.items()},
        "trainable": {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        "weights": {key: (id(value), value.sum().item()) for key, value in module.named_parameters()},
        "configs": [json.dumps(each.to_dict(), sort_keys=True, default=str) for each in configs],
        "config attributes": [sorted(vars(each)) for each in configs],
        "labels": [(dict(each.id2label), dict(each.label2id)) for each in configs],
        "adapters": {name: each.to_dict() for name, each in getattr(module, "peft_config", {}).items()},
        "active": getattr(module, "active_adapter", None) if isinstance(module, PeftModel) else None,
    }


@contextmanager
def left_as_it_was(module: nn.Module):
    before = state_of(module)
    yield
    assert state_of(module) == before


def small(sizes: dict) -> dict:
    return {**sizes, "num_hidden_layers": 1}


BAD_SETTINGS = {
    "no classes": ({"class_names": []}, ValueError, "`class_names` is empty"),
    "one string": ({"class_names": "cat"}, TypeError, "must be a list of names, got 'cat'"),
    "an empty name": ({"class_names": ["cat", " _ "]}, ValueError, r"Class name 1 is empty \(' _ '\)"),
    "a number for a name": ({"class_names": ["cat", 3]}, TypeError, r"must be a string, got 3 \(int\) at index 1"),
    "no vectors": ({"n_ctx": 0}, ValueError, "`n_ctx` must be a whole number of 1 or more, got 0"),
    "half a vector": ({"n_ctx": 2.5}, ValueError, "`n_ctx` must be a whole number of 1 or more, got 2.5"),
    "n_ctx is a flag": ({"n_ctx": True}, ValueError, "`n_ctx` must be a whole number of 1 or more, got True"),
    "no reduction": ({"meta_net_reduction": 0}, ValueError, "`meta_net_reduction` must be a whole number .* got 0"),
    "position": (
        {"class_token_position": "centre"},
        ValueError,
        r"`class_token_position` must be one of .*'end'.*'middle'.*'front'.*, got 'centre'",
    ),
    "empty words": ({"ctx_init": " _"}, ValueError, "`ctx_init` must be one word or more, or None, got ' _'"),
    "a number for words": ({"ctx_init": 4}, ValueError, "`ctx_init` must be one word or more, or None, got 4"),
    "template without a place": ({"zero_shot_template": "a photo"}, ValueError, "place, {}, once; got 'a photo'"),
    "template with two": ({"zero_shot_template": ["{} {}"]}, ValueError, "place, {}, once; got '{} {}'"),
    "no templates": ({"zero_shot_template": []}, ValueError, "empty list: give at least one template"),
    "task": ({"task_type": "TALK"}, ValueError, "Invalid task type: 'TALK'"),
}


@pytest.mark.parametrize("config_class", [CoOpConfig, CoCoOpConfig])
@pytest.mark.parametrize(("settings", "error", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_config_refuses(config_class, settings, error, message):
    with pytest.raises(error, match=message):
        config_class(**settings)


NOT_FITTING = {
    "n_ctx contradicts ctx_init": (
        {"n_ctx": 16, "ctx_init": "a photo of a"},
        "`n_ctx=16` contradicts `ctx_init='a photo of a'`, which has 4 tokens: set `n_ctx` to 4",
    ),
    "too long a prompt": (
        {"n_ctx": 72, "class_names": ["cat", "great white shark"]},
        r"prompt for 'great white shark' needs 78 tokens \(context 72, .*\), but this text tower reads 77: "
        "lower `n_ctx` to 71 or less",
    ),
    "too long a template": (
        {"zero_shot_template": "very " * 80 + "{}"},
        "prompt for 'cat' in the template '.*very {}' needs .* tokens.* reads 77",
    ),
    "class-specific without classes": (
        {"class_specific_context": True, "class_names": None},
        "class-specific context needs `class_names`",
    ),
    "reduction": (
        {"meta_net": True, "meta_net_reduction": 41},
        "`meta_net_reduction=41` leaves the Meta-Net no hidden unit: .* 40 dimensions, so it can be 40 at most",
    ),
    "no tokenizer": ({"tokenizer_name_or_path": None}, "No tokenizer is known: .*Set it to a Hub name or to a folder"),
    "tokenizer not found": (
        {"tokenizer_name_or_path": "nobody/nothing"},
        r"No tokenizer could be loaded from 'nobody/nothing': (?s:.*)Set `tokenizer_name_or_path`",
    ),
}
not_fitting = pytest.mark.parametrize(("settings", "message"), NOT_FITTING.values(), ids=NOT_FITTING)


@not_fitting
def test_a_failed_get_peft_model_leaves_the_base_model(clip, config, settings, message):
    clip.train()
    clip.vision_model.requires_grad_(False)
    with left_as_it_was(clip), pytest.raises(ValueError, match=message):
        get_peft_model(clip, config(**settings))


@not_fitting
def test_a_failed_injection_leaves_the_base_model(clip, config, settings, message):
    with left_as_it_was(clip), pytest.raises(ValueError, match=message):
        inject_adapter_in_model(config(**settings), clip)


@not_fitting
def test_a_failed_add_adapter_leaves_the_others(model, config, pixel_values, settings, message):
    with torch.no_grad():
        before = model(pixel_values=pixel_values).logits
        with left_as_it_was(model), pytest.raises(ValueError, match=message):
            model.add_adapter("other", config(**settings))
        assert torch.equal(model(pixel_values=pixel_values).logits, before)
    assert model.class_names == ANIMALS


def test_another_tokenizer_than_the_models(config):
    clip = make_clip(vocab_size=1000, bos_token_id=998, eos_token_id=999)
    message = "tokenizer does not belong to this model: it uses token id 49407, and .* has 1000 tokens"
    with left_as_it_was(clip), pytest.raises(ValueError, match=message):
        get_peft_model(clip, config())


def unsupported_models():
    clip = CLIPConfig(text_config=small(TEXT), vision_config=small(VISION), projection_dim=40)
    return {
        "vision tower": (lambda: CLIPVisionModel(clip.vision_config), "got CLIPVisionModel"),
        "text tower": (lambda: CLIPTextModelWithProjection(clip.text_config), "got CLIPTextModelWithProjection"),
        "no text tower": (
            lambda: CLIPForImageClassification(clip),
            "got CLIPForImageClassification .*: load the checkpoint as CLIPModel, which has both",
        ),
        "a layer": (lambda: nn.Linear(3, 3), r"got Linear \(model type None\)"),
    }


@pytest.mark.parametrize(("make", "message"), unsupported_models().values(), ids=unsupported_models())
def test_models_without_a_fitting_text_tower(config, make, message):
    base = make()
    with left_as_it_was(base), pytest.raises(ValueError, match=message):
        get_peft_model(base, config())


@pytest.mark.parametrize("name", ["with.dot", "keys"])
def test_a_name_that_torch_refuses(clip, model, config, name):
    with left_as_it_was(clip), pytest.raises(KeyError, match=r"contain|exists"):
        get_peft_model(clip, config(meta_net=True), adapter_name=name)
    with left_as_it_was(model), pytest.raises(KeyError, match=r"contain|exists"):
        model.add_adapter(name, config(meta_net=True))


def test_names_and_methods_that_do_not_fit_the_others(model, config):
    with left_as_it_was(model), pytest.raises(ValueError, match="'default' already exists"):
        model.add_adapter("default", config())
    with left_as_it_was(model), pytest.raises(ValueError, match="PREFIX_TUNING cannot stand beside a learned prompt"):
        model.add_adapter("other", PrefixTuningConfig(num_virtual_tokens=2))
    with left_as_it_was(model), pytest.raises(ValueError, match=r"Target modules .* not found in the base model"):
        model.add_adapter("other", LoraConfig(target_modules=["no_such_module"]))


@pytest.mark.parametrize("method", ["set_adapter", "delete_adapter"])
def test_an_unknown_adapter(model, method):
    with left_as_it_was(model), pytest.raises(ValueError, match=r"Adapter unknown (not found|does not exist)"):
        getattr(model, method)("unknown")


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change_weights(change):
    def apply(folder):
        path = folder / "adapter_model.safetensors"
        save_file(change(load_file(path)), path)

    return apply


BROKEN = {
    "more vectors": (
        change_weights(lambda tensors: {KEY: torch.zeros(5, 24)}),
        r"does not fit its config: .*coop_ctx.* is \(5, 24\) in the file and \(4, 24\) here. Was `adapter_conf",
    ),
    "missing": (
        change_weights(lambda tensors: {"other": torch.zeros(1)}),
        "does not fit its config: the weights are other and should be .*coop_ctx",
    ),
    "nothing": (change_weights(lambda tensors: {}), "the weights are none and should be .*coop_ctx"),
    "left over": (
        change_weights(lambda tensors: {**tensors, KEY.replace("ctx", "meta_net_linear1.bias"): torch.zeros(2)}),
        "the weights are .*coop_ctx.*coop_meta_net_linear1.*and should be .*coop_ctx",
    ),
    "damaged": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"no tensors at all"),
        "weights in '.*adapter' cannot be read, the file is damaged",
    ),
}
broken = pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)


@broken
@pytest.mark.parametrize("settings", [{}, {"is_trainable": True}, {"low_cpu_mem_usage": True}], ids=str)
def test_a_failed_from_pretrained_leaves_the_base_model(clip, saved, damage, message, settings):
    damage(saved)
    clip.text_model.requires_grad_(False)
    with left_as_it_was(clip), pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(clip, saved, **settings)


def test_a_failed_from_pretrained_with_a_config_leaves_the_base_model(clip, config, saved):
    BROKEN["more vectors"][0](saved)
    with left_as_it_was(clip), pytest.raises(ValueError, match=r"does not fit its config: .* is \(5, 24\) in the file"):
        PeftModel.from_pretrained(clip, saved, config=config())


@broken
@pytest.mark.parametrize("name", ["other", "default"])
def test_a_failed_load_adapter_leaves_the_others(model, pixel_values, saved, damage, message, name):
    damage(saved)
    with torch.no_grad():
        before = model(pixel_values=pixel_values).logits
        with left_as_it_was(model), pytest.raises(ValueError, match=message):
            model.load_adapter(saved, name)
        assert torch.equal(model(pixel_values=pixel_values).logits, before)
    assert model.class_names == ANIMALS


def test_after_a_failure_the_right_adapter_can_be_loaded(clip, saved, tmp_path, model, pixel_values):
    other = shutil.copytree(saved, tmp_path / "other")
    BROKEN["missing"][0](other)
    with pytest.raises(ValueError, match="does not fit its config"):
        PeftModel.from_pretrained(clip, other)
    loaded = PeftModel.from_pretrained(clip, saved)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=pixel_values).logits, model(pixel_values=pixel_values).logits)


def test_a_base_model_of_another_width(saved):
    clip = make_clip(hidden_size=20)
    message = r"does not fit this model: .* is \(4, 24\) in the file and \(4, 20\) here.*base model that it was trained"
    with left_as_it_was(clip), pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(clip, saved)


def test_an_adapter_that_names_no_base_model(saved):
    with pytest.raises(ValueError, match="does not name its base model: load that yourself"):
        AutoPeftModelForImageClassification.from_pretrained(saved)


def test_a_folder_without_an_adapter(clip, model, tmp_path):
    with left_as_it_was(clip), pytest.raises(ValueError, match=r"Can't find 'adapter_config\.json'"):
        PeftModel.from_pretrained(clip, tmp_path)
    with left_as_it_was(model), pytest.raises(ValueError, match=r"Can't find 'adapter_config\.json'"):
        model.load_adapter(tmp_path, "other")


BAD_CALLS = {
    "no images": ({}, "`pixel_values` or `image_embeds` .*, got neither"),
    "images twice": (
        {"pixel_values": torch.zeros(2, 3, 16, 16), "image_embeds": torch.zeros(2, 40)},
        "`pixel_values` or `image_embeds` .*, got both",
    ),
    "features of another width": (
        {"image_embeds": torch.zeros(2, 24)},
        r"`image_embeds` must be \(batch, 40\), got \(2, 24\)",
    ),
    "too large a label": (
        {"image_embeds": torch.ones(3, 40), "labels": torch.tensor([0, 3, 7])},
        r"`labels` must lie between 0 and 2 \(3 classes\), got \[3, 7\]",
    ),
    "a negative label": (
        {"image_embeds": torch.ones(3, 40), "labels": torch.tensor([0, -100, 1])},
        r"`labels` must lie between 0 and 2 \(3 classes\), got \[-100\]",
    ),
    "too few labels": (
        {"image_embeds": torch.ones(3, 40), "labels": torch.tensor([0, 1])},
        r"`labels` must be 3 integers, one per image, got torch\.int64 of shape \(2,\)",
    ),
    "labels that are no integers": (
        {"image_embeds": torch.ones(3, 40), "labels": torch.zeros(3)},
        r"`labels` must be 3 integers, one per image, got torch\.float32",
    ),
    "labels of given texts": (
        {"image_embeds": torch.ones(1, 40), "labels": torch.tensor([0]), "input_ids": torch.tensor([[49406, 49407]])},
        "`labels` count the adapter's own classes and `input_ids` name other ones",
    ),
    "a text without EOS": (
        {"image_embeds": torch.ones(1, 40), "input_ids": torch.tensor([[49406, 320, 320]])},
        r"Row 0 of `input_ids` is no prompt: .*BOS \(49406\) .*EOS \(49407\), got \[49406, 320, 320\]",
    ),
    "too long a text": (
        {"image_embeds": torch.ones(1, 40), "input_ids": torch.tensor([[49406, *[320] * 75, 49407]])},
        "row 0 of `input_ids`' needs 81 tokens",
    ),
}


@pytest.mark.parametrize(("inputs", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_call_refuses(model, inputs, message):
    with left_as_it_was(model), pytest.raises(ValueError, match=message):
        model(**inputs)


BAD_CLASSES = {
    "none": ([], ValueError, "`class_names` is empty"),
    "one string": ("cat", TypeError, "got 'cat'"),
    "an empty name": (["cat", ""], ValueError, "Class name 1 is empty"),
    "too long": (["cat", "very " * 80 + "big cat"], ValueError, "needs 8. tokens .* reads 77"),
}


@pytest.mark.parametrize(("names", "error", "message"), BAD_CLASSES.values(), ids=BAD_CLASSES)
def test_refused_classes_leave_the_old_ones(model, pixel_values, names, error, message):
    with torch.no_grad():
        before = model(pixel_values=pixel_values).logits
        with left_as_it_was(model), pytest.raises(error, match=message):
            model.set_classes(names)
        assert torch.equal(model(pixel_values=pixel_values).logits, before)
    assert model.class_names == ANIMALS


def test_a_class_specific_context_has_its_own_classes_only(clip, config, pixel_values, tokenizer):
    model = get_peft_model(clip, config(class_specific_context=True))
    message = r"holds vectors for \['cat', 'dog', 'fox'\] and none for \['dog', 'cat', 'fox'\]"
    with left_as_it_was(model), pytest.raises(ValueError, match=message):
        model.set_classes(["dog", "cat", "fox"])
    model.set_classes(ANIMALS)
    with (
        left_as_it_was(model),
        pytest.raises(ValueError, match="class-specific context, which belongs to its own classes"),
    ):
        model(pixel_values=pixel_values, **tokenizer(["a cat."], return_tensors="pt"))


def test_an_adapter_without_classes(clip, config, pixel_values):
    model = get_peft_model(clip, config(class_names=None))
    with left_as_it_was(model), pytest.raises(ValueError, match=r"'default' has no classes: .*`model\.set_classes"):
        model(pixel_values=pixel_values)
    model.set_classes(ANIMALS)
    assert model(pixel_values=pixel_values).logits.shape == (5, 3)


def test_a_conditional_context_needs_images(clip, config):
    model = get_peft_model(clip, config(meta_net=True))
    with left_as_it_was(model), pytest.raises(ValueError, match="depends on the image: give `image_embeds`"):
        model.get_text_features()


def test_one_prompt_at_a_time(model, config, pixel_values):
    model.add_adapter("other", config())
    model.base_model.set_adapter(["default", "other"])
    with left_as_it_was(model), pytest.raises(ValueError, match=r"One prompt at a time .*\['default', 'other'\]"):
        model(pixel_values=pixel_values)


def test_no_adapter_has_no_classes(model):
    model.delete_adapter("default")
    with left_as_it_was(model), pytest.raises(ValueError, match="No adapter is active: add one with"):
        model.base_model.set_classes(ANIMALS)


def test_duplicate_names_are_named_in_a_warning(clip, config):
    with pytest.warns(UserWarning, match="occur more than once.*: 'missile', 'sunglasses'"):
        model = get_peft_model(clip, config(class_names=["missile", "sunglasses", "cat", "missile", "sunglasses"]))
    assert model.config.num_labels == 5


def test_a_tokenizer_path_that_is_gone_falls_back_to_the_base_models(clip_path):
    gone = "/gone/from/this/machine"
    with pytest.warns(UserWarning, match=f"'{gone}' is not on this machine; using the base model's, '{clip_path}'"):
        model = get_peft_model(
            CLIPModel.from_pretrained(clip_path), CoOpConfig(class_names=ANIMALS, tokenizer_name_or_path=gone)
        )
    assert model.class_names == ANIMALS


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    """transformers makes an empty tokenizer of a model's folder that has none."""
    make_clip().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no vocabulary"):
        get_peft_model(CLIPModel.from_pretrained(tmp_path), CoOpConfig(n_ctx=4, class_names=["cat", "dog"]))


def test_a_word_that_the_model_does_not_know_is_refused(tokenizer_path, tmp_path, pixel_values):
    """Its id lies where the learnable vectors begin."""
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_path)
    tokenizer.add_tokens(["kitten"])
    tokenizer.save_pretrained(tmp_path)
    settings = {"n_ctx": 4, "tokenizer_name_or_path": str(tmp_path)}
    with pytest.raises(ValueError, match="uses token id 49408, and the text tower's vocabulary has 49408 tokens"):
        get_peft_model(make_clip(), CoOpConfig(class_names=["kitten"], **settings))
    model = get_peft_model(make_clip(), CoOpConfig(class_names=["cat"], **settings))
    with pytest.raises(ValueError, match="uses token id 49408"):
        model(pixel_values=pixel_values, input_ids=torch.tensor([[49406, 49408, 49407]]))
    with pytest.raises(ValueError, match=r"must be \(texts, tokens\), got a tensor of shape \(3,\)"):
        model(pixel_values=pixel_values, input_ids=torch.tensor([49406, 320, 49407]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_specific_context": "no"}, "`class_specific_context` must be True or False, got 'no'"),
        ({"meta_net": 1}, "`meta_net` must be True or False, got 1"),
        ({"class_names": 5}, "must be a list of names, got 5"),
        ({"zero_shot_template": None}, "must be a text or a list of texts, got None"),
        ({"tokenizer_name_or_path": 5}, "expected str, bytes or os.PathLike object, not int"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        CoOpConfig(**settings)
