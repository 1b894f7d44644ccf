"""PEFT's own tests of what every method must do, run over ours: `make peft-suite PEFT_CHECKOUT=/path/to/peft`.

They are imported from a checkout of PEFT; none of them is copied. `make test` does not collect this file.
"""

import inspect
import os
from itertools import product
from types import FunctionType

import pytest
import torch
from method_kinds import PAIRS, every_kind, is_specific
from peft import PEFT_TYPE_TO_CONFIG_MAPPING
from peft_checkout import find_checkout, import_tests
from transformers import CLIPModel

from peft_coop import PeftModelForImageClassification
from peft_coop.methods import METHODS, Prompt
from peft_coop.models.saved_tensors import CONTAINER

# As in PEFT's own runs, where a warning is no error.
pytestmark = pytest.mark.filterwarnings("default")

COMMON_ARGUMENTS = ["self", "model_id", "config_cls", "config_kwargs"]
MERGING = "a prompt is no weight that could be added to others: merging is refused with a message"
GENERATING = "a dual encoder generates no text"
NOT_APPLICABLE = {
    "_test_merge_layers_fp16": MERGING,
    "_test_merge_layers_nan": MERGING,
    "_test_merge_layers": MERGING,
    "_test_merge_layers_multi": MERGING,
    "_test_merge_layers_is_idempotent": MERGING,
    "_test_safe_merge": MERGING,
    "_test_generate": GENERATING,
    "_test_generate_pos_args": GENERATING,
    "_test_generate_half_prec": GENERATING,
    "_test_weighted_combination_of_adapters_lora": "a part of another check, for LoRA",
    "_test_weighted_combination_of_adapters_ia3": "a part of another check, for IA3",
    "_test_prepare_for_training": "CLIPModel has no `get_input_embeddings`",
    "_test_passing_input_embeds_works": "CLIPModel has no `get_input_embeddings`, its forward no `inputs_embeds`",
    "_test_from_pretrained_config_construction": (
        "it asks for the very object that was given; an adapter here has a copy, which `set_classes` may change"
    ),
    "_test_disable_adapter": "it compares outputs as tensors, and CLIP's are `ModelOutput`s",
}
# The base model takes no images alone.
CALL_THE_BASE = ("_test_unload_adapter", "_test_delete_adapter", "_test_delete_inactive_adapter")
CALL_THE_MODEL = ("_test_training", "_test_training_gradient_checkpointing", "_test_inference_safetensors")
HUB = "it reads an adapter from the Hub"
NOT_APPLICABLE_TO_CONFIGS = {
    "test_from_pretrained": HUB,
    "test_from_pretrained_cache_dir": HUB,
    "test_save_pretrained_with_runtime_config": HUB,
    "test_config_layers_to_transform_index_zero": "it is about configs with `layers_to_transform`",
}


CHECKOUT = find_checkout(os.environ.get("PEFT_CHECKOUT", ""))
common, config_tests = (import_tests(CHECKOUT, name) for name in ("testing_common", "test_config"))


def checks() -> list[tuple[str, dict]]:
    """Every check of PEFT's tester with its switches in both positions."""
    found = []
    for name, function in inspect.getmembers(common.PeftCommonTester, inspect.isfunction):
        if not name.startswith("_test_"):
            continue
        parameters = inspect.signature(function).parameters
        switches = [key for key, each in parameters.items() if isinstance(each.default, bool)]
        if name not in NOT_APPLICABLE and [*parameters] != COMMON_ARGUMENTS + switches:
            raise pytest.Collector.CollectError(f"PEFT's {name} takes {[*parameters]}: how is it called?")
        found += [
            (name, dict(zip(switches, flags, strict=True))) for flags in product([True, False], repeat=len(switches))
        ]
    return found


class ClipTester(common.PeftCommonTester):
    """PEFT's tester on a tiny CLIP."""

    transformers_class = CLIPModel

    def __init__(self, inputs: dict[str, torch.Tensor]):
        self.inputs = inputs

    def prepare_inputs_for_testing(self) -> dict[str, torch.Tensor]:
        return {name: value.to(self.torch_device) for name, value in self.inputs.items()}


@pytest.fixture
def run_check(clip_path, tokenizer, pixel_values, monkeypatch):
    """Run a check of PEFT's on images alone, the classifier's call, or with texts, the base model's."""
    # By this PEFT's checks find what is learned; a tuner's own prefix stands in the names of saved weights alone.
    monkeypatch.setattr(PeftModelForImageClassification, "prefix", f".{CONTAINER}.", raising=False)

    def run(check, kind, switches, with_texts):
        if with_texts and not takes_texts(kind):
            pytest.skip(f"{check}: this prompt cannot be put into other texts, which the base model needs")
        texts = dict(tokenizer(["a cat.", "a very nice dog."], padding=True, return_tensors="pt")) if with_texts else {}
        settings = {**kind.settings, "class_names": PAIRS}  # pairs of words are names, too
        torch.manual_seed(0)
        tester = ClipTester({**texts, "pixel_values": pixel_values})
        getattr(tester, check)(clip_path, kind.config_class, settings, **switches)

    return run


def takes_texts(kind) -> bool:
    """Whether the base model's own call, with texts, goes on with the prompt."""
    return METHODS[kind.method].prompt.given_texts is not Prompt.given_texts and not is_specific(kind)


def name_of(value) -> str:
    return value if isinstance(value, str) else "-".join(f"{name}={position}" for name, position in value.items())


@every_kind
@pytest.mark.parametrize("check, switches", checks(), ids=name_of)
def test_common(run_check, kind, check, switches):
    if check in NOT_APPLICABLE:
        pytest.skip(f"{check}: {NOT_APPLICABLE[check]}")
    run_check(check, kind, switches, with_texts=check in CALL_THE_BASE)


@every_kind
@pytest.mark.parametrize("check, switches", [each for each in checks() if each[0] in CALL_THE_MODEL], ids=name_of)
def test_common_with_texts(run_check, kind, check, switches):
    run_check(check, kind, switches, with_texts=True)


def test_what_is_left_out_is_there():
    """A check that PEFT renamed is not left out by its old name."""
    assert {*NOT_APPLICABLE, *CALL_THE_BASE, *CALL_THE_MODEL} <= {name for name, _ in checks()}
    assert set(NOT_APPLICABLE_TO_CONFIGS) <= set(vars(config_tests.TestPeftConfig))


def takes_configs(function: FunctionType) -> bool:
    return {"config_class", "mandatory_kwargs"} <= set(inspect.signature(function).parameters)


def our_configs(check: str) -> list:
    """Our configs as a check's parameters."""
    skip = pytest.mark.skip(reason=f"{check}: saved, the config is loaded as that of the PEFT type")
    named = {
        each: PEFT_TYPE_TO_CONFIG_MAPPING[each().peft_type] is each
        for each in (method.config for method in METHODS.values())
    }
    return [
        pytest.param(each, {}, id=each.__name__, marks=() if own or "forward_compatible" not in check else skip)
        for each, own in named.items()
    ]


def with_our_configs(function: FunctionType) -> FunctionType:
    """A test of PEFT's with our configs in the place of its own."""
    name = function.__name__
    ours = FunctionType(function.__code__, function.__globals__, name, function.__defaults__)
    marks = getattr(function, "pytestmark", [])
    ours.pytestmark = [pytest.mark.parametrize("config_class, mandatory_kwargs", our_configs(name))]
    ours.pytestmark += [mark for mark in marks if "config_class" not in mark.args[0]]
    if name in NOT_APPLICABLE_TO_CONFIGS:
        ours.pytestmark.append(pytest.mark.skip(reason=f"{name}: {NOT_APPLICABLE_TO_CONFIGS[name]}"))
    return ours


# PEFT's class of tests, as far as they are about every config. It loops over all of PEFT's types, ours among them.
TestConfigs = type(
    "TestConfigs",
    (),
    {
        name: with_our_configs(function) if takes_configs(function) else function
        for name, function in inspect.getmembers(config_tests.TestPeftConfig, inspect.isfunction)
        if takes_configs(function) or name == "test_from_peft_type"
    },
)
