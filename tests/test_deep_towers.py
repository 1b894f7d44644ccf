"""Vectors before deeper layers, of the text tower and of the vision tower, against hooks on Hugging Face's own models.

In float64, where the family's own code computes in it; AIMv2's norm and ALIGN's softmax are float32 in any case.
"""

import copy
import pickle
import threading
from contextlib import ExitStack, contextmanager
from itertools import product

import pytest
import torch
from conftest import make_clip
from method_kinds import small_config
from peft import LoraConfig, get_peft_model
from test_prompts import NAMES, VOCAB
from tiny_families import FAMILIES

from peft_coop import CoOpConfig, IVLPConfig, MaPLeConfig, VPTConfig
from peft_coop.prompts import TextReader
from peft_coop.prompts.sequences import context_sequences
from peft_coop.towers import FAMILIES as ROWS
from peft_coop.towers import image_features, open_vision_tower, text_layers, text_tower, vision_layers, vision_prompts
from peft_coop.towers.states_between import OpenModule

N_LAYERS = 4
FLOAT32_INSIDE = ("align", "aimv2")
SUPPORTED = {key: family for key, family in FAMILIES.items() if family.model_type in ROWS}
READ_PROMPTS = [key for key, family in SUPPORTED.items() if ROWS[family.model_type].no_vision_prompts is None]
REFUSING = [key for key in SUPPORTED if key not in READ_PROMPTS]


@contextmanager
def hooks(*handles):
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


def rows_replaced(table, columns, indices):
    """A hook before a layer: the states in some columns become rows of a table."""

    def hook(module, given):
        states = given[0].clone()
        states[:, columns] = table[indices].to(states)
        return (states, *given[1:])

    return hook


def draw(*shape, seed=3):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def sequences_of(tokenizer_path, names=NAMES, **settings):
    reader = TextReader((tokenizer_path, None), VOCAB, 77)
    return context_sequences(reader.names(names), reader.tokenizer, VOCAB, 4, **settings)


@pytest.fixture
def clip():
    return make_clip(num_hidden_layers=N_LAYERS).double().requires_grad_(False)


def own_features(clip, sequences, vectors, deep):
    """One prompt after the other, each padded to 77 positions, through Hugging Face's own text tower with hooks."""
    features = []
    for ids in sequences.ids:
        columns = [place for place, token in enumerate(ids) if token >= VOCAB]
        indices = [ids[place] - VOCAB for place in columns]
        tokens = torch.tensor([[1 if token >= VOCAB else token for token in ids] + [0] * (77 - len(ids))])

        def put_in(module, given, states, columns=columns, indices=indices):
            states = states.clone()
            states[:, columns] = vectors[indices]
            return states

        layers = clip.text_model.encoder.layers
        first = clip.text_model.embeddings.token_embedding.register_forward_hook(put_in)
        others = [layers[i].register_forward_pre_hook(rows_replaced(deep[i], columns, indices)) for i in deep]
        with hooks(first, *others):
            features.append(clip.get_text_features(tokens).pooler_output)
    return torch.cat(features)


def gradients(features, *tables):
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(4), dtype=features.dtype)
    return torch.autograd.grad((features * weights).sum(), tables)


def assert_same(given, expected, atol=1e-9):
    torch.testing.assert_close(given, expected, atol=atol, rtol=0)


# Layers in a row, all, the last alone, with gaps.
LAYERS = [(1,), (1, 2), (1, 2, 3), (3,), (1, 3), (2,)]


@pytest.mark.parametrize("layers", LAYERS, ids=str)
@pytest.mark.parametrize(("position", "class_specific"), list(product(["end", "middle", "front"], [False, True])))
def test_text_equals_hooks(clip, tokenizer_path, position, class_specific, layers):
    sequences = sequences_of(tokenizer_path, position=position, class_specific=class_specific)
    n_vectors = 4 * len(NAMES) if class_specific else 4
    vectors, deep = draw(n_vectors, 24), {layer: draw(n_vectors, 24, seed=layer + 5) for layer in layers}
    expected = own_features(clip, sequences, vectors, deep)
    tower = text_tower(clip)
    tower.install()
    prompts = tower.prepare(sequences)
    tables = (vectors, *deep.values())
    wanted = gradients(expected, *tables)
    for memory in (None, 1):  # whole, and one row at a time with each computed again
        features = tower.encode(prompts, vectors, memory, deep)
        assert_same(features, expected)
        assert_same(gradients(features, *tables), wanted)


def test_each_image_with_its_own_vectors_at_the_embeddings(clip, tokenizer_path):
    sequences, deep = sequences_of(tokenizer_path), {1: draw(4, 24, seed=5), 2: draw(4, 24, seed=6)}
    vectors = draw(3, 4, 24)
    expected = torch.stack([own_features(clip, sequences, each, deep) for each in vectors])
    tower = text_tower(clip)
    tower.install()
    features = tower.encode(tower.prepare(sequences), vectors, None, deep)
    assert_same(features, expected)
    assert_same(gradients(features, *deep.values()), gradients(expected, *deep.values()))


def test_eager_attention_and_a_single_class(clip, tokenizer_path):
    """But for eager's softmax, which Hugging Face computes in float32."""
    sequences = sequences_of(tokenizer_path, names=["cat"])
    vectors, deep = draw(4, 24), {1: draw(4, 24, seed=5), 2: draw(4, 24, seed=6)}
    expected = own_features(clip, sequences, vectors, deep)
    clip.set_attn_implementation("eager")
    tower = text_tower(clip)
    tower.install()
    assert_same(tower.encode(tower.prepare(sequences), vectors, None, deep), expected, atol=1e-5)


def test_what_the_next_layer_overwrites_is_not_computed(clip, tokenizer_path):
    """Of five context vectors' MLPs in four layers, only those from the last replacement on."""
    tower = text_tower(clip)
    tower.install()
    prompts = tower.prepare(sequences_of(tokenizer_path))
    vectors, deep = draw(4, 24), {1: draw(4, 24), 2: draw(4, 24)}
    counts = []
    handles = [
        layer.mlp.register_forward_hook(lambda module, given, output: counts.append(output.shape[1]))
        for layer in clip.text_model.encoder.layers
    ]
    with hooks(*handles):
        tower.encode(prompts, vectors)
        plain, counts[:] = list(counts), []
        tower.encode(prompts, vectors, None, deep)
    assert [before - now for before, now in zip(plain, counts, strict=True)] == [4, 4, 0, 0]


def test_vectors_that_are_missing_or_have_no_layer_are_refused(clip, tokenizer_path):
    tower = text_tower(clip)
    tower.install()
    prompts = tower.prepare(sequences_of(tokenizer_path))
    with pytest.raises(ValueError, match="need 4 learnable vectors, and there are 3 at layer 2"):
        tower.encode(prompts, draw(4, 24), None, {1: draw(4, 24), 2: draw(3, 24)})
    for layer in (0, 4):
        with pytest.raises(ValueError, match=rf"before layers 1 to 3 of this .* 4 layers; got some for \[{layer}\]"):
            tower.encode(prompts, draw(4, 24), None, {layer: draw(4, 24)})


@pytest.fixture(scope="module")
def folders(family_tokenizer):
    return {key: family_tokenizer(family).name_or_path for key, family in SUPPORTED.items()}


def images_of(family, batch=2):
    given = family.image_inputs(batch)
    return {name: value.double() if value.is_floating_point() else value for name, value in given.items()}


@pytest.mark.parametrize("key", [key for key in SUPPORTED if not ROWS[SUPPORTED[key].model_type].shares_prefixes])
def test_text_of_towers_that_share_nothing_equals_hooks(folders, key):
    """Through the family's own layers, where each prompt is a row of its own."""
    base = SUPPORTED[key].make_model().double().requires_grad_(False)
    config = IVLPConfig(
        n_ctx=3, ctx_init=None, class_template="{}.", n_ctx_vision=0, class_names=["cat", "big red dog"],
        tokenizer_name_or_path=folders[key],
    )  # fmt: skip
    model = get_peft_model(copy.deepcopy(base), config).train()
    prompt = model.prompt_layer.prompt
    assert len(prompt.deep_ctx) == 1
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.normal_()
    prompts = model.prompt_layer.texts.learned
    given = {"input_ids": prompts.token_ids}
    family = ROWS[SUPPORTED[key].model_type]
    if family.mask == "padding":
        given["attention_mask"] = prompts.mask
    elif family.mask == "causal":
        given["attention_mask"] = text_tower(base)._causal_mask(*prompts.token_ids.shape)
    [columns] = {tuple(row.nonzero().flatten().tolist()) for row in prompts.is_learned}
    columns = list(columns)

    def put_in(module, given, states):
        states = states.clone()
        states[:, columns] = prompt.ctx.to(states)
        return states

    table = base.get_submodule(family.embeddings).get_submodule(family.token_embedding)
    deeper = rows_replaced(prompt.deep_ctx[0], columns, list(range(3)))
    with hooks(table.register_forward_hook(put_in), text_layers(base)[1].register_forward_pre_hook(deeper)):
        expected = base.get_text_features(**given, return_dict=True).pooler_output
    atol = 1e-5 if SUPPORTED[key].model_type in FLOAT32_INSIDE else 1e-9
    features = model.get_text_features().pooler_output
    assert_same(features, expected, atol)
    tables = list(prompt.parameters())
    assert_same(gradients(features, *tables), gradients(expected, *tables), atol * 10)


def appended(table):
    return lambda module, given, states: torch.cat([states, table.to(states).expand(len(states), -1, -1)], dim=1)


def last_rows_replaced(table):
    def hook(module, given):
        states = given[0][:, : -len(table)]
        return (torch.cat([states, table.to(states).expand(len(states), -1, -1)], dim=1), *given[1:])

    return hook


def own_image_features(model, images, prompts):
    """Through the family's own vision tower with hooks; what pools all tokens gets the image's."""
    family = ROWS[model.config.model_type]
    layers = vision_layers(model)
    handles = [
        model.get_submodule(family.vision_embeddings).register_forward_hook(appended(prompts[0])),
        *(layers[i].register_forward_pre_hook(last_rows_replaced(prompts[i])) for i in range(1, len(prompts))),
        layers[-1].register_forward_hook(lambda module, given, states: states[:, : -len(prompts[0])]),
    ]
    with hooks(*handles):
        return model.get_image_features(**images, return_dict=True).pooler_output


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("key", READ_PROMPTS)
def test_images_equal_hooks(key, depth):
    model, images = SUPPORTED[key].make_model().double().requires_grad_(False), images_of(SUPPORTED[key])
    prompts = [draw(3, 32, seed=index) for index in range(depth)]
    expected = own_image_features(model, images, prompts)
    plain = image_features(model, **images)
    open_vision_tower(model)
    features = image_features(model, prompts=prompts, **images)
    atol = 1e-5 if SUPPORTED[key].model_type in FLOAT32_INSIDE else 1e-9
    assert_same(features, expected, atol)
    assert (features - plain).abs().max() > 1e-3
    wanted = gradients(expected, *prompts)
    assert all(each.abs().max() > 1e-4 for each in wanted)
    assert_same(gradients(features, *prompts), wanted, atol * 10)
    assert_same(image_features(model, **images), plain)


def test_a_clip_reads_its_class_token_wherever_prompts_leave(clip):
    """As the papers' code has it, where prompts stay among the tokens to the end."""
    images = {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
    prompts = [draw(3, 32, seed=index) for index in range(2)]
    layers = clip.vision_model.encoder.layers
    first = clip.vision_model.embeddings.register_forward_hook(appended(prompts[0]))
    with hooks(first, layers[1].register_forward_pre_hook(last_rows_replaced(prompts[1]))):
        expected = clip.get_image_features(**images).pooler_output
    open_vision_tower(clip)
    assert_same(image_features(clip, prompts=prompts, **images), expected)


@pytest.mark.parametrize("key", REFUSING)
def test_a_vision_tower_that_cannot_read_prompts_says_why(folders, key):
    model = SUPPORTED[key].make_model()
    kind, attributes = type(model), set(vars(model))
    reason = ROWS[SUPPORTED[key].model_type].no_vision_prompts
    for config_class in (IVLPConfig, MaPLeConfig, VPTConfig):
        config = config_class(class_names=["cat"], tokenizer_name_or_path=folders[key])
        with pytest.raises(ValueError, match=f"vision tower .* cannot read prompts: {reason}"):
            get_peft_model(model, config)
        assert type(model) is kind
        assert set(vars(model)) == attributes


def test_a_vision_tower_of_an_unknown_kind_says_which_are_known(folders):
    model = SUPPORTED["vision-text-dual-encoder"].make_model()
    model.config.vision_config.model_type = "swin"
    config = VPTConfig(class_names=["cat"], tokenizer_name_or_path=folders["vision-text-dual-encoder"])
    with pytest.raises(ValueError, match=r"cannot read prompts: accepted beside .* of the types vit, deit"):
        get_peft_model(model, config)


@pytest.fixture
def make_model(tokenizer_path):
    def make(method="maple", **settings):
        torch.manual_seed(0)
        given = {"class_names": ["cat", "dog"], "tokenizer_name_or_path": tokenizer_path, **settings}
        return get_peft_model(make_clip(), small_config(method, **given)).double()

    return make


def open_modules(model):
    return [name for name, module in model.named_modules() if isinstance(module, OpenModule)]


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("method", ["maple", "ivlp", "vpt"])
def test_layers_of_the_vision_tower_are_computed_again(make_model, pixel_values, method, use_reentrant):
    """With gradient checkpointing, though the tower is frozen and in evaluation mode: with the same prompts."""
    model = make_model(method).train()
    inputs = {"pixel_values": pixel_values.double(), "labels": torch.tensor([0, 1, 1, 0, 1])}

    def learn():
        model.zero_grad()
        calls = []
        layers = model.get_base_model().vision_model.encoder.layers
        handles = [each.self_attn.register_forward_pre_hook(lambda *_: calls.append(1)) for each in layers]
        with hooks(*handles):
            model(**inputs).loss.backward()
        return [each.grad.clone() for each in model.prompt_layer.prompt.parameters()], len(calls)

    expected, once = learn()
    # Renamed in transformers 5.x.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})
    given, twice = learn()
    assert (once, twice) == (2, 4)
    assert_same(given, expected)
    assert not any(module.training for module in model.get_base_model().vision_model.modules())


def test_threads_of_a_server_do_not_see_each_others_prompts(clip):
    open_vision_tower(clip)
    images = {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
    plain, prompts = image_features(clip, **images), [draw(3, 32)]
    beside = []

    def serve():
        with vision_prompts(clip, prompts):
            thread = threading.Thread(target=lambda: beside.append(image_features(clip, **images)))
            thread.start()
            thread.join()

    with pytest.raises(RuntimeError, match="Prompts stand at 3 modules of a tower, and 0 of these read them"):
        serve()
    assert_same(beside[0], plain)


def test_a_layer_that_was_replaced_since_is_told(make_model, pixel_values):
    model = make_model("vpt").eval()
    layers = model.get_base_model().vision_model.encoder.layers
    layers[1] = make_clip().double().vision_model.encoder.layers[1]
    with pytest.raises(RuntimeError, match="stand at 3 modules of a tower, and 2 of these read them: something was"):
        model(pixel_values=pixel_values.double())


def test_copies_and_pickles_read_prompts_and_unload_leaves_nothing(make_model, pixel_values):
    model = make_model().eval()
    inputs = {"pixel_values": pixel_values.double()}
    expected = model(**inputs).logits
    assert open_modules(model.get_base_model().vision_model) == ["embeddings", "encoder.layers.0", "encoder.layers.1"]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(twin(**inputs).logits, expected)
    base = model.unload()
    assert not open_modules(base)
    assert "_place" not in vars(base.vision_model.encoder.layers[0])
    assert_same(base.get_image_features(**inputs).pooler_output, make_clip().double().get_image_features(**inputs)[1])


def test_modules_of_the_vision_tower_that_are_trained_read_prompts(make_model, pixel_values):
    """Each adapter's own copy of a layer, and the second adapter put in behind it."""
    inputs = {"pixel_values": pixel_values.double()}
    model = make_model("vpt", modules_to_save=["vision_model.encoder.layers.1", "vision_model.embeddings"])
    model.add_adapter("other", small_config("vpt", **{
        name: getattr(model.peft_config["default"], name)
        for name in ("class_names", "tokenizer_name_or_path", "modules_to_save")
    }))  # fmt: skip
    model.double().eval()
    prompt = model.prompt_layer.prompt
    base = make_clip().double()
    expected = own_image_features(base, inputs, prompt.vision_vectors())
    for name in ("default", "other"):
        model.set_adapter(name)
        expected = own_image_features(base, inputs, model.prompt_layer.prompt.vision_vectors())
        assert_same(model.get_image_features(**inputs).pooler_output, expected)


def test_a_lora_in_both_towers_stands_beside(make_model, pixel_values):
    model = make_model()
    model.add_adapter("lora", LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.double().train()
    model(pixel_values=pixel_values.double(), labels=torch.tensor([0, 1, 1, 0, 1])).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    with model.disable_adapter():
        expected = make_clip().double().get_image_features(pixel_values=pixel_values.double()).pooler_output
        assert_same(model.get_image_features(pixel_values=pixel_values.double()).pooler_output, expected)


def test_vision_prompts_that_no_layer_would_read_are_refused(clip):
    open_vision_tower(clip)
    images = {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
    for counts in ([3, 3, 3], [3, 2]):
        prompts = [draw(count, 32) for count in counts]
        given = rf"got {len(counts)} prompts of \[3, {counts[1]}"
        with pytest.raises(ValueError, match=rf"each of the 2 layers of this vision tower, .* {given}"):
            image_features(clip, prompts=prompts, **images)


def test_a_config_and_a_prompt_that_do_not_agree_on_the_vision_tower_are_refused(make_model, monkeypatch, pixel_values):
    for config_class, answer, has in ((VPTConfig, False, 2), (CoOpConfig, True, 0)):
        monkeypatch.setattr(config_class, "changes_vision", answer)
        model = make_model("vpt" if has else "coop").eval()
        message = f"`changes_vision` of {config_class.__name__} is {answer}, and .* has {has} prompts of the vision"
        with pytest.raises(ValueError, match=message):
            model(pixel_values=pixel_values.double())


@pytest.mark.parametrize("method", ["maple", "ivlp", "vpt"])
def test_a_model_in_another_precision_gets_a_prompt(tokenizer_path, pixel_values, method):
    """What is learned beside vectors, MaPLe's linear maps, is made in float32 and then in the model's own."""
    given = {"class_names": ["cat", "dog"], "tokenizer_name_or_path": tokenizer_path}
    for dtype in (torch.float64, torch.bfloat16):
        model = get_peft_model(make_clip().to(dtype), small_config(method, **given)).eval()
        with torch.no_grad():
            assert model(pixel_values=pixel_values.to(dtype)).logits.isfinite().all()
