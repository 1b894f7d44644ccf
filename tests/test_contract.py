"""What PEFT asks of every method, of ours in all their forms: the checks of PEFT's common tester, to 1e-9."""

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from method_kinds import COVERING_TOWERS, KINDS, PLAIN_KINDS, Kind, fits_family, in_turn, is_specific
from model_copies import copies_of
from peft import (
    MODEL_TYPE_TO_PEFT_MODEL_MAPPING,
    PeftConfig,
    PeftModel,
    PeftType,
    get_base_model_state_dict,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_base_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from task_inputs import as_given, labels_as_given, task_of
from tiny_families import FAMILIES, TinyFamily
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from peft_coop.methods import METHODS
from peft_coop.towers import FAMILIES as SUPPORTED

# Every form of a method for the first family. For the others the first method, with vectors for each class and without,
# and two of those that have all there is in any, in turn: each of these is tried in several families.
FAMILY_KEYS = tuple(key for key, family in FAMILIES.items() if family.model_type in SUPPORTED)
FIRST_METHOD = [kind for kind in PLAIN_KINDS if kind.method == PLAIN_KINDS[0].method]
IN_TURN = [kind for kind in PLAIN_KINDS if kind.method in COVERING_TOWERS and not is_specific(kind)][1:]


def kinds_of_family(index: int) -> list[Kind]:
    if not index:
        return KINDS
    return FIRST_METHOD + in_turn(IN_TURN, index, 2)


FORMS = {
    key: [kind for kind in kinds_of_family(index) if fits_family(kind, FAMILIES[key].model_type)]
    for index, key in enumerate(FAMILY_KEYS)
}
CLASS_NAMES = ["old cat", "old dog", "big ship"]  # which a method that combines words can have, too
LABELS = torch.tensor([0, 1, 2])
WEIGHTS = {True: "adapter_model.safetensors", False: "adapter_model.bin"}

every_config = pytest.mark.parametrize("config_class", [each.config for each in METHODS.values()])


@dataclass(frozen=True)
class Case:
    """A method in one form for one family of models."""

    kind: Kind
    family: TinyFamily
    base: nn.Module
    copy_base: Callable[[], nn.Module]
    tokenizer: object

    def make_base(self) -> nn.Module:
        return self.copy_base()

    def config(self, **settings) -> PeftConfig:
        given = {"class_names": CLASS_NAMES, "tokenizer_name_or_path": self.tokenizer.name_or_path, **settings}
        return self.kind.config(**given)

    def make_model(self, adapter_name: str = "default") -> PeftModel:
        """A model in evaluation mode, its prompt not the one that it started with."""
        return perturb(get_peft_model(self.make_base(), self.config(), adapter_name)).eval()

    def make_two(self) -> PeftModel:
        """One with the adapter "other" beside the active one."""
        model = self.make_model()
        model.add_adapter("other", self.config(class_names=CLASS_NAMES[::-1]))
        model.set_adapter("other")
        perturb(model, seed=4)
        model.set_adapter("default")
        return model.eval()

    @property
    def images(self) -> dict[str, torch.Tensor]:
        return as_given(self.kind.method, self.single_images)

    @property
    def single_images(self) -> dict[str, torch.Tensor]:
        given = self.family.image_inputs(batch=len(LABELS))
        return {name: value.double() if value.is_floating_point() else value for name, value in given.items()}

    @property
    def labels(self) -> torch.Tensor:
        return labels_as_given(self.kind.method, LABELS, self.single_images)

    def logits(self, model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(**self.images).logits

    def own_logits(self, model: nn.Module) -> torch.Tensor:
        """The base model's own, of the classes in the zero-shot template."""
        template = self.config().zero_shot_template or "a photo of a {}."  # of pairs, the same by their own template
        texts = [template.replace("{}", name) for name in CLASS_NAMES]
        if task_of(self.kind.method) == "SEMANTIC_SEG":
            return self.own_logits_of_places(model, texts)
        return self.family.own_logits(model, self.tokenizer, self.single_images, texts)

    @torch.no_grad()
    def own_logits_of_places(self, model: nn.Module, texts: list[str]) -> torch.Tensor:
        """What the base model's own layers say of each patch, `[B, K, h, w]`."""
        states = model.vision_model(**self.single_images).last_hidden_state[:, 1:]
        places = model.visual_projection(model.vision_model.post_layernorm(states))
        features = model.get_text_features(**self.family.text_inputs(self.tokenizer, texts)).pooler_output
        cosines = torch.cosine_similarity(places[:, None], features[:, None], dim=-1)
        side = int(places.shape[1] ** 0.5)
        return model.logit_scale.exp() * cosines.unflatten(-1, (side, side))

    def assert_own(self, logits: torch.Tensor, model: nn.Module) -> None:
        """They are the base model's own; ALIGN and AIMv2 compute some steps in float32 in any case."""
        atol = 1e-5 if self.family.key in ("align", "aimv2") else 1e-9
        torch.testing.assert_close(logits, self.own_logits(model), atol=atol, rtol=0)

    def gradients(self, model: PeftModel) -> dict[str, torch.Tensor | None]:
        model.zero_grad()
        model(**self.images, labels=self.labels).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.fixture(scope="session")
def find_base(family_tokenizer):
    """A family with its model in float64 and its tokenizer, by its key; copied, never changed."""

    @cache
    def find(key: str):
        family = FAMILIES[key]
        base = family.make_model().double()
        return family, base, copies_of(base), family_tokenizer(family)

    return find


def name_of(param) -> str:
    return f"{param[0]}-{param[1].method}-{param[1].form}"


@pytest.fixture(params=[(key, kind) for key, kinds in FORMS.items() for kind in kinds], ids=name_of)
def case(request, find_base) -> Case:
    """Where the form of the prompt makes a difference."""
    key, kind = request.param
    return Case(kind, *find_base(key))


@pytest.fixture(params=[(FAMILY_KEYS[0], kind) for kind in PLAIN_KINDS], ids=name_of)
def plain_case(request, find_base) -> Case:
    """Where neither form nor family makes one."""
    key, kind = request.param
    return Case(kind, *find_base(key))


def learned(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def perturb(model: PeftModel, seed: int = 3) -> PeftModel:
    """Move what is learned, so that a lucky start cannot pass; no bias switches a hidden unit off for all images."""
    random = torch.Generator().manual_seed(seed)
    for name, parameter in learned(model).items():
        parameter.data.add_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype), alpha=0.3)
        if name.endswith("bias"):
            parameter.data.abs_().add_(1)
    return model


def counted(function, *given):
    """What a function returns, and how many modules it called."""
    calls = []
    handle = register_module_forward_pre_hook(lambda *_: calls.append(1))
    result = function(*given)
    handle.remove()
    return result, len(calls)


def assert_same(given, expected):
    torch.testing.assert_close(given, expected, atol=1e-9, rtol=0)


def assert_other(given: torch.Tensor, own: torch.Tensor) -> None:
    """They are not the base model's own, by far; of places a head may give more of them."""
    assert given.shape != own.shape or (given - own).abs().max() > 1e-3


def assert_no_trace(model: nn.Module, adapter_name: str) -> None:
    assert adapter_name not in model.peft_config
    assert not [key for key in model.state_dict() if adapter_name in key.split(".")]
    for layer in (module for module in model.modules() if isinstance(module, BaseTunerLayer)):
        for holder in (*vars(layer).values(), *layer.children()):
            assert not hasattr(holder, "keys") or adapter_name not in holder


def test_every_method_is_here():
    assert {kind.method for kind in KINDS} == set(METHODS)
    assert len(KINDS) > len(METHODS)


def test_training_reaches_what_it_learns_and_nothing_else(case):
    model = case.make_model("mine").train()
    names = set(learned(model))
    assert names
    assert all("mine" in name.split(".") for name in names)
    assert len(list(model.parameters())) == len(names) + len(list(case.base.parameters()))
    for name, gradient in case.gradients(model).items():
        assert (gradient is not None) == (name in names), name
        assert gradient is None or gradient.abs().sum() > 0, name


def check_checkpointing(case: Case, use_reentrant: bool) -> None:
    if not case.base.supports_gradient_checkpointing:
        pytest.skip(f"{type(case.base).__name__} does not support it")
    model = case.make_model().train()
    expected, calls = counted(case.gradients, model)
    model.prepare_model_for_gradient_checkpointing(model)
    # Renamed in transformers 5.x.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})
    gradients, checkpointed_calls = counted(case.gradients, model)
    assert checkpointed_calls > calls  # some are made again in the backward pass
    for name, gradient in gradients.items():
        assert_same(gradient, expected[name])


def test_gradient_checkpointing_changes_no_gradient(case):
    check_checkpointing(case, use_reentrant=False)


def test_reentrant_checkpointing_changes_no_gradient(plain_case):
    check_checkpointing(plain_case, use_reentrant=True)


def test_saved_and_loaded(case, tmp_path):
    model = case.make_model()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "adapter_config.json", WEIGHTS[True]}
    loaded = PeftModel.from_pretrained(case.make_base(), tmp_path)
    assert type(loaded) is MODEL_TYPE_TO_PEFT_MODEL_MAPPING[task_of(case.kind.method)]
    assert loaded.class_names == list(loaded.config.id2label.values()) == CLASS_NAMES
    assert not loaded.training
    assert not learned(loaded)
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert_same(case.logits(loaded), case.logits(model))


def test_saved_keys_begin_with_the_methods_prefix(plain_case, tmp_path):
    plain_case.make_model().save_pretrained(tmp_path)
    keys = list(load_file(tmp_path / WEIGHTS[True]))
    prefix = plain_case.config().peft_type.lower() + "_"
    assert keys
    assert all(any(part.startswith(prefix) for part in key.split(".")) for key in keys)
    assert not [key for key in keys if "default" in key]


def test_the_chosen_adapter_is_saved_alone_whatever_the_others_are_called(plain_case, tmp_path):
    model = plain_case.make_model()
    expected = get_peft_model_state_dict(model)
    for name in ("default2", "other_default", "foodefault_bar", "efaul"):
        model.add_adapter(name, plain_case.config())
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    assert_same(load_file(tmp_path / WEIGHTS[True]), dict(expected))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert list(PeftModel.from_pretrained(plain_case.make_base(), tmp_path).peft_config) == ["default"]


@pytest.mark.parametrize("safe_serialization, low_cpu_mem_usage", [(True, False), (False, True)])
def test_several_adapters_are_saved_and_loaded(plain_case, tmp_path, safe_serialization, low_cpu_mem_usage):
    model = plain_case.make_two()
    model.save_pretrained(tmp_path, safe_serialization=safe_serialization)
    files = {"adapter_config.json", WEIGHTS[safe_serialization]}
    assert {path.name for path in (tmp_path / "other").iterdir()} == files
    loaded = PeftModel.from_pretrained(plain_case.make_base(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    for name in ("other", "yet-another"):
        result = loaded.load_adapter(tmp_path / "other", name, low_cpu_mem_usage=low_cpu_mem_usage)
        assert result.missing_keys == result.unexpected_keys == []
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    assert loaded.active_adapters == ["default"]
    for name, saved in (("default", "default"), ("other", "other"), ("yet-another", "other")):
        loaded.set_adapter(name)
        model.set_adapter(saved)
        assert loaded.class_names == model.class_names
        assert_same(plain_case.logits(loaded), plain_case.logits(model))


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_injected_without_a_wrapper(plain_case, low_cpu_mem_usage):
    model = plain_case.make_model()
    settings = {"low_cpu_mem_usage": low_cpu_mem_usage}
    base = inject_adapter_in_model(plain_case.config(), plain_case.make_base(), "mine", **settings)
    on_meta = {name for name, parameter in base.named_parameters() if parameter.is_meta}
    assert on_meta == (set(learned(base)) if low_cpu_mem_usage else set())
    set_peft_model_state_dict(base, get_peft_model_state_dict(model), "mine", **settings)
    assert base.class_names == CLASS_NAMES
    assert_same(plain_case.logits(base.eval()), plain_case.logits(model))


def test_loaded_to_a_device_and_with_the_given_settings(plain_case, tmp_path):
    model = plain_case.make_model()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        plain_case.make_base(), tmp_path, device_map={"": "cpu"}, config=plain_case.config()
    )
    assert loaded.peft_config["default"].inference_mode
    assert loaded.class_names == CLASS_NAMES
    assert_same(plain_case.logits(loaded), plain_case.logits(model))


@pytest.mark.parametrize("active", ["default", "other"])
def test_a_deleted_adapter_leaves_no_trace(plain_case, active):
    model = plain_case.make_two()
    expected = plain_case.logits(model)
    model.set_adapter(active)
    warned = pytest.warns(UserWarning, match="other was active which is now deleted")
    with warned if active == "other" else nullcontext():
        model.delete_adapter("other")
    assert_no_trace(model, "other")
    assert model.active_adapters == list(model.peft_config) == ["default"]
    assert model.class_names == list(model.config.id2label.values()) == CLASS_NAMES
    assert_same(plain_case.logits(model), expected)


def test_with_the_last_adapter_deleted_the_base_model_is_itself(plain_case):
    model = plain_case.make_model()
    model.delete_adapter("default")
    assert_no_trace(model, "default")
    assert model.active_adapters == []
    assert_same(plain_case.own_logits(model.base_model), plain_case.own_logits(plain_case.base))


def test_an_unknown_adapter_is_not_deleted(plain_case):
    model = plain_case.make_model()
    with pytest.raises(ValueError, match="Adapter unknown-adapter does not exist"):
        model.delete_adapter("unknown-adapter")
    assert list(model.peft_config) == ["default"]


def test_unload_gives_the_base_model_back(case):
    base = case.make_base()
    attributes, config_attributes = set(vars(base)), set(vars(base.config))
    model = perturb(get_peft_model(base, case.config())).eval()
    assert type(base) is not type(case.base)
    assert_other(case.logits(model), case.own_logits(case.base))
    assert model.unload() is base
    assert type(base) is type(case.base)
    assert set(vars(base)) == attributes
    assert set(vars(base.config)) == config_attributes
    assert base.config.id2label == case.base.config.id2label
    assert not [module for module in base.modules() if isinstance(module, BaseTunerLayer)]
    assert_same(dict(base.state_dict()), dict(case.base.state_dict()))
    assert_same(case.own_logits(base), case.own_logits(case.base))


def test_the_base_models_weights_have_their_own_names(plain_case):
    model, expected = plain_case.make_model(), dict(plain_case.base.state_dict())
    assert_same(dict(get_base_model_state_dict(model)), expected)
    with torch.no_grad():
        for parameter in model.get_base_model().parameters():
            parameter.add_(1)
    result = set_base_model_state_dict(model, expected, strict=False)
    assert result.missing_keys == result.unexpected_keys == []
    assert_same(dict(get_base_model_state_dict(model)), expected)


def test_disabled_it_is_the_base_model(case):
    model = case.make_model()
    expected, own = case.logits(model), case.own_logits(case.base)
    with model.disable_adapter():
        case.assert_own(case.logits(model), case.base)
        assert model.class_names == CLASS_NAMES
    assert_other(expected, own)
    assert_same(case.logits(model), expected)
    assert learned(model)


@pytest.mark.parametrize("name", ["merge_and_unload", "merge_adapter", "unmerge_adapter"])
def test_merging_says_why_not(plain_case, name):
    model = plain_case.make_model()
    expected = plain_case.logits(model)
    with pytest.raises(NotImplementedError, match=r"no weight that they could be added to.*unload"):
        getattr(model, name)()
    assert_same(plain_case.logits(model), expected)


def test_it_is_not_said_to_convert_into_a_lora(plain_case):
    assert not plain_case.make_model().supports_lora_conversion()


@every_config
def test_a_config_needs_no_settings_and_is_saved(config_class, tmp_path):
    config = config_class()
    config.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    for loaded in (config_class.from_pretrained(tmp_path), PeftConfig.from_pretrained(tmp_path)):
        assert loaded == config
        assert loaded.to_dict() == config.to_dict()
    assert config_class.from_json_file(file) == config.to_dict() == json.loads(file.read_text())
    assert type(PeftConfig.from_peft_type(peft_type=config.peft_type)) is type(loaded)


@every_config
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, dataclasses.replace, lambda config: pickle.loads(pickle.dumps(config))]
)
def test_a_copy_of_a_config_is_equal_and_its_own(config_class, copied):
    config = config_class(class_names=["cat"])
    twin = copied(config)
    assert type(twin) is config_class
    assert twin == config
    twin.inference_mode = True
    assert twin != config


@every_config
def test_settings_of_a_later_version_are_left_out_with_a_warning(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    with pytest.warns(UserWarning, match=r"Unexpected keyword arguments \['from_the_future'\] for class"):
        assert PeftConfig.from_pretrained(tmp_path) == config_class()


@every_config
def test_a_file_without_a_method_is_no_config(config_class, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"foo": 1}')
    with pytest.raises(
        TypeError, match=f"{config_class.__name__} config that is .* missing required keys: .'peft_type'"
    ):
        config_class.from_pretrained(tmp_path)


@every_config
def test_an_unknown_task_is_refused(config_class):
    with pytest.raises(ValueError, match="Invalid task type: 'nothing'"):
        config_class(task_type="nothing")


@every_config
def test_the_version_of_peft_is_kept(config_class, tmp_path, monkeypatch):
    monkeypatch.setattr("peft.config.__version__", "0.17.0")
    config_class().save_pretrained(tmp_path)
    monkeypatch.setattr("peft.config.__version__", "1.0")
    assert PeftConfig.from_pretrained(tmp_path).peft_version == "0.17.0"
    assert PeftConfig.from_pretrained(tmp_path).peft_type in list(PeftType)
