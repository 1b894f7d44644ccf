"""What a list of class names is, and what is none."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from peft import get_peft_model

from peft_coop import CoCoOpConfig, CoOpConfig
from peft_coop.prompts import check_class_names


class Table(SimpleNamespace):
    """As a DataFrame: iterating gives the columns' names."""

    def __iter__(self):
        return iter(self.columns)


REFUSED = {
    "a set": ({"dog", "cat"}, TypeError, r"got a set, whose order differs .* such as `sorted\(names\)`"),
    "a frozen set": (frozenset({"dog"}), TypeError, "got a frozenset, whose order"),
    "id2label": ({0: "cat", 1: "dog"}, TypeError, r"an `id2label`: pass `\[id2label\[index\] for index in range"),
    "id2label of JSON": ({"0": "cat", "1": "dog"}, TypeError, r"an `id2label`: pass `\[id2label\[str\(index\)\] for"),
    "label2id": ({"cat": 1, "dog": 0}, TypeError, r"a `label2id`: pass `sorted\(label2id, key=lambda name: int\("),
    "label2id of NumPy": ({"cat": np.int64(1), "dog": np.int64(0)}, TypeError, "a `label2id`: pass"),
    "labels from 1": ({"cat": 1, "dog": 2}, TypeError, "got a dict: pass a list of its names .* label 0 first"),
    "a ClassLabel": (ClassLabel(names=["cat", "dog"]), TypeError, "got a ClassLabel: pass its `names`"),
    "another mapping": ({"cat": "Katze"}, TypeError, "got a dict: pass a list of its names in the order of the labels"),
    "an empty mapping": ({}, TypeError, "got a dict: pass a list"),
    "a table": (Table(columns=["name", "count"]), TypeError, r"got a Table: pass one column of it as a list"),
    "bytes": (b"cat", TypeError, "must be a list of names, got b'cat'"),
    "zero width": (["cat", "\u200b"], ValueError, "Class name 1 is empty"),
    "a control character": (["\x00"], ValueError, "Class name 0 is empty"),
    "a blank letter": (["\u3164"], ValueError, "Class name 0 is empty"),
    "a mark alone": (["\ufe0f"], ValueError, "Class name 0 is empty"),
    "a wide space": (["\u3000"], ValueError, "Class name 0 is empty"),
    "a lone surrogate": (["cat", "dog\udc80"], ValueError, r"Class name 1 is no text: .* lone surrogate '\\udc80'"),
}


@pytest.mark.parametrize(("names", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_list_is_refused_everywhere(names, error, message, clip, tokenizer_path):
    for call in (check_class_names, lambda names: CoOpConfig(class_names=names)):
        with pytest.raises(error, match=message):
            call(names)
    model = get_peft_model(clip, CoOpConfig(class_names=["rose"], tokenizer_name_or_path=tokenizer_path))
    with pytest.raises(error, match=message):
        model.set_classes(names)
    assert model.class_names == ["rose"]


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "dog"),
        np.array(["cat", "dog"]),
        (name for name in ["cat", "dog"]),
        {"cat": 0, "dog": 1}.keys(),
        {0: "cat", 1: "dog"}.values(),
        [np.str_("cat"), np.str_("dog")],
    ],
    ids=lambda names: type(names).__name__,
)
def test_names_in_an_order_become_a_list_of_str(names):
    config = CoOpConfig(class_names=names)
    assert config.class_names == ["cat", "dog"]
    assert {type(name) for name in config.class_names} == {str}
    assert "np.str_" not in repr(config)


def test_names_that_are_seen_are_names():
    visible = ["猫", "é", "🐈", "a\u200bb", "\U000e0041x", "–"]
    assert check_class_names(visible) == visible


@pytest.mark.parametrize(
    "names, groups",
    [
        (["Cat", "dog", "cat"], "'Cat' = 'cat'"),
        (["hot_dog", "hot dog", "Hot  Dog"], "'hot_dog' = 'hot dog' = 'Hot  Dog'"),
        (["missile", "cat", "missile"], "'missile'"),
    ],
)
def test_names_that_tokenise_alike_are_named_in_a_warning(names, groups, clip, tokenizer_path):
    with pytest.warns(UserWarning, match=rf"cannot be told apart by a unified context: {groups}\."):
        get_peft_model(clip, CoOpConfig(class_names=names, tokenizer_name_or_path=tokenizer_path))


def test_names_that_differ_are_not(clip, tokenizer_path):
    names = ["cat", "cats", "hot dog", "hotdog"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        get_peft_model(clip, CoOpConfig(class_names=names, tokenizer_name_or_path=tokenizer_path))
    assert not [warning for warning in caught if "told apart" in str(warning.message)]


@pytest.mark.parametrize("settings", [{"ctx_init": "a\udc80"}, {"zero_shot_template": ["{}", "\udfff {}"]}])
def test_a_lone_surrogate_in_other_texts(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` is no text: .* lone surrogate"):
        CoOpConfig(**settings)


def test_numbers_of_numpy_are_whole_numbers(clip, tokenizer_path, tmp_path):
    config = CoOpConfig(
        n_ctx=np.int64(3),
        meta_net=True,
        meta_net_reduction=np.int32(8),
        class_names=["cat"],
        tokenizer_name_or_path=tokenizer_path,
    )
    assert (type(config.n_ctx), type(config.meta_net_reduction)) == (int, int)
    model = get_peft_model(clip, config)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["n_ctx"] == 3
    with pytest.raises(ValueError, match="`n_ctx` must be a whole number of 1 or more, got"):
        CoOpConfig(n_ctx=np.float64(3))
    for wrong in (np.bool_(True), np.array([4]), np.array(4), "4"):
        with pytest.raises(ValueError, match="`n_ctx` must be a whole number"):
            CoOpConfig(n_ctx=wrong)


def test_a_name_that_ends_the_prompt_is_refused(clip, tokenizer_path):
    with pytest.raises(ValueError, match=r"'a <\|endoftext\|> b' holds a special token of CLIPTokenizer"):
        get_peft_model(clip, CoOpConfig(class_names=["a <|endoftext|> b"], tokenizer_name_or_path=tokenizer_path))


def test_cocoops_length_contradicts_its_words(clip, tokenizer_path):
    """Its default words have four tokens: another length needs to say that it starts from random vectors."""
    settings = {"class_names": ["cat"], "tokenizer_name_or_path": tokenizer_path}
    with pytest.raises(ValueError, match=r"`n_ctx=8` contradicts `ctx_init='a photo of a'`, .* set `ctx_init=None`"):
        get_peft_model(clip, CoCoOpConfig(n_ctx=8, **settings))
    model = get_peft_model(clip, CoCoOpConfig(n_ctx=8, ctx_init=None, **settings))
    assert model.get_base_model().prompt_layer.learned_prompts["default"].ctx.shape == (8, 24)
    assert torch.isfinite(model(image_embeds=torch.ones(1, 40)).logits).all()
