"""The configs: what they hold, that they survive being saved, and how PEFT knows them."""

import copy
import dataclasses
import importlib
import json
import pickle

import pytest
from conftest import make_clip
from peft import (
    MODEL_TYPE_TO_PEFT_MODEL_MAPPING,
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
    LoraConfig,
    PeftConfig,
    PeftType,
    TaskType,
    get_peft_model,
)

import peft_coop
from peft_coop import CoCoOpConfig, CoOpConfig, PeftModelForImageClassification
from peft_coop.models import tuner_class

CONTRACT = {
    "n_ctx": None,
    "class_names": None,
    "class_token_position": "end",
    "class_specific_context": False,
    "ctx_init": None,
    "meta_net": False,
    "meta_net_reduction": 16,
    "zero_shot_template": "a photo of a {}.",
    "tokenizer_name_or_path": None,
}
EVERYTHING = {
    "n_ctx": 7,
    "class_names": ["crêpe", "kite (bird of prey)", "great_white_shark"],
    "class_token_position": "middle",
    "class_specific_context": True,
    "ctx_init": "a photo of a",
    "meta_net": True,
    "meta_net_reduction": 4,
    "zero_shot_template": ["a photo of a {}.", "a sketch of a {}."],
    "tokenizer_name_or_path": "openai/clip-vit-base-patch16",
}

DECISION = {"calibration_temperature": 1.25, "min_probability": 0.5, "other_names": ["a texture"]}

both_configs = pytest.mark.parametrize("config_class", [CoOpConfig, CoCoOpConfig])


def test_defaults():
    config = CoOpConfig()
    assert {name: getattr(config, name) for name in CONTRACT} == CONTRACT
    assert (config.peft_type, config.task_type) == (PeftType("COOP"), TaskType("IMAGE_CLS"))


def test_cocoop_is_coop_with_other_defaults():
    changed = {"meta_net": True, "n_ctx": 4, "ctx_init": "a photo of a"}
    assert CoCoOpConfig() == CoOpConfig(**changed)
    assert CoCoOpConfig(n_ctx=2, ctx_init=None) == CoOpConfig(meta_net=True, n_ctx=2)
    assert CoCoOpConfig() != CoOpConfig()


@both_configs
def test_every_field_says_what_it_is(config_class):
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    assert set(CONTRACT) <= set(fields)
    assert not [name for name in CONTRACT if not fields[name].metadata.get("help")]


@both_configs
def test_what_is_decided_by_is_saved_only_where_it_was_chosen(config_class, tmp_path):
    config_class(**EVERYTHING).save_pretrained(tmp_path / "untouched")
    saved = json.loads((tmp_path / "untouched/adapter_config.json").read_text())
    assert not saved.keys() & DECISION.keys()
    assert saved.keys() >= EVERYTHING.keys()
    config_class(**EVERYTHING, **DECISION).save_pretrained(tmp_path / "decided")
    loaded = PeftConfig.from_pretrained(tmp_path / "decided")
    assert {name: getattr(loaded, name) for name in DECISION} == DECISION
    assert loaded != config_class(**EVERYTHING)


@pytest.mark.parametrize(
    "field, message",
    [
        ({"calibration_temperature": 0}, "`calibration_temperature` must be a finite number above 0, got 0"),
        (
            {"calibration_temperature": float("nan")},
            "`calibration_temperature` must be a finite number above 0, got nan",
        ),
        ({"calibration_temperature": "1"}, "`calibration_temperature` must be a finite number above 0, got '1'"),
        ({"min_probability": -0.1}, "`min_probability` must be a finite number of 0 or more, got -0.1"),
        ({"min_probability": 95}, "`min_probability` must be from 0 to 1, got 95"),
        ({"other_names": []}, "`other_names` are no names: .* is empty"),
        ({"other_names": "texture"}, "`other_names` are no names: .* got 'texture'"),
        ({"other_names": ["dog"], "class_names": ["cat", "dog"]}, "and 'dog' is one of them"),
    ],
)
def test_what_cannot_be_decided_by(field, message):
    with pytest.raises((TypeError, ValueError), match=message):
        CoOpConfig(**field)


@both_configs
def test_saved_and_loaded(config_class, tmp_path):
    config = config_class(**EVERYTHING)
    config.save_pretrained(tmp_path)
    for loaded in (config_class.from_pretrained(tmp_path), PeftConfig.from_pretrained(tmp_path)):
        assert type(loaded) is CoOpConfig
        assert loaded == config
        assert loaded.to_dict() == config.to_dict()
        assert {name: getattr(loaded, name) for name in EVERYTHING} == EVERYTHING
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "COOP"


@both_configs
@pytest.mark.parametrize("task_type", [None, *TaskType])
def test_the_task_is_image_classification(config_class, task_type):
    assert config_class(task_type=task_type).task_type == "IMAGE_CLS"


def test_a_folder_with_another_method_gives_that_methods_config(tmp_path):
    LoraConfig(r=3).save_pretrained(tmp_path)
    loaded = CoOpConfig.from_pretrained(tmp_path)
    assert type(loaded) is LoraConfig
    assert vars(loaded).keys() == vars(LoraConfig()).keys()


def test_peft_knows_the_method():
    assert PeftConfig.from_peft_type(peft_type="COOP", n_ctx=3) == CoOpConfig(n_ctx=3)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType("COOP")] is CoOpConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType("COOP")] is tuner_class("coop_")
    assert MODEL_TYPE_TO_PEFT_MODEL_MAPPING[TaskType("IMAGE_CLS")] is PeftModelForImageClassification


def test_registering_twice_changes_nothing():
    members, configs = (list(PeftType), list(TaskType)), dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    peft_coop.registration.register()
    importlib.reload(peft_coop)
    assert (list(PeftType), list(TaskType)) == members
    assert configs == PEFT_TYPE_TO_CONFIG_MAPPING


@pytest.mark.parametrize(("enum", "name"), [(PeftType, "COOP"), (TaskType, "IMAGE_CLS")])
def test_the_new_members_are_members_like_the_others(enum, name):
    member = enum(name)
    assert member is enum[name] is getattr(enum, name)
    assert member == name
    assert f"{member.value}" == member.name == name
    assert member in list(enum)
    assert copy.deepcopy(member) is pickle.loads(pickle.dumps(member)) is member


@pytest.mark.parametrize(
    ("settings", "n_ctx"),
    [({}, 16), ({"n_ctx": 5}, 5), ({"ctx_init": "a photo of a"}, 4), ({"ctx_init": "a_blurry photograph,"}, 4)],
    ids=["default", "number", "words", "words counted in tokens"],
)
def test_n_ctx_is_settled_when_the_tokenizer_is_known(tokenizer_path, settings, n_ctx):
    config = CoOpConfig(class_names=["cat"], tokenizer_name_or_path=tokenizer_path, **settings)
    model = get_peft_model(make_clip(), config)
    assert model.peft_config["default"].n_ctx == n_ctx
    assert model.get_base_model().text_model.embeddings.learned_prompts["default"].ctx.shape == (n_ctx, 24)


def test_names_may_come_in_any_sequence():
    assert CoOpConfig(class_names=("cat", "dog")).class_names == ["cat", "dog"]


def test_one_template_and_several():
    assert CoOpConfig().templates == ("a photo of a {}.",)
    assert CoOpConfig(zero_shot_template=["{}", "a {}"]).templates == ("{}", "a {}")
