"""CoOp's adapters are adapters like PEFT's others: adding, switching, saving, loading, taking out."""

import copy
import io
import pickle
import shutil
import textwrap
from contextlib import nullcontext

import pytest
import torch
from conftest import make_clip
from forked import run_forked
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPModel

from peft_coop import AutoPeftModelForImageClassification, CoCoOpConfig, CoOpConfig, PeftModelForImageClassification
from peft_coop.towers.tree_tower import TreeTower

ANIMALS = ["cat", "dog", "great white shark"]
FLOWERS = ["rose", "bird of paradise"]
LABELS = torch.tensor([0, 1, 2, 0, 1])
METHODS = {
    "unified": {"n_ctx": 4},
    "words in the middle": {"ctx_init": "a photo of a", "class_token_position": "middle"},
    "class-specific": {"n_ctx": 3, "class_specific_context": True, "class_token_position": "front"},
    "conditional": {"n_ctx": 4, "meta_net": True},
}
KEYS = "base_model.model.text_model.embeddings."
META_NET = [f"coop_meta_net_linear{layer}.{part}" for layer in (1, 2) for part in ("bias", "weight")]

two_methods = pytest.mark.parametrize("settings", [METHODS["unified"], METHODS["conditional"]], ids=["coop", "cocoop"])
every_method = pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)


@pytest.fixture
def config(tokenizer_path):
    """Make a config: three animals, four vectors."""

    def make(**settings):
        return CoOpConfig(**{"class_names": ANIMALS, "tokenizer_name_or_path": tokenizer_path, "n_ctx": 4, **settings})

    return make


@pytest.fixture
def make_model(config):
    """Make a model whose prompt is not the one that it started with."""

    def make(base=None, adapter_name="default", **settings):
        model = get_peft_model(base or make_clip(), config(**{"n_ctx": None, **settings}), adapter_name)
        return perturb(model, adapter_name).eval()

    return make


@pytest.fixture
def two_adapters(make_model, config):
    """A model with the adapters "default", active, for animals and "flowers"."""
    model = make_model(n_ctx=4)
    model.add_adapter("flowers", config(class_names=FLOWERS, meta_net=True))
    return perturb(model, "flowers", seed=4).eval()


@pytest.fixture
def logits(pixel_values):
    """Logits of a model without gradients."""

    def compute(model, **inputs):
        with torch.no_grad():
            return model(**(inputs or {"pixel_values": pixel_values.to(model.dtype)})).logits

    return compute


def layer_of(model):
    [layer] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return layer


def perturb(model, adapter_name="default", seed=3):
    """Give an adapter other vectors than those that it started with, so that a lucky start cannot pass."""
    generator = torch.Generator().manual_seed(seed)
    layer = layer_of(model)
    for container in layer.adapter_layer_names:
        for name, parameter in getattr(layer, container).named_parameters():
            if name.split(".")[0] == adapter_name:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def trainable(model):
    return [name.removeprefix(KEYS) for name, parameter in model.named_parameters() if parameter.requires_grad]


def label_names(model):
    config = model.config
    assert config.num_labels == len(config.id2label)
    assert config.label2id == {name: index for index, name in config.id2label.items()}
    return list(config.id2label.values())


def texts(tokenizer):
    return dict(tokenizer(["a cat.", "a very nice dog."], padding=True, return_tensors="pt"))


def count_encodings(monkeypatch):
    """A list that grows by one whenever the text tower is run by the classifier."""
    calls = []
    encode = TreeTower.encode
    monkeypatch.setattr(TreeTower, "encode", lambda *given: calls.append(1) or encode(*given))
    return calls


def test_a_method_is_what_get_peft_model_returns(make_model):
    model = make_model()
    assert type(model) is PeftModelForImageClassification
    assert model.peft_type == "COOP"
    assert model.peft_config["default"].task_type == "IMAGE_CLS"


def test_a_new_adapter_is_not_active(two_adapters, logits, make_model):
    assert two_adapters.active_adapters == ["default"]
    assert label_names(two_adapters) == ANIMALS
    assert trainable(two_adapters) == ["learned_prompts.default.ctx"]
    assert torch.equal(logits(two_adapters), logits(make_model(n_ctx=4)))


def test_switching(two_adapters, logits):
    animals = logits(two_adapters)
    two_adapters.set_adapter("flowers")
    assert two_adapters.active_adapters == ["flowers"]
    assert label_names(two_adapters) == two_adapters.class_names == FLOWERS
    assert all("flowers" in name for name in trainable(two_adapters))
    assert logits(two_adapters).shape == (5, 2)
    two_adapters.set_adapter("default")
    assert label_names(two_adapters) == two_adapters.class_names == ANIMALS
    assert torch.equal(logits(two_adapters), animals)


def test_switching_for_inference_freezes(two_adapters):
    two_adapters.set_adapter("flowers", inference_mode=True)
    assert trainable(two_adapters) == []


def test_new_classes_belong_to_one_adapter(two_adapters):
    two_adapters.set_classes(["moth", "bee"])
    assert label_names(two_adapters) == ["moth", "bee"]
    assert two_adapters.peft_config["default"].class_names == ["moth", "bee"]
    two_adapters.set_adapter("flowers")
    assert label_names(two_adapters) == FLOWERS
    two_adapters.set_adapter("default")
    assert label_names(two_adapters) == ["moth", "bee"]


def test_without_an_adapter_the_model_is_clip(make_model, tokenizer, pixel_values):
    model = make_model()
    model.delete_adapter("default")
    assert model.active_adapters == []
    assert model.config.id2label == make_clip().config.id2label
    with torch.no_grad():
        expected = make_clip()(**texts(tokenizer), pixel_values=pixel_values)
        given = model.base_model(**texts(tokenizer), pixel_values=pixel_values)
    assert torch.equal(given.logits_per_image, expected.logits_per_image)
    assert model.get_base_model().class_names is None


def test_an_adapter_can_follow_the_last_one(make_model, config, logits):
    model = make_model()
    before = logits(model)
    model.delete_adapter("default")
    model.add_adapter("other", config(n_ctx=4))
    model.set_adapter("other")
    assert label_names(model) == ANIMALS
    assert not torch.allclose(logits(perturb(model, "other")), before)


def test_disabled_clips_own_call_is_clips(make_model, tokenizer, pixel_values):
    model, inputs = make_model(), {**texts(tokenizer), "pixel_values": pixel_values}
    with torch.no_grad():
        expected = make_clip()(**inputs).logits_per_image
        assert not torch.allclose(model(**inputs).logits_per_image, expected)
        with model.disable_adapter():
            assert torch.equal(model(**inputs).logits_per_image, expected)


def test_an_unloaded_model_can_be_wrapped_again(make_model, logits):
    model = make_model()
    again = make_model(model.unload())
    assert torch.equal(logits(again), logits(make_model()))
    assert label_names(again) == ANIMALS


def test_status(two_adapters, capsys):
    two_adapters.print_trainable_parameters()
    total = sum(parameter.numel() for parameter in two_adapters.parameters())
    assert f"trainable params: 96 || all params: {total:,}" in capsys.readouterr().out
    status = two_adapters.get_model_status()
    assert status.base_model_type == "CLIPModel"
    assert status.adapter_model_type == "PromptTuner"
    assert status.peft_types == {"default": "COOP", "flowers": "COOP"}
    assert status.requires_grad == {"default": True, "flowers": False}
    assert status.enabled is True
    [layer] = two_adapters.get_layer_status()
    assert layer.available_adapters == ["default", "flowers"]
    assert layer.active_adapters == ["default"]


@every_method
def test_checkpoint_keys(make_model, tmp_path, settings):
    make_model(adapter_name="mine", **settings).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "mine" / "adapter_model.safetensors")
    expected = ["coop_ctx", *(META_NET if settings.get("meta_net") else [])]
    assert sorted(saved) == [f"{KEYS}{name}" for name in expected]
    shape = (3, 3, 24) if settings.get("class_specific_context") else (4, 24)
    assert saved[f"{KEYS}coop_ctx"].shape == shape


@pytest.mark.parametrize("name", ["my-adapter", "model", "weight"])
def test_any_name_loads_under_any_other(make_model, logits, tmp_path, name):
    model = make_model(adapter_name=name, meta_net=True)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path / name, adapter_name="other-" + name)
    loaded.load_adapter(tmp_path / name, name)
    assert torch.equal(logits(loaded), logits(model))
    loaded.set_adapter(name)
    assert torch.equal(logits(loaded), logits(model))


def test_a_name_within_the_prefix_works_with_pefts_warning(make_model, logits, tmp_path):
    with pytest.warns(UserWarning, match="'coop' should not be contained in the prefix"):
        model = make_model(adapter_name="coop")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path / "coop", adapter_name="coop")
    assert torch.equal(logits(loaded), logits(model))


def test_new_classes_are_saved(make_model, logits, tmp_path):
    model = make_model()
    model.set_classes(FLOWERS)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path)
    assert loaded.class_names == label_names(loaded) == FLOWERS
    assert torch.equal(logits(loaded), logits(model))


@two_methods
def test_training_goes_on_where_it_stopped(make_model, pixel_values, tmp_path, settings):
    def step(model):
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.train()(pixel_values=pixel_values, labels=LABELS).loss.backward()
        torch.optim.SGD(parameters, lr=0.1).step()
        model.zero_grad()

    model = make_model(**settings)
    start = get_peft_model_state_dict(copy.deepcopy(model))
    step(model)
    model.save_pretrained(tmp_path)
    step(model)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path, is_trainable=True)
    assert trainable(loaded) == trainable(model)
    step(loaded)
    for key, value in get_peft_model_state_dict(loaded).items():
        assert torch.equal(value, get_peft_model_state_dict(model)[key])
        assert not torch.equal(value, start[key])


def test_a_loaded_adapter_can_be_trained_beside_a_frozen_one(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path)
    loaded.load_adapter(tmp_path, "mine", is_trainable=True)
    assert trainable(loaded) == ["learned_prompts.mine.ctx"]


@two_methods
def test_an_empty_adapter_is_on_the_meta_device(config, settings):
    model = get_peft_model(make_clip(), config(**{"n_ctx": None, **settings}), low_cpu_mem_usage=True)
    for name, parameter in model.named_parameters():
        assert parameter.is_meta == (".learned_prompts." in name)


@two_methods
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_base_and_float32_context(make_model, logits, pixel_values, tmp_path, dtype, settings):
    model = make_model(make_clip().to(dtype), **settings)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert model.dtype == dtype
    assert {parameter.dtype for parameter in learned} == {torch.float32}
    output = model(pixel_values=pixel_values.to(dtype), labels=LABELS)
    output.loss.backward()
    assert output.loss.dtype == output.logits.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.abs().sum() > 0 for parameter in learned)
    torch.testing.assert_close(output.logits, logits(make_model(**settings)), atol=0.7, rtol=0)

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip().to(dtype), tmp_path)
    loaded.load_adapter(tmp_path, "other")
    assert {parameter.dtype for name, parameter in loaded.named_parameters() if ".learned_prompts." in name} == {
        torch.float32
    }
    assert torch.equal(logits(loaded), logits(model))


def test_the_context_may_keep_the_dtype_of_the_base(config, logits):
    model = get_peft_model(make_clip().bfloat16(), config(meta_net=True), autocast_adapter_dtype=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert logits(model).isfinite().all()


def test_features_are_computed_once_in_evaluation(make_model, logits, monkeypatch):
    model = make_model()
    calls = count_encodings(monkeypatch)
    first = logits(model)
    assert torch.equal(logits(model), first)
    assert len(calls) == 1
    model.train()
    logits(model)
    logits(model)
    assert len(calls) == 3


def test_features_follow_a_silent_change_of_the_context(make_model, logits):
    model = make_model()
    before = logits(model)
    context = layer_of(model).learned_prompts["default"].ctx
    kept = context.detach().clone()
    context.data[0, 0] += 5
    assert not torch.allclose(logits(model), before)
    context.data.copy_(kept)
    assert torch.equal(logits(model), before)


def test_features_follow_the_classes(make_model, logits):
    model = make_model(make_clip().double())
    before = logits(model)
    model.set_classes(ANIMALS[::-1])
    torch.testing.assert_close(logits(model), before.flip(1), atol=1e-9, rtol=0)
    model.set_classes(FLOWERS)
    assert logits(model).shape == (5, 2)


@two_methods
@pytest.mark.parametrize("disabled", [False, True])
def test_features_follow_the_dtype(make_model, logits, settings, disabled):
    model = make_model(**settings)
    with model.disable_adapter() if disabled else nullcontext():
        before = logits(model)
        half = logits(model.to(torch.bfloat16))
        assert half.dtype == torch.float32
        assert not torch.equal(half, before)
        assert model.get_text_features(torch.ones(1, 40)).pooler_output.dtype == torch.bfloat16
        torch.testing.assert_close(logits(model.float()), before, atol=0.4, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("meta_net", [False, True])
def test_features_follow_the_device(make_model, pixel_values, meta_net):
    model = make_model(meta_net=meta_net)
    with torch.no_grad():
        before = model(pixel_values=pixel_values).logits
        moved = model.cuda()(pixel_values=pixel_values.cuda()).logits
        torch.testing.assert_close(moved.cpu(), before, atol=1e-3, rtol=1e-3)
        back = model.cpu()(pixel_values=pixel_values).logits
    torch.testing.assert_close(back, before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("disabled", [False, True])
def test_features_follow_the_device_of_the_weights(make_model, logits, disabled):
    model = make_model()
    with model.disable_adapter() if disabled else nullcontext(), torch.no_grad():
        assert logits(model).isfinite().all()
        assert model.to("meta").get_text_features().pooler_output.is_meta


def test_features_of_an_adapter_are_its_own(two_adapters, logits):
    two_adapters.set_classes(FLOWERS)
    first = logits(two_adapters)
    with two_adapters.disable_adapter():
        zero_shot = logits(two_adapters)
    two_adapters.set_adapter("flowers")
    with two_adapters.disable_adapter():
        assert torch.equal(logits(two_adapters), zero_shot)
    second = logits(two_adapters)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, zero_shot)


def test_the_transformers_integration(config, logits, tokenizer, pixel_values):
    clip = make_clip()
    own = clip.config.id2label
    clip.add_adapter(config(), "animals")
    with pytest.warns(UserWarning, match="Already found a `peft_config` attribute"):
        clip.add_adapter(config(class_names=FLOWERS), "flowers")
    assert clip.active_adapters() == ["flowers"]
    assert label_names(clip) == FLOWERS
    clip.set_adapter("animals")
    assert label_names(clip) == clip.class_names == ANIMALS
    learned = logits(perturb(clip, "animals"))
    clip.disable_adapters()
    assert not torch.allclose(logits(clip), learned)
    clip.enable_adapters()
    assert torch.equal(logits(clip), learned)
    with pytest.warns(UserWarning, match="animals was active which is now deleted"):
        clip.delete_adapter("animals")
    assert label_names(clip) == FLOWERS
    clip.delete_adapter("flowers")
    assert clip.config.id2label == own
    inputs = {**texts(tokenizer), "pixel_values": pixel_values}
    with torch.no_grad():
        assert torch.equal(clip(**inputs).logits_per_image, make_clip()(**inputs).logits_per_image)


@every_method
def test_clip_loads_an_adapter_itself(make_model, logits, clip_path, tmp_path, settings):
    model = make_model(CLIPModel.from_pretrained(clip_path), **settings)
    model.save_pretrained(tmp_path)
    clip = CLIPModel.from_pretrained(clip_path).eval()
    clip.load_adapter(tmp_path)
    assert torch.equal(logits(clip), logits(model))
    assert label_names(clip) == ANIMALS
    by_folder = CLIPModel.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(by_folder), logits(model))


def test_auto_model_finds_the_base(make_model, logits, clip_path, tmp_path):
    model = make_model(CLIPModel.from_pretrained(clip_path))
    model.save_pretrained(tmp_path)
    loaded = AutoPeftModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert trainable(AutoPeftModelForImageClassification.from_pretrained(tmp_path, is_trainable=True))


def test_the_tokenizer_is_the_base_models(clip_path, tmp_path):
    model = get_peft_model(CLIPModel.from_pretrained(clip_path), CoCoOpConfig(class_names=ANIMALS))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(CLIPModel.from_pretrained(clip_path), tmp_path)
    assert loaded.class_names == ANIMALS
    assert loaded.peft_config["default"].base_model_name_or_path == clip_path


def test_the_revision_of_the_base_is_saved(config, tmp_path):
    get_peft_model(make_clip(), config(), revision="v2").save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).revision == "v2"


@two_methods
def test_a_deep_copy_is_independent(make_model, logits, settings):
    model = make_model(**settings)
    before = logits(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), before)
    perturb(twin, seed=9)
    twin.get_base_model().config.id2label = {0: "other"}
    assert torch.equal(logits(model), before)
    assert label_names(model) == ANIMALS
    base = copy.deepcopy(twin.unload())
    assert type(base) is CLIPModel
    assert torch.equal(logits(make_model(base, **settings)), before)


def test_labels_of_a_deep_copy_follow_its_own_adapters(two_adapters):
    twin = copy.deepcopy(two_adapters)
    twin.set_adapter("flowers")
    assert label_names(twin) == FLOWERS
    assert label_names(two_adapters) == ANIMALS


@two_methods
def test_pickled(make_model, logits, settings):
    model = make_model(**settings)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(logits(twin), logits(model))
        assert twin.get_base_model().__class__ is model.get_base_model().__class__
        assert type(twin.unload()) is CLIPModel


def test_unpickled_in_a_process_that_only_imported_the_package(make_model, logits, pixel_values, tmp_path):
    model, pixel_values = make_model(make_clip().double(), meta_net=True), pixel_values.double()
    torch.save({"model": model, "pixel_values": pixel_values, "logits": logits(model)}, tmp_path / "all.pt")
    script = """
        import sys, torch, peft_coop
        saved = torch.load(sys.argv[1], weights_only=False)
        model = saved["model"]
        with torch.no_grad():
            logits = model(pixel_values=saved["pixel_values"]).logits
        torch.testing.assert_close(logits, saved["logits"], atol=1e-9, rtol=0)
        model.set_classes(["rose", "tulip"])
        assert model.config.id2label == {0: "rose", 1: "tulip"}
        print(type(model.unload()).__mro__[0])
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    done = run_forked(tmp_path / "script.py", tmp_path / "all.pt")
    assert done.returncode == 0, done.stderr
    assert "CLIPModel" in done.stdout


def test_what_is_around_the_layer_reads_through_it(make_model, clip):
    table = clip.text_model.embeddings.token_embedding
    model = make_model(clip)
    assert model.get_base_model().text_model.embeddings.token_embedding is table
    assert isinstance(table, nn.Embedding)


def test_the_same_clip_wrapped_again_keeps_nothing_of_the_first(tokenizer_path, pixel_values):
    """A notebook's cell that is run twice with other settings."""
    settings = {"tokenizer_name_or_path": tokenizer_path, "class_names": ["cat", "dog"]}
    clip = make_clip()
    get_peft_model(clip, CoCoOpConfig(meta_net_reduction=4, **settings))
    with pytest.warns(UserWarning, match="second time|Already found"):
        model = get_peft_model(clip, CoOpConfig(n_ctx=6, tokenizer_name_or_path=tokenizer_path))
    assert model.class_names is None
    model.set_classes(["x", "y", "z"])
    assert model(pixel_values=pixel_values).text_embeds.shape == (3, 40)


def test_features_may_be_changed_in_place(tokenizer_path, pixel_values):
    config = CoOpConfig(n_ctx=4, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config).eval()
    with torch.no_grad():
        expected = model(pixel_values=pixel_values).logits
        model.get_text_features().pooler_output.mul_(-1)
        model.get_text_features().pooler_output.mul_(-1)
        assert torch.equal(model(pixel_values=pixel_values).logits, expected)


def test_two_adapters_of_one_config_have_classes_of_their_own(tokenizer_path, tmp_path):
    config = CoOpConfig(n_ctx=4, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config)
    model.add_adapter("other", config)
    model.set_classes(["x", "y", "z"])
    model.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).class_names == ["x", "y", "z"]
    assert PeftConfig.from_pretrained(tmp_path / "other").class_names == ["cat", "dog"]


def test_classes_set_in_inference_mode_can_be_trained(tokenizer_path, pixel_values):
    config = CoOpConfig(n_ctx=4, tokenizer_name_or_path=tokenizer_path, class_token_position="middle")
    model = get_peft_model(make_clip(), config).train()
    with torch.inference_mode():
        model.set_classes(["cat", "dog"])
        model(pixel_values=pixel_values)
    model(pixel_values=pixel_values, labels=torch.tensor([0, 1, 0, 1, 0])).loss.backward()
    assert (layer_of(model).learned_prompts["default"].ctx.grad.abs().sum(dim=1) > 0).all()


def test_features_of_a_text_tower_that_learns_are_not_kept(tokenizer_path, pixel_values):
    config = CoOpConfig(n_ctx=4, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config).eval()
    tower = model.get_base_model().text_model.encoder.requires_grad_(True)
    with model.disable_adapter():
        before = model(pixel_values=pixel_values).logits
        assert before.requires_grad
        with torch.no_grad():
            for weight in tower.parameters():
                weight.mul_(1.1)
        assert not torch.allclose(model(pixel_values=pixel_values).logits, before)


def test_disabled_with_features_and_texts_compares_them(tokenizer, tokenizer_path, pixel_values):
    config = CoOpConfig(n_ctx=4, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip().double(), config).eval()
    texts = tokenizer(["a cat.", "a dog house."], padding=True, return_tensors="pt")
    with torch.no_grad(), model.disable_adapter():
        expected = model(pixel_values=pixel_values, **texts)
        actual = model(image_embeds=expected.image_embeds, **texts)
    torch.testing.assert_close(actual.logits_per_image, expected.logits_per_image, atol=1e-9, rtol=0)


def test_a_relative_tokenizer_path_that_is_gone_falls_back(tokenizer_path, clip_path, tmp_path, monkeypatch):
    shutil.copytree(tokenizer_path, tmp_path / "here" / "toks" / "saved")
    monkeypatch.chdir(tmp_path / "here")
    config = CoOpConfig(n_ctx=4, class_names=["cat"], tokenizer_name_or_path="toks/saved")
    get_peft_model(make_clip(), config).save_pretrained(tmp_path / "adapter")
    shutil.rmtree(tmp_path / "here" / "toks")
    with pytest.warns(UserWarning, match="is not on this machine; using the base model's"):
        PeftModel.from_pretrained(CLIPModel.from_pretrained(clip_path), tmp_path / "adapter")


def test_a_failing_load_leaves_an_adapter_made_from_a_saved_config(tokenizer_path, tmp_path, pixel_values):
    config = CoOpConfig(n_ctx=4, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
    get_peft_model(make_clip(), config).save_pretrained(tmp_path / "saved")
    model = get_peft_model(make_clip(), CoOpConfig.from_pretrained(tmp_path / "saved"))
    with pytest.raises(ValueError, match="Repo id must be in the form"):
        model.load_adapter(str(tmp_path / "nothing"), "default")
    assert model(pixel_values=pixel_values).logits.shape == (5, 2)
