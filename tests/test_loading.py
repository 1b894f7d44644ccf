"""Loading what does not belong here: refused, or named, and nothing is lost."""

import json
import warnings

import pytest
import torch
from conftest import make_clip
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_errors import left_as_it_was
from transformers import Trainer, TrainingArguments

from peft_coop import CoCoOpConfig, CoOpConfig
from peft_coop.models.base_model_names import is_same_base, warn_of_another_base

ANIMALS = ["cat", "dog", "great white shark"]
FEATURES = torch.randn(4, 40, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def make_model(tokenizer_path):
    def make(base=None, method=CoOpConfig, **settings):
        defaults = {"class_names": ANIMALS, "tokenizer_name_or_path": tokenizer_path, "n_ctx": 4}
        return get_peft_model(base or make_clip(), method(**defaults | settings)).eval()

    return make


def save(model, folder):
    model.save_pretrained(folder)
    return folder


def logits(model):
    with torch.no_grad():
        return model(image_embeds=FEATURES).logits


def change_config(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


OTHERS = {
    "another order": (
        {"class_specific_context": True},
        {"class_specific_context": True, "class_names": ANIMALS[::-1]},
        r"`class_names` is \['great white shark', 'dog', 'cat'\] there and \['cat', 'dog', 'great white shark'\] here",
    ),
    "another position": (
        {},
        {"class_token_position": "middle"},
        "`class_token_position` is 'middle' there and 'end' here",
    ),
    "a Meta-Net": ({}, {"meta_net": True}, "`meta_net` is True there and False here"),
    "one set per class": (
        {},
        {"class_specific_context": True},
        "`class_specific_context` is True there and False here",
    ),
}
others = pytest.mark.parametrize(("here", "there", "message"), OTHERS.values(), ids=OTHERS)


@others
def test_another_prompt_is_not_loaded_over_this_one(make_model, tmp_path, here, there, message):
    saved = save(make_model(**there), tmp_path)
    model = make_model(**here)
    before = logits(model)
    with left_as_it_was(model), pytest.raises(ValueError, match=f"does not fit adapter 'default': {message}"):
        model.load_adapter(saved, "default")
    assert torch.equal(logits(model), before)
    model.load_adapter(saved, "other")
    model.set_adapter("other")
    assert not torch.equal(logits(model), before)


@others
def test_nor_is_training_resumed_from_it(make_model, tmp_path, here, there, message):
    data = [{"image_embeds": each, "labels": index % 3} for index, each in enumerate(FEATURES)]

    def trainer(**settings):
        arguments = TrainingArguments(
            tmp_path,
            max_steps=1,
            save_steps=1,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        return Trainer(make_model(**settings), arguments, train_dataset=data)

    trainer(**there).train()
    with pytest.raises(ValueError, match=message):
        trainer(**here).train(resume_from_checkpoint=True)
    trainer(**there).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("settings", [{}, {"is_trainable": True}], ids=str)
def test_nor_with_a_config_that_says_otherwise(make_model, tmp_path, settings, tokenizer_path):
    saved = save(make_model(class_token_position="front"), tmp_path)
    clip = make_clip()
    config = CoOpConfig(class_names=ANIMALS, n_ctx=4, tokenizer_name_or_path=tokenizer_path)
    with pytest.raises(ValueError, match="`class_token_position` is 'front' there and 'end' here"):
        PeftModel.from_pretrained(clip, saved, config=config, **settings)


def test_what_the_prompt_is_made_of_is_compared_and_not_a_config_that_was_changed(make_model, tmp_path):
    saved = save(make_model(), tmp_path / "end")
    model = make_model()
    model.peft_config["default"].class_token_position = "front"
    model.load_adapter(saved, "default")
    front = save(make_model(class_token_position="front"), tmp_path / "front")
    with pytest.raises(ValueError, match="`class_token_position` is 'front' there and 'end' here"):
        model.load_adapter(front, "default")


def test_other_classes_of_a_unified_context_are_no_other_prompt(make_model, tmp_path):
    saved = save(make_model(class_names=["rose"]), tmp_path)
    model = make_model()
    model.load_adapter(saved, "default")
    assert model.class_names == ANIMALS


@pytest.mark.parametrize("key", ["logit_scale", "text_projection.weight", "no_such_thing"])
@pytest.mark.parametrize("settings", [{}, {"low_cpu_mem_usage": True}], ids=str)
def test_weights_of_the_base_model_are_refused_by_name(make_model, tmp_path, key, settings):
    saved = save(make_model(), tmp_path)
    file = saved / "adapter_model.safetensors"
    save_file({**load_file(file), f"base_model.model.{key}": torch.zeros(())}, file)
    clip = make_clip()
    with (
        left_as_it_was(clip),
        pytest.raises(ValueError, match=rf"weights of the base model: base_model\.model\.{key}\."),
    ):
        PeftModel.from_pretrained(clip, saved, **settings)
    model = make_model()
    with (
        left_as_it_was(model),
        pytest.raises(ValueError, match=r"of the base model: .*Loaded, they would replace"),
    ):
        model.load_adapter(saved, "other")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"n_ctx": 5, "ctx_init": None},
            r"does not fit its config: .*coop_ctx.* is \(4, 24\) in the file and \(5, 24\)",
        ),
        (
            {"meta_net_reduction": 8},
            r"does not fit its config: .*linear1.weight is \(2, 40\) in the file and \(5, 40\)",
        ),
    ],
    ids=["vectors", "units"],
)
def test_an_edited_config_is_named(make_model, tmp_path, change, message):
    saved = save(make_model(method=CoCoOpConfig), tmp_path)
    change_config(saved, **change)
    with pytest.raises(ValueError, match=message + " here. Was `adapter_config.json` changed"):
        PeftModel.from_pretrained(make_clip(), saved)


@pytest.mark.parametrize("name", ["default", "other"])
@pytest.mark.parametrize("broken", ["weights", "config"])
def test_a_failed_second_from_pretrained_leaves_the_first(make_model, tmp_path, name, broken):
    clip = make_clip()
    first = make_model(clip, ctx_init="a photo of a", class_token_position="middle")
    before = logits(first)
    saved = save(make_model(method=CoCoOpConfig, class_names=["rose"]), tmp_path)
    if broken == "weights":
        save_file({"other": torch.zeros(1)}, saved / "adapter_model.safetensors")
    else:
        change_config(saved, ctx_init="a photo")
    with left_as_it_was(first), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT's, of a second adapter
        with pytest.raises(ValueError, match=r"does not fit its config|contradicts `ctx_init"):
            PeftModel.from_pretrained(clip, saved, adapter_name=name)
    assert torch.equal(logits(first), before)
    assert first.class_names == list(clip.config.id2label.values()) == ANIMALS
    first(image_embeds=FEATURES, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert clip.prompt_layer.learned_prompts["default"].ctx.grad is not None
    PeftModel.from_pretrained(make_clip(), save(first, tmp_path / "again"))


def test_an_interrupted_load_leaves_the_model(make_model, tmp_path, monkeypatch):
    saved = save(make_model(), tmp_path)
    model = make_model(class_names=["rose"])
    before = logits(model)

    def interrupt(*given, **settings):
        raise KeyboardInterrupt("now")

    monkeypatch.setattr("peft.peft_model.set_peft_model_state_dict", interrupt)
    with left_as_it_was(model), pytest.raises(KeyboardInterrupt, match="now"):
        model.load_adapter(saved, "other")
    assert torch.equal(logits(model), before)


def test_the_users_own_config_may_change_afterwards(make_model, tmp_path, tokenizer_path):
    names = list(ANIMALS)
    config = CoOpConfig(class_names=names, n_ctx=4, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config)
    names.append("rose")
    config.class_names.append("rose")
    config.class_token_position = "front"
    assert model.class_names == model.peft_config["default"].class_names == ANIMALS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = PeftConfig.from_pretrained(save(model, tmp_path))
    assert (saved.class_names, saved.class_token_position) == (ANIMALS, "end")


def test_a_config_that_was_changed_in_the_model_is_saved_as_the_model_is(make_model, tmp_path):
    model = make_model()
    before = logits(model)
    model.peft_config["default"].class_names.append("rose")
    with pytest.warns(
        UserWarning, match=r"`class_names` of adapter 'default' was changed .* What changes it is `set_cl"
    ):
        save(model, tmp_path)
    model.peft_config["default"].class_token_position = "front"
    with pytest.warns(UserWarning, match="`class_token_position` of .* to 'front', .* follow: saved is 'end'"):
        save(model, tmp_path)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path)
    assert loaded.class_names == model.peft_config["default"].class_names == ANIMALS
    assert torch.equal(logits(loaded), before)


def test_classes_that_were_set_are_saved_without_a_word(make_model, tmp_path):
    model = make_model()
    model.set_classes(["rose", "tulip"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PeftConfig.from_pretrained(save(model, tmp_path)).class_names == ["rose", "tulip"]


@pytest.mark.parametrize(
    "trained_on, warns",
    [
        ("openai/clip-vit-large-patch14", True),
        ("someone/clip-vit-base-patch16", True),
        ("/data/CLIP-vit-base-patch16/", False),
    ],
)
def test_another_base_than_the_adapter_names(make_model, tmp_path, trained_on, warns):
    saved = save(make_model(), tmp_path)
    change_config(saved, base_model_name_or_path=trained_on)

    def load(by_adapter):
        clip = make_clip()
        clip.name_or_path = "openai/clip-vit-base-patch16"
        if by_adapter:
            make_model(clip).load_adapter(saved, "other")
        else:
            PeftModel.from_pretrained(clip, saved)

    for by_adapter in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(by_adapter)
        told = [str(each.message) for each in caught if "was trained on" in str(each.message)]
        assert len(told) == warns
        assert all(trained_on in message and "openai/clip-vit-base-patch16" in message for message in told)


CACHED = "models--openai--clip-vit-base-patch16/snapshots/0f1"


@pytest.mark.parametrize(
    "trained_on, here, warns",
    [
        ("openai/clip", "OpenAI/CLIP", False),
        ("openai/clip", "laion/clip", True),
        ("openai/clip-vit-base-patch16", f"/home/me/hub/{CACHED}", False),
        (f"C:/hub/{CACHED}".replace("/", "\\"), "openai/clip-vit-base-patch16", False),
        ("laion/clip-vit-base-patch16", f"/home/me/hub/{CACHED}", True),
        (".", "openai/clip", False),
        ("..", "one/clip", False),
        ("one/clip", ".", True),
        ("one/clip", "one/clip/", False),
        ("one/clip", "{here}/one/clip", False),
        ("one/clip", "{here}/two/clip", True),
        ("/gone/CLIP/", "{here}/two/clip", False),
        ("/gone/clip", "openai/clip", False),
        ("/gone/other", "openai/clip", True),
        (None, "openai/clip", False),
    ],
)
def test_names_of_one_base_model(tmp_path, monkeypatch, trained_on, here, warns):
    for folder in ("one/clip", "two/clip"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_another_base(trained_on, here.format(here=tmp_path))
    assert len(caught) == warns
    assert all("was trained on" in str(each.message) for each in caught)


def test_the_folder_that_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path / "clip")
    assert is_same_base(".", str(tmp_path / "clip"))
    assert is_same_base("someone/clip", ".")
    assert not is_same_base("someone/other", ".")


def test_no_active_adapter_says_so(make_model):
    model = make_model()
    model.base_model.set_adapter([])
    with pytest.raises(ValueError, match=r"No adapter is active: choose one of \['default'\] with `set_adapter`"):
        model(image_embeds=FEATURES)
    model.set_adapter("default")
    assert logits(model).shape == (4, 3)


def test_what_get_image_features_returns_is_image_embeds(make_model, pixel_values):
    model = make_model().double()
    with torch.no_grad():
        outputs = model.get_image_features(pixel_values)
        given, expected = model(image_embeds=outputs).logits, model(pixel_values=pixel_values).logits
    torch.testing.assert_close(given, expected, atol=1e-9, rtol=0)
    with pytest.raises(TypeError, match=r"`image_embeds` must be a tensor \(batch, 40\), .*; got ndarray"):
        model(image_embeds=FEATURES.numpy())


@pytest.mark.parametrize("kind", [list, lambda labels: torch.tensor(labels).numpy()], ids=["list", "array"])
def test_labels_may_be_a_list_or_an_array(make_model, kind):
    model = make_model()
    labels = [0, 2, 1, 1]
    assert torch.equal(
        model(image_embeds=FEATURES, labels=kind(labels)).loss,
        model(image_embeds=FEATURES, labels=torch.tensor(labels)).loss,
    )
    with pytest.raises(ValueError, match="must lie between 0 and 2"):
        model(image_embeds=FEATURES, labels=kind([0, 2, 1, 3]))


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], "abcd"], ids=str)
def test_labels_that_are_no_numbers(make_model, labels):
    with pytest.raises(TypeError, match="`labels` must be 4 integers, one per image, got"):
        make_model()(image_embeds=FEATURES, labels=labels)


def test_flags_are_no_labels(make_model):
    with pytest.raises(ValueError, match=r"`labels` must be 4 integers, one per image, got torch\.bool"):
        make_model()(image_embeds=FEATURES, labels=torch.tensor([True, False, True, False]))


@pytest.mark.parametrize("text", ["{", '{"peft_type": "COOP", "task_type": "IMAGE_CLS", "n_ctx": 0}'])
def test_a_damaged_config_is_not_passed_over(clip, tokenizer_path, tmp_path, text):
    model = get_peft_model(clip, CoOpConfig(n_ctx=4, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path))
    model.save_pretrained(tmp_path)
    before = model.prompt_layer.prompt.ctx.detach().clone()
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"n_ctx|Expecting|JSON"):
        model.load_adapter(tmp_path, "default")
    assert torch.equal(model.prompt_layer.prompt.ctx, before)
