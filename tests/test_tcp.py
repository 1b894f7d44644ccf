"""TCP: each class has context vectors of its own, made of its hand-written prompt, from a middle layer on."""

import threading

import pytest
import torch
from conftest import make_clip
from golden_cases import AFTER_STEPS, LOGITS, assert_first_gradient, golden_case, golden_inputs, golden_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import normalize

from peft_coop import METHODS, TCPConfig
from peft_coop.prompts import PromptSequences
from peft_coop.recipes import Recipe
from peft_coop.towers import text_tower
from peft_coop.towers.tree_tower import TreeTower

EXACT = {"atol": 1e-9, "rtol": 0}
NAMES = ["cat", "dog", "big ship", "big red ship", "cat"]
SETTINGS = {
    "case0": {"class_template": "{}, a type of pet."},
    "case1": {"ctx_init": "a photo of a", "class_template": "person doing {}."},
}


def golden_tcp(key, tokenizer_path, dtype):
    case = golden_case("tcp", key)
    config = TCPConfig(
        class_names=case.class_names,
        zero_shot_template=case.cases["kg_template"],
        tokenizer_name_or_path=tokenizer_path,
        **SETTINGS[key],
    )
    model = get_peft_model(golden_model(case), config)
    prompt = model.prompt_layer.prompt
    for name, value in case.tensors.items():
        if name.startswith("init."):
            learned_of(prompt)[name.removeprefix("init.")].data.copy_(value)
    return case, model.to(dtype).train()


def learned_of(prompt):
    """What is learned, by the original's names."""
    return {name.replace("meta_net_", "meta_net."): weight for name, weight in prompt.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("key", ["case0", "case1"])
@pytest.mark.filterwarnings("ignore:These class names occur more than once")
def test_the_originals_numbers(key, dtype, tokenizer_path):
    case, model = golden_tcp(key, tokenizer_path, dtype)
    inputs, prompt = golden_inputs(case, dtype), model.prompt_layer.prompt
    outputs = model(**inputs)
    torch.testing.assert_close(outputs.logits.float(), case.tensors["logits"], **LOGITS)
    outputs.loss.backward()
    for name, weight in learned_of(prompt).items():
        assert_first_gradient(weight.grad, case.tensors[f"grad.{name}"])
    recipe = case.cases["optimizer"]
    assert (recipe["name"], recipe["lr"], recipe["eps"], recipe["weight_decay"]) == ("Adam", 0.002, 1e-3, 5e-4)
    optimizer = torch.optim.Adam(prompt.parameters(), lr=0.002, eps=1e-3, weight_decay=5e-4)
    losses = []
    for _ in range(recipe["steps"]):
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(torch.tensor(losses), case.tensors["losses"].float(), atol=3e-5, rtol=0)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits.float(), case.tensors["final.logits"], **AFTER_STEPS)
        model.set_classes(case.new_class_names)
        new = model(pixel_values=inputs["pixel_values"]).logits
    torch.testing.assert_close(new.float(), case.tensors["final.logits_new"], **AFTER_STEPS)


def slow_features(model, sequences, vectors, deep):
    """Each prompt by itself through Hugging Face's own layers, states replaced in front of some of them."""
    text, features = model.text_model, []
    for number, ids in enumerate(sequences.ids):
        learned = torch.tensor([each >= sequences.vocab_size for each in ids])
        rows = torch.tensor([max(0, each - sequences.vocab_size) for each in ids])
        tokens = torch.tensor([min(each, sequences.vocab_size - 1) for each in ids])
        states = torch.where(learned[:, None], vectors[rows], text.embeddings.token_embedding(tokens))[None]
        states = states + text.embeddings.position_embedding(torch.arange(len(ids)))
        mask = torch.full((len(ids), len(ids)), -1e30, dtype=states.dtype).triu(1)[None, None]
        for place, layer in enumerate(text.encoder.layers):
            if place in deep:
                table = deep[place][number] if deep[place].ndim == 3 else deep[place]
                states = torch.where(learned[:, None], table[rows], states)
            states = layer(states, mask)
        features.append(model.text_projection(text.final_layer_norm(states[0, -1])))
    return torch.stack(features)


def tables(n_prompts, layers, shared=(), n_vectors=3, width=24):
    random = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()

    deep = {layer: draw(n_prompts, n_vectors, width) for layer in layers}
    return draw(n_vectors, width), {**deep, **{layer: draw(n_vectors, width) for layer in shared}}


PROMPTS = [
    (1, 100, 101, 102, 7, 8, 2),
    (1, 100, 101, 102, 7, 2),
    (1, 100, 101, 102, 9, 2),
    (1, 100, 101, 102, 7, 8, 2),
    (1, 100, 101, 102, 9, 7, 8, 5, 2),
]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize(("own", "shared"), [((2,), ()), ((1,), ()), ((3,), (1, 2)), ((1, 3), (2,)), ((1, 2, 3), ())])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_tree_goes_on_in_each_prompt_for_itself(count, own, shared, memory, implementation):
    """Features and gradients are those of every prompt computed whole, however many parts it is computed in."""
    model = make_clip(num_hidden_layers=4).double().eval()
    model.set_attn_implementation(implementation)
    sequences = PromptSequences(tuple(PROMPTS[:count]), 100, parts=True)
    vectors, deep = tables(count, own, shared)
    expected = slow_features(model, sequences, vectors, deep)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    every = [vectors, *deep.values()]
    gradients = torch.autograd.grad((expected * weights).sum(), every)
    tower = text_tower(model)
    tower.install()
    prompts = tower.prepare(sequences)
    features = tower.encode(prompts, vectors, memory, deep)
    # transformers' eager attention has a softmax in float32, whatever the model is in.
    exact = EXACT if implementation == "sdpa" else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(features, expected, **exact)
    for mine, theirs in zip(torch.autograd.grad((features * weights).sum(), every), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, **exact)
    with torch.no_grad():
        torch.testing.assert_close(tower.encode(prompts, vectors, memory, deep), expected.detach(), **exact)
    tower.remove()


def test_only_what_is_behind_the_layer_is_computed_for_each_class():
    sequences = PromptSequences(tuple((1, 100, 101, 102, each, 7, 8, 2) for each in range(10, 60)), 100, parts=True)
    tower = text_tower(make_clip(num_hidden_layers=4).double())
    prompts = tower.prepare(sequences)
    assert prompts.live.token_ids.numel() < 50 * 5
    assert prompts.apart.prompts.live.token_ids.numel() >= 50 * 7


def test_vectors_of_each_prompt_must_fit_the_prompts():
    model = make_clip(num_hidden_layers=4).double()
    tower = text_tower(model)
    vectors, deep = tables(2, (1,))
    prompts = tower.prepare(PromptSequences(tuple(PROMPTS[:3]), 100, parts=True))
    with pytest.raises(ValueError, match=r"one set for each of the 3 prompts.*got \[\(2, 3, 24\)\]"):
        tower.encode(prompts, vectors, deep=deep)
    prompts = tower.prepare(PromptSequences(tuple(PROMPTS[:2]), 100))
    with pytest.raises(ValueError, match="which its `PromptSequences` do not say"):
        tower.encode(prompts, vectors, deep=deep)
    front = PromptSequences(((1, 7, 100, 101, 102, 2), (1, 8, 100, 101, 102, 2)), 100, parts=True)
    with pytest.raises(NotImplementedError, match="must stand in front of the class names"):
        tower.prepare(front)


@pytest.fixture
def make_model(tokenizer_path):
    def make(layers=3, **settings):
        torch.manual_seed(0)
        config = TCPConfig(
            **{"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path, "replaced_layer": 1, **settings}
        )
        return get_peft_model(make_clip(num_hidden_layers=layers).double(), config).eval()

    return make


same_names = pytest.mark.filterwarnings("ignore:These class names occur more than once")


@same_names
def test_the_classes_vectors_are_made_of_their_hand_written_prompt(make_model):
    model = make_model()
    prompt = model.prompt_layer.prompt
    images = torch.randn(2, 40, dtype=torch.float64)
    with torch.no_grad():
        with model.disable_adapter():
            hand_written = model(image_embeds=images).text_embeds
        outputs = model(image_embeds=images)
        [(layer, table)] = prompt.class_vectors(hand_written).items()
        assert (layer, table.shape) == (1, (5, 4, 24))
        expected = slow_features(model.get_base_model().eval(), prompt.sequences(NAMES), prompt.ctx, {1: table})
    torch.testing.assert_close(outputs.text_embeds, normalize(expected, dim=-1), **EXACT)


@same_names
def test_the_loss_has_kgcoops_term(make_model):
    model = make_model(kg_weight=3.0).train()
    outputs = model(image_embeds=torch.randn(2, 40, dtype=torch.float64), labels=torch.tensor([0, 1]))
    parts = outputs.loss_parts
    torch.testing.assert_close(outputs.loss, parts["cross_entropy"] + 3 * parts["kg"], **EXACT)
    with model.disable_adapter(), torch.no_grad():
        hand_written = model(image_embeds=torch.randn(1, 40).double()).text_embeds
    torch.testing.assert_close(parts["kg"], (1 - (outputs.text_embeds * hand_written).sum(-1)).mean(), **EXACT)


@same_names
def test_texts_given_at_call_time_make_their_own_vectors(make_model, tokenizer):
    model = make_model(zero_shot_template="{}", class_template="{}")
    images = torch.randn(2, 40, dtype=torch.float64)
    inputs = tokenizer(NAMES, padding=True, return_tensors="pt")
    with torch.no_grad():
        compared = model(image_embeds=images, **inputs).logits_per_image
        torch.testing.assert_close(compared, model(image_embeds=images).logits, **EXACT)


@same_names
def test_features_that_are_kept_follow_the_network_and_the_classes(make_model):
    model = make_model()
    images = torch.randn(2, 40, dtype=torch.float64)
    with torch.no_grad():
        before = model(image_embeds=images).logits
        assert torch.equal(model(image_embeds=images).logits, before)
        model.prompt_layer.prompt.meta_net_linear1.weight.data *= 2
        after = model(image_embeds=images).logits
        model.set_classes(NAMES[:2])
        torch.testing.assert_close(model(image_embeds=images).logits, after[:, :2], **EXACT)
    assert (after - before).abs().max() > 1e-6


@same_names
def test_saved_under_the_names_of_the_contract(make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    place = "base_model.model.text_model.embeddings."
    names = ["tcp_ctx", *(f"tcp_meta_net_linear{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias"))]
    assert sorted(load_file(tmp_path / "adapter_model.safetensors")) == sorted(place + name for name in names)
    loaded = PeftModel.from_pretrained(make_clip(num_hidden_layers=3).double(), tmp_path).eval()
    images = torch.randn(2, 40, dtype=torch.float64)
    torch.testing.assert_close(loaded(image_embeds=images).logits, model(image_embeds=images).logits, **EXACT)


OTHERS = {"class_template": "{}, a pet.", "replaced_layer": 2, "zero_shot_template": "the {}."}


@pytest.mark.parametrize("setting", OTHERS)
@same_names
def test_an_adapter_that_reads_its_weights_in_another_way_is_not_loaded_over_it(make_model, setting, tmp_path):
    make_model(**{setting: OTHERS[setting]}).save_pretrained(tmp_path)
    model = make_model()
    with pytest.raises(ValueError, match=f"does not fit adapter 'default': `{setting}` is"):
        model.load_adapter(tmp_path, "default")
    model.load_adapter(tmp_path, "other")


def test_the_layer_is_the_papers_or_the_last(make_model):
    names = {"class_names": ["cat", "dog"]}
    assert make_model(layers=10, replaced_layer=None, **names).peft_config["default"].replaced_layer == 8
    with pytest.warns(UserWarning, match="has 3 layers, and TCP's own `replaced_layer` is 8: .* the last one, 2"):
        model = make_model(layers=3, replaced_layer=None, **names)
    assert model.peft_config["default"].replaced_layer == 2
    with pytest.raises(ValueError, match="`replaced_layer=3` is none of this text tower's 3 layers"):
        make_model(layers=3, replaced_layer=3, **names)
    with pytest.raises(ValueError, match="TCP needs a text tower of two layers or more"):
        make_model(layers=1, replaced_layer=None, **names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_ctx": 0}, "`n_ctx` must be a whole number of 1 or more"),
        ({"replaced_layer": 0}, "`replaced_layer` must be a whole number of 1 or more"),
        ({"kg_weight": -1}, "`kg_weight` must be a finite number of 0 or more"),
        ({"class_template": "a"}, "`class_template` must hold the class name's place"),
        ({"ctx_init": " "}, "`ctx_init` must be one word or more"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TCPConfig(**settings)


def test_a_network_without_hidden_units_is_refused(make_model):
    with pytest.raises(ValueError, match="`meta_net_reduction=41` leaves the network no hidden unit"):
        make_model(meta_net_reduction=41)


def test_other_numbers_of_vectors_work(make_model):
    for settings in ({"n_ctx": 2}, {"n_ctx": 7}, {"n_ctx": None, "ctx_init": "a photo of a big"}):
        model = make_model(class_names=["cat", "dog"], **settings)
        n_ctx = len(model.prompt_layer.prompt.ctx)
        assert n_ctx == (settings["n_ctx"] or 5)
        assert model(image_embeds=torch.randn(1, 40).double()).text_embeds.shape == (2, 40)


def test_the_papers_recipe():
    method = METHODS["tcp"]
    assert method.recipe(16, "dtd") == Recipe(50, 32, 0.002, optimizer="adam", eps=1e-3)
    assert method.recipe(16, "imagenet").num_epochs == method.recipe(16, "sun397").num_epochs == 25


def test_a_merged_lora_is_taken_out_with_a_warning(tokenizer_path):
    """The classes' vectors are made by the frozen model, and what is merged into its weights is no part of that."""
    config = TCPConfig(class_names=["cat", "dog"], replaced_layer=1, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip().double(), config)
    model.add_adapter("style", LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.double().eval()
    features = model.get_text_features().pooler_output
    model.merge_adapter(["style"])
    with pytest.warns(UserWarning, match=r"needs its own weights, and \['style'\] was merged into them: .* taken out"):
        torch.testing.assert_close(model.get_text_features().pooler_output, features, **EXACT)
    torch.testing.assert_close(model.get_text_features().pooler_output, features, **EXACT)


def test_threads_do_not_read_each_others_frozen_model(tokenizer_path, monkeypatch):
    """A LoRA is off while one thread reads the frozen model, and on in what another computes meanwhile."""
    config = TCPConfig(class_names=["cat", "dog"], replaced_layer=1, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip().double(), config)
    model.add_adapter("style", LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.double().eval().requires_grad_(False)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = model(pixel_values=images).logits
    model.clear_prompt_cache()
    encode, is_frozen, has_answered, answers = TreeTower.encode, threading.Event(), threading.Event(), []

    def slow_encode(*given, **more):
        if not is_frozen.is_set():  # the first to be read are the hand-written prompts
            is_frozen.set()
            has_answered.wait(0.5)
        return encode(*given, **more)

    def answer():
        answers.append(model(pixel_values=images).logits)
        has_answered.set()

    monkeypatch.setattr(TreeTower, "encode", slow_encode)
    threads = [threading.Thread(target=answer) for _ in range(2)]
    threads[0].start()
    assert is_frozen.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join()
    for logits in (*answers, model(pixel_values=images).logits):
        torch.testing.assert_close(logits, expected, **EXACT)
    assert len(answers) == 2
