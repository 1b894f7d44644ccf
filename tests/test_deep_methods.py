"""MaPLe, IVLP and VPT: what they settle by themselves, what they refuse, and several of them in one model."""

import pytest
import torch
from conftest import make_clip
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from peft_coop import CoOpConfig, IVLPConfig, MaPLeConfig, VPTConfig
from peft_coop.methods import METHODS
from peft_coop.recipes import Recipe

NAMES = ["cat", "dog", "big ship"]
CONFIGS = {"maple": MaPLeConfig, "ivlp": IVLPConfig, "vpt": VPTConfig}
every_method = pytest.mark.parametrize("method", CONFIGS)


@pytest.fixture
def make_model(tokenizer_path):
    def make(config, **text):
        config.class_names, config.tokenizer_name_or_path = NAMES, tokenizer_path
        torch.manual_seed(0)
        return get_peft_model(make_clip(**text), config).double().eval()

    return make


@pytest.fixture
def images(pixel_values):
    return {"pixel_values": pixel_values[:4].double()}


def logits(model, **images):
    with torch.no_grad():
        return model(**images).logits


def drawn(model, seed=0):
    """Everything learned drawn anew, large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.prompt_layer.prompt.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return model


@pytest.mark.parametrize(
    ("n_ctx", "start", "template"),
    [
        (1, "a", "photo of a {}."),
        (2, "a photo", "of a {}."),
        (3, "a photo of", "a {}."),
        (4, "a photo of a", "{}."),
        (5, None, "{}."),
    ],
)
def test_the_first_words_start_the_vectors_and_the_others_stay(make_model, n_ctx, start, template):
    settings = make_model(MaPLeConfig(n_ctx=n_ctx)).peft_config["default"]
    assert (settings.n_ctx, settings.ctx_init, settings.class_template) == (n_ctx, start, template)


def test_what_is_given_means_what_it_means_for_coop(make_model):
    """Words alone have nothing behind them but the name; a template alone has random vectors before it."""
    words = make_model(IVLPConfig(n_ctx=None, ctx_init="a blurry photo")).peft_config["default"]
    assert (words.n_ctx, words.ctx_init, words.class_template) == (3, "a blurry photo", "{}.")
    template = make_model(IVLPConfig(class_template="of a {}.")).peft_config["default"]
    assert (template.n_ctx, template.ctx_init, template.class_template) == (2, None, "of a {}.")
    with pytest.raises(ValueError, match="`n_ctx=2` contradicts `ctx_init='a photo of a'`, which has 4 tokens"):
        make_model(IVLPConfig(ctx_init="a photo of a"))


def test_a_depth_that_is_not_given_is_the_papers_or_as_many_as_there_are_layers(make_model):
    shallow = [make_model(config()).peft_config["default"] for config in CONFIGS.values()]
    assert [getattr(each, "prompt_depth", None) for each in shallow] == [2, 2, None]
    assert [getattr(each, "prompt_depth_vision", None) for each in shallow] == [None, 2, 2]
    deep = {"num_hidden_layers": 14, "intermediate_size": 8}
    model = make_model(IVLPConfig(n_ctx_vision=0), **deep)
    assert model.peft_config["default"].prompt_depth == 12
    assert len(model.prompt_layer.prompt.deep_ctx) == 11
    assert make_model(MaPLeConfig(), **deep).peft_config["default"].prompt_depth == 2  # as the vision tower has


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (IVLPConfig(prompt_depth=4), "`prompt_depth=4` is more than this text tower has layers: it can be 3 at most"),
        (
            IVLPConfig(prompt_depth_vision=3),
            "`prompt_depth_vision=3` is more than this vision .* it can be 2 at most",
        ),
        (
            VPTConfig(prompt_depth_vision=3),
            "`prompt_depth_vision=3` is more than this vision .* it can be 2 at most",
        ),
        (MaPLeConfig(prompt_depth=4), r"the deeper tower \(3 of text, 2 of vision\) has layers: it can be 3 at most"),
    ],
)
def test_a_depth_beyond_the_towers_is_refused(make_model, config, message):
    with pytest.raises(ValueError, match=message):
        make_model(config, num_hidden_layers=3)


def test_maples_depth_may_be_the_deeper_towers(make_model, images):
    """What has no layer in the vision tower learns through the text tower alone."""
    model = make_model(MaPLeConfig(prompt_depth=3), num_hidden_layers=3).train()
    model(**images, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    prompt = model.prompt_layer.prompt
    assert all(weight.grad is not None for weight in prompt.parameters())  # DDP waits for all of them
    unused = ["deep_projections.1.weight", "deep_projections.1.bias"]
    assert [name for name, _ in prompt.named_buffers()] == unused
    assert not prompt.deep_projections[1].weight.requires_grad


def test_maps_of_maple_that_nothing_goes_through_are_saved_with_the_others(make_model, tmp_path):
    """As the paper's code has them in its checkpoints."""
    model = make_model(MaPLeConfig(prompt_depth=3), num_hidden_layers=3)
    with torch.no_grad():
        for tensor in model.prompt_layer.prompt.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape))  # what float32 holds, as loaded
    expected = model.prompt_layer.prompt.state_dict()
    assert len(expected) == 9
    model.save_pretrained(tmp_path)
    assert {key.split("maple_")[1] for key in load_file(tmp_path / "adapter_model.safetensors")} == set(expected)
    for settings in ({}, {"low_cpu_mem_usage": True}):
        base = make_clip(num_hidden_layers=3)
        loaded = PeftModel.from_pretrained(base, tmp_path, **settings).double().prompt_layer.prompt.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "given",
    [
        {"n_ctx_vision": 0, "prompt_depth_vision": 2},
        {"n_ctx_vision": 2, "prompt_depth_vision": 0},
        {"prompt_depth_vision": 0},
    ],
)
def test_half_a_prompt_of_the_vision_tower_is_refused(given):
    with pytest.raises(ValueError, match="Either both or none of `n_ctx_vision` and `prompt_depth_vision` are 0"):
        IVLPConfig(**given)


@pytest.mark.parametrize(
    ("config_class", "given"),
    [
        *((each, {"n_ctx_vision": value}) for each in (IVLPConfig, VPTConfig) for value in (-1, 1.5, True)),
        *((each, {"prompt_depth_vision": -1}) for each in (IVLPConfig, VPTConfig)),
        *((each, {"prompt_depth": 0}) for each in (IVLPConfig, MaPLeConfig)),
        *((each, {"n_ctx": 0}) for each in (IVLPConfig, MaPLeConfig)),
        (VPTConfig, {"n_ctx_vision": 0}),
    ],
)
def test_counts_that_are_none_are_refused(config_class, given):
    [name] = given
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number of 1 or more"):
        config_class(**given)


@every_method
def test_features_that_were_computed_before_are_refused_while_it_is_active(make_model, images, method):
    model = make_model(CONFIGS[method]())
    features = torch.ones(4, 40)
    with pytest.raises(ValueError, match=r"'default' reads images with learned prompts .* give `pixel_values`"):
        model(image_embeds=features)
    with model.disable_adapter():
        assert logits(model, image_embeds=features).shape == (4, 3)
        own = make_clip().double().get_image_features(**images).pooler_output
        torch.testing.assert_close(model.get_image_features(**images).pooler_output, own, atol=1e-9, rtol=0)
    prompted = drawn(model).get_image_features(**images).pooler_output
    assert (prompted - own).abs().max() > 1e-3
    torch.testing.assert_close(
        torch.nn.functional.normalize(prompted, dim=-1), model(**images).image_embeds, atol=1e-9, rtol=0
    )


def test_prompts_in_the_text_tower_alone_take_features(make_model, images):
    model = drawn(make_model(IVLPConfig(n_ctx_vision=0)))
    features = model.get_image_features(**images)
    torch.testing.assert_close(logits(model, image_embeds=features), logits(model, **images), atol=1e-9, rtol=0)
    assert set(dict(model.prompt_layer.prompt.named_parameters())) == {"ctx", "deep_ctx.0"}


@pytest.mark.parametrize("method", ["maple", "ivlp"])
def test_kept_texts_follow_the_vectors_at_every_layer(make_model, images, method):
    """Also where a vector is changed in a way that leaves no trace but its value."""
    model = drawn(make_model(CONFIGS[method]()))
    with torch.no_grad():
        for weight in (model.prompt_layer.prompt.ctx, model.prompt_layer.prompt.deep_ctx[0]):
            kept = model(**images).text_embeds
            assert torch.equal(model(**images).text_embeds, kept)
            weight.data.mul_(-1)
            changed = model(**images).text_embeds
            assert (changed - kept).abs().max() > 1e-4
            model.clear_prompt_cache()
            torch.testing.assert_close(model(**images).text_embeds, changed, atol=1e-9, rtol=0)


def test_images_of_one_batch_are_read_by_prompts_of_their_own(make_model, images, tokenizer_path):
    given = {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path}
    model = make_model(CoOpConfig(n_ctx=2))
    for name, config_class in zip("xyz", CONFIGS.values(), strict=True):
        model.add_adapter(name, config_class(**given))
        model.set_adapter(name)
        drawn(model.double())
    alone = {}
    for name in ("default", *"xyz"):
        model.set_adapter(name)
        alone[name] = logits(model, **images)
    with model.disable_adapter():
        alone["__base__"] = logits(model, **images)
    for names in (["default", "z", "x", "__base__"], ["y", "__base__", "z", "z"]):
        expected = torch.stack([alone[name][index] for index, name in enumerate(names)])
        mixed = logits(model, **images, adapter_names=names)
        torch.testing.assert_close(mixed, expected, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="'x' reads images with learned prompts"):
        logits(model, image_embeds=torch.ones(2, 40), adapter_names=["default", "x"])
    differences = [(alone[one] - alone[other]).abs().max() for one in alone for other in alone if one < other]
    assert min(differences) > 1e-3


def test_a_memory_limit_changes_nothing(make_model, images):
    model = drawn(make_model(MaPLeConfig())).train()
    gradients = []
    for gigabytes in (None, 1e-9):
        model.set_prompt_memory(gigabytes)
        model.zero_grad()
        model(**images, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        gradients.append([weight.grad.clone() for weight in model.prompt_layer.prompt.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-9, rtol=0)


def test_compiled_evaluation(make_model, images):
    model = drawn(make_model(MaPLeConfig()))
    expected = logits(model, **images)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(logits(compiled, **images), expected, atol=1e-9, rtol=0)


def test_deep_linear_maps_of_maple_start_alike(make_model):
    model = make_model(MaPLeConfig(prompt_depth=3), num_hidden_layers=3)
    prompt = model.prompt_layer.prompt
    first, second = prompt.deep_projections
    assert torch.equal(first.weight, second.weight)
    assert first.weight is not second.weight
    assert not torch.equal(first.weight, prompt.projection.weight)


@pytest.mark.parametrize(
    ("method", "protocol", "recipe", "fields"),
    [
        ("maple", "base-to-new", Recipe(5, 4, 0.0035), {}),
        ("maple", "cross-dataset", Recipe(2, 4, 0.0026), {"prompt_depth": 3}),
        ("maple", "domain", Recipe(2, 4, 0.0026), {"prompt_depth": 3}),
        ("ivlp", "base-to-new", Recipe(5, 4, 0.0035), {}),
        ("vpt", "few-shot", Recipe(5, 4, 0.0025), {}),
    ],
)
def test_the_papers_recipes(method, protocol, recipe, fields):
    assert METHODS[method].recipe(16, None, protocol) == recipe
    assert METHODS[method].fields(protocol) == fields


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (MaPLeConfig(), 3_555_072),
        (IVLPConfig(), 30_720),
        (IVLPConfig(n_ctx=4, n_ctx_vision=4, prompt_depth=9, prompt_depth_vision=9), 46_080),
        (IVLPConfig(n_ctx=4, n_ctx_vision=0), 24_576),
        (VPTConfig(), 73_728),
    ],
)
def test_how_many_numbers_are_learned_at_vit_b_16(config, count):
    from transformers import CLIPConfig, CLIPModel

    from peft_coop.demo import MODEL_PATH

    with torch.device("meta"):
        clip = CLIPModel(CLIPConfig())
    text, vision = clip.config.text_config, clip.config.vision_config
    assert (text.hidden_size, vision.hidden_size, text.num_hidden_layers, vision.num_hidden_layers) == (
        512,
        768,
        12,
        12,
    )
    config.tokenizer_name_or_path = MODEL_PATH
    model = get_peft_model(clip, config, low_cpu_mem_usage=True)
    assert sum(weight.numel() for weight in model.prompt_layer.prompt.parameters()) == count
