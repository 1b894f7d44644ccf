"""CSP: pairs of an attribute and an object, whose words are vectors."""

import json
import re
import warnings
from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
import torch
from conftest import make_clip
from golden_cases import AFTER_STEPS, LOGITS, assert_first_gradient, golden_case, golden_inputs, golden_model
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from peft_coop import METHODS, CoCoOpConfig, CoOpConfig, CSPConfig
from peft_coop.progress import show_progress, stage
from peft_coop.prompts import PairWords
from peft_coop.towers import text_tower

ATTRIBUTES = ["old", "red", "wet"]
OBJECTS = ["car", "cat", "dog"]
PAIRS = [["old", "car"], ["red", "car"], ["old", "dog"], ["wet", "dog"]]  # no cat
UNUSED = len(ATTRIBUTES) + OBJECTS.index("cat")
EXACT = {"atol": 1e-9, "rtol": 0}
KEY = "base_model.model.text_model.embeddings.csp_table"


@pytest.fixture
def config(tokenizer_path):
    def make(**settings):
        words = {"attributes": ATTRIBUTES, "objects": OBJECTS, "train_pairs": PAIRS}
        return CSPConfig(**{**words, "tokenizer_name_or_path": tokenizer_path, **settings})

    return make


@pytest.fixture
def make_model(config):
    def make(**settings):
        return get_peft_model(make_clip().double(), config(**settings)).eval()

    return make


@pytest.fixture
def images():
    return torch.randn(4, make_clip().config.projection_dim, dtype=torch.float64)


def written(model, tokenizer, texts):
    """Unit text features of the base model's own forward."""
    with torch.no_grad(), model.disable_adapter():
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        features = model.get_base_model().get_text_features(**inputs).pooler_output
    return torch.nn.functional.normalize(features, dim=-1)


def table_of(model):
    return model.prompt_layer.prompt.table


def golden_csp(key, tokenizer_path, dtype):
    case = golden_case("csp", key)
    settings = {name: getattr(case, name) for name in ("attributes", "objects", "train_pairs")}
    model = get_peft_model(golden_model(case), CSPConfig(**settings, tokenizer_name_or_path=tokenizer_path))
    torch.testing.assert_close(table_of(model).detach(), case.all["table_init"], atol=1e-7, rtol=0)
    table_of(model).data.copy_(case.tensors["table"])
    return case, model.to(dtype).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("key", ["case0", "case1"])
def test_the_originals_numbers(key, dtype, tokenizer_path):
    case, model = golden_csp(key, tokenizer_path, dtype)
    inputs = golden_inputs(case, dtype)
    every = model(pixel_values=inputs["pixel_values"], pair_ids=case.all["all_pair_ids"])
    torch.testing.assert_close(every.logits.float(), case.tensors["logits_all"], **LOGITS)
    torch.testing.assert_close(every.text_embeds.float(), case.tensors["text_embeds_all"], **LOGITS)
    outputs = model(**inputs)
    torch.testing.assert_close(outputs.logits.float(), case.tensors["logits_train"], **LOGITS)
    outputs.loss.backward()
    assert_first_gradient(table_of(model).grad, case.tensors["grad.table"])
    recipe, losses = case.cases["optimizer"], []
    optimizer = torch.optim.SGD([table_of(model)], lr=recipe["lr"], momentum=recipe["momentum"])
    for _ in range(recipe["steps"]):
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(torch.tensor(losses).double(), case.tensors["losses"], atol=1e-5, rtol=0)
    torch.testing.assert_close(table_of(model).detach().float(), case.tensors["final.table"], atol=1e-5, rtol=0)
    bank = model.eval().encode_pairs(case.all["all_pair_ids"])
    outputs = model(pixel_values=inputs["pixel_values"])
    torch.testing.assert_close(outputs.logits.float(), case.tensors["final.logits_train"], **AFTER_STEPS)
    logits = model.get_base_model().logit_scale.exp() * outputs.image_embeds @ bank.T
    torch.testing.assert_close(logits.float(), case.tensors["final.logits_all"], **AFTER_STEPS)


def test_disabled_it_is_zero_shot_on_the_template(tokenizer_path):
    case, model = golden_csp("case0", tokenizer_path, torch.float64)
    with model.eval().disable_adapter(), torch.no_grad():
        images = case.all["pixel_values"].double()
        outputs = model(pixel_values=images, pair_ids=case.all["all_pair_ids"])
        torch.testing.assert_close(model.encode_pairs(case.all["all_pair_ids"]), outputs.text_embeds, **EXACT)
        assert model(pixel_values=images).logits.shape == (len(images), len(case.train_pairs))
    torch.testing.assert_close(outputs.logits.float(), case.all["zero_shot/logits"], **LOGITS)


def test_words_of_one_piece_start_as_the_words(make_model, tokenizer):
    model = make_model()
    pairs = [(0, 0), (2, 1)]
    expected = written(model, tokenizer, ["a photo of old car", "a photo of wet cat"])
    torch.testing.assert_close(model.encode_pairs(pairs), expected, **EXACT)


def test_words_of_several_pieces_start_as_their_mean_and_fill_one_place(make_model, tokenizer):
    words = ["moss-covered", "Faux.Fur", "old"]
    model = make_model(attributes=words, train_pairs=[["old", "car"]])
    pieces = tokenizer(["moss-covered", "faux fur"], add_special_tokens=False)["input_ids"]
    assert all(len(each) > 1 for each in pieces)
    embeddings = model.get_base_model().text_model.embeddings.base_layer.token_embedding.weight
    for row, ids in enumerate(pieces):
        torch.testing.assert_close(table_of(model)[row], embeddings[ids].mean(0), **EXACT)
    texts = written(model, tokenizer, ["a photo of moss-covered car", "a photo of faux fur car"])
    assert (model.encode_pairs([(0, 0), (1, 0)]) - texts).abs().max() > 1e-3
    with model.disable_adapter():
        torch.testing.assert_close(model.encode_pairs([(0, 0), (1, 0)]), texts, **EXACT)


def test_it_is_what_pefts_trainable_tokens_are_for_words_of_one_piece(make_model, tokenizer, images):
    model = make_model().train()
    labels = torch.tensor([0, 3, 1, 2])
    outputs = model(image_embeds=images, labels=labels)
    outputs.loss.backward()

    ids = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (*ATTRIBUTES, *OBJECTS)]
    base = make_clip().double()
    other = get_peft_model(base, TrainableTokensConfig(token_indices=ids, target_modules=["token_embedding"]))
    inputs = tokenizer([f"a photo of {' '.join(pair)}" for pair in PAIRS], padding=True, return_tensors="pt")
    texts = torch.nn.functional.normalize(base.get_text_features(**inputs).pooler_output, dim=-1)
    logits = base.logit_scale.exp() * torch.nn.functional.normalize(images, dim=-1) @ texts.T
    torch.nn.functional.cross_entropy(logits, labels).backward()
    [gradient] = [weight.grad for weight in other.parameters() if weight.grad is not None]
    torch.testing.assert_close(outputs.logits, logits, **EXACT)
    torch.testing.assert_close(table_of(model).grad, gradient, **EXACT)


def test_a_word_that_is_attribute_and_object_has_two_vectors(make_model):
    model = make_model(attributes=["car", "old"], objects=["car", "dog"], train_pairs=[["car", "dog"], ["old", "car"]])
    model.train()(
        image_embeds=torch.randn(1, 40).double(), labels=torch.tensor([0]), pair_ids=[(0, 1), (1, 1)]
    ).loss.backward()
    rows = table_of(model).grad.abs().sum(1) > 0
    assert rows.tolist() == [True, True, False, True]


def test_a_call_chooses_its_pairs_and_labels_count_them(make_model, images):
    model = make_model()
    chosen = torch.tensor([[2, 1], [0, 0], [1, 2]])
    outputs = model(image_embeds=images, pair_ids=chosen, labels=torch.tensor([0, 1, 2, 0]))
    assert outputs.logits.shape == (4, 3)
    assert outputs.text_embeds.shape == (3, 40)
    torch.testing.assert_close(model.encode_pairs(chosen), outputs.text_embeds.detach(), **EXACT)
    torch.testing.assert_close(outputs.logits[:, 1], model(image_embeds=images).logits[:, 0], **EXACT)
    expected = torch.nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(outputs.loss, expected, **EXACT)
    assert model.class_names == ["old car", "red car", "old dog", "wet dog"]
    with pytest.raises(ValueError, match="3"):
        model(image_embeds=images, pair_ids=chosen, labels=torch.tensor([0, 1, 3, 0]))
    for same in (chosen.tolist(), chosen.numpy(), [("wet", "cat"), ("old", "car"), ("red", "dog")]):
        assert torch.equal(model(image_embeds=images, pair_ids=same).logits, outputs.logits)


def test_what_a_call_has_chosen_is_kept_and_follows_the_table(make_model, images):
    model = make_model()
    first, second, third = ([[0, 0]], [[1, 0]], [[2, 2]])
    with torch.no_grad():
        before = model(image_embeds=images, pair_ids=first).logits
        for pairs in (second, third, first, second):
            model(image_embeds=images, pair_ids=pairs)
        kept = model.prompt_layer.call_texts["default"]
        assert list(kept) == [("old car",), ("red car",)]
        change(model)
        after = model(image_embeds=images, pair_ids=first).logits
    assert (before - after).abs().max() > 1e-3
    torch.testing.assert_close(after, make_changed(make_model, images, first), **EXACT)


def change(model):
    generator = torch.Generator().manual_seed(0)
    table_of(model).data += torch.randn(table_of(model).shape, generator=generator).double()


def make_changed(make_model, images, pairs):
    model = make_model()
    change(model)
    with torch.no_grad():
        return model(image_embeds=images, pair_ids=pairs).logits


def test_only_the_words_that_a_step_uses_have_a_gradient(make_model, images):
    model = make_model().train()
    model(image_embeds=images, pair_ids=[[0, 0], [1, 2]], labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert (table_of(model).grad.abs().sum(1) > 0).tolist() == [True, True, False, True, False, True]
    assert [name for name, weight in model.named_parameters() if weight.grad is not None] == [
        "base_model.model.text_model.embeddings.learned_prompts.default.table"
    ]


def test_another_forward_pass_before_the_backward_pass_under_ddp(make_model, images):
    """Every forward pass of DDP writes the buffers anew, with what they hold already."""
    model = make_model().train()
    loss = model(image_embeds=images, labels=torch.tensor([0, 1, 2, 3])).loss
    for buffer in model.buffers():
        buffer.copy_(buffer.clone())
    loss.backward()
    assert (table_of(model).grad.abs().sum(1) > 0).tolist() == [True, True, True, True, False, True]


def test_saving_changes_nothing_that_is_as_it_should_be(make_model, tmp_path):
    with torch.inference_mode():  # nothing may be written into its tensors afterwards
        model = make_model()
    model.save_pretrained(tmp_path)
    assert torch.equal(load_file(tmp_path / "adapter_model.safetensors")[KEY], table_of(model))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_words_without_a_training_pair_stay_bit_identical(make_model, images, optimizer, tmp_path):
    model = make_model().train()
    start = table_of(model).detach().clone()
    before = model.encode_pairs([[0, 1]])
    steps = optimizer(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        model.zero_grad()
        model(image_embeds=images, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        steps.step()
    assert not torch.equal(table_of(model)[UNUSED], start[UNUSED])  # the optimizer has moved it
    assert torch.equal(model.prompt_layer.prompt.eval().vectors()[UNUSED], start[UNUSED])
    assert not torch.equal(model.encode_pairs([[0, 1]]), before)  # its attribute was learned
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")[KEY]
    assert saved.shape == (6, start.shape[1])
    assert torch.equal(saved[UNUSED], start[UNUSED])
    assert (saved - start).abs().sum(1).count_nonzero() == 5


def test_a_changed_row_of_an_unused_word_is_not_read(make_model, tmp_path, config):
    model = make_model()
    expected = model.encode_pairs([[0, 1]])
    model.save_pretrained(tmp_path)
    table_of(model).data[UNUSED] += 1
    assert torch.equal(model.encode_pairs([[0, 1]]), expected)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors[KEY][UNUSED] += 1
    loaded = get_peft_model(make_clip().double(), config()).eval()
    loaded.load_state_dict({KEY.replace("csp_table", "learned_prompts.default.table"): tensors[KEY]}, strict=False)
    assert torch.equal(loaded.encode_pairs([[0, 1]]), expected)


def test_only_trainable_words_are_learned(make_model, images):
    model = make_model(trainable_words=["old", "dog"])
    start = table_of(model).detach().clone()
    table_of(model).data += 1
    moved = (model.prompt_layer.prompt.vectors() - start).abs().sum(1) > 0
    assert moved.tolist() == [True, False, False, False, False, True]


def test_dropout_leaves_out_elements_of_the_table_in_training_only(make_model, images):
    model = make_model(embed_dropout=0.5)
    prompt = model.prompt_layer.prompt
    assert torch.equal(prompt.vectors(), make_model().prompt_layer.prompt.vectors())
    expected = model.encode_pairs([[0, 0], [2, 1]])
    model.train()
    vectors = prompt.vectors()
    dropped = vectors == 0
    assert 0.3 < dropped.double().mean() < 0.7
    torch.testing.assert_close(vectors[~dropped], 2 * prompt.table[~dropped], **EXACT)
    assert not torch.equal(prompt.vectors(), vectors)
    assert torch.equal(model.encode_pairs([[0, 0], [2, 1]]), expected)  # a bank to keep
    assert prompt.training


@pytest.mark.parametrize("disabled", [False, True])
def test_pairs_are_encoded_in_parts_of_any_size_and_in_any_order(make_model, disabled):
    every = [*product(range(3), range(3)), *product(range(3), range(3), range(3))]
    shuffled = [every[index] for index in np.random.default_rng(0).integers(len(every), size=30)]  # some twice
    model = make_model()
    with model.disable_adapter() if disabled else nullcontext():
        expected = {pair: model.encode_pairs([pair])[0] for pair in set(shuffled)}
        for size in (1, 2, 7, 29, 30, 100):
            model.prompt_layer.prompt.settings.text_chunk_size = size
            features = model.encode_pairs(shuffled)
            assert not features.requires_grad
            torch.testing.assert_close(features, torch.stack([expected[pair] for pair in shuffled]), **EXACT)


@pytest.mark.parametrize(("size", "attributes_of_parts"), [(100, [3]), (6, [2, 1]), (4, [2, 2, 1])])
def test_a_part_computes_its_nodes_once(make_model, size, attributes_of_parts):
    """BOS and "a photo of" once a part, each of its attributes once, of each pair the object and EOS."""
    model = make_model(text_chunk_size=size)
    positions = []
    layer = model.get_base_model().text_model.encoder.layers[0]
    layer.mlp.register_forward_hook(lambda module, inputs, output: positions.append(inputs[0].shape[:-1].numel()))
    pairs = [(attribute, thing) for thing in range(3) for attribute in range(3)]  # those of an attribute stand apart
    model.encode_pairs(pairs)
    assert len(positions) == len(attributes_of_parts)
    assert sum(positions) == sum(4 + attributes for attributes in attributes_of_parts) + 2 * len(pairs)


def test_encoding_pairs_shows_a_bar_if_asked(make_model, capsys):
    show_progress(True)
    model = make_model(text_chunk_size=4)
    pairs = [(attribute, thing) for thing in range(3) for attribute in range(3)]
    model.encode_pairs(pairs)
    assert capsys.readouterr().err == ""
    model.encode_pairs(pairs, progress=True)
    shown = capsys.readouterr().err
    assert re.search(r"Encoding classes: 100%\|.*class 9/9\]", shown)
    assert shown.count("\n") == 1
    with stage("runs", 2, "run") as runs:
        model.encode_pairs(pairs, progress=True)
        assert runs._bar.n == 0.5  # the bar of all that is under way has got on by this step
    assert "run 0/2, Encoding classes class 9/9" in capsys.readouterr().err


def test_a_model_whose_encoding_was_interrupted_is_as_before(make_model, images):
    model = make_model(text_chunk_size=4, embed_dropout=0.5)
    pairs = [(attribute, thing) for thing in range(3) for attribute in range(3)]
    expected = model.encode_pairs(pairs)
    inner = model.get_base_model()
    getattr(inner, "activation_checkpointing_enable", inner.gradient_checkpointing_enable)()  # renamed in 5.x
    model.train()
    layers = inner.text_model.encoder.layers
    assert all(layer.gradient_checkpointing for layer in layers)
    before = [(layer.gradient_checkpointing, layer.training) for layer in layers]
    parts = []

    def interrupt(module, inputs, output):
        parts.append(output)
        if len(parts) == 2:
            raise KeyboardInterrupt

    handle = layers[0].mlp.register_forward_hook(interrupt)
    with stage("runs", 1, shown=False) as runs:
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            model.encode_pairs(pairs, progress=True)
        with stage("next", 2) as following:
            assert following._parent is runs
    handle.remove()
    assert [(layer.gradient_checkpointing, layer.training) for layer in layers] == before
    assert torch.is_grad_enabled()
    assert model.prompt_layer.prompt.training
    torch.testing.assert_close(model.encode_pairs(pairs), expected, **EXACT)
    model(image_embeds=images, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert table_of(model).grad.abs().sum() > 0


def test_several_attributes_before_an_object(make_model, tokenizer, images):
    model = make_model()
    expected = written(model, tokenizer, ["a photo of old wet dog", "a photo of red old cat"])
    torch.testing.assert_close(model.encode_pairs([(0, 2, 2), (1, 0, 1)]), expected, **EXACT)
    model.set_classes([("old", "wet", "dog"), "red cat"])
    assert model.class_names == ["old wet dog", "red cat"]
    torch.testing.assert_close(model(image_embeds=images).text_embeds[0], expected[0], **EXACT)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{attribute} {object}", "old car"),
        ("this {object} is {attribute}, I think.", "this car is old, I think."),
        ("a {attribute}, {object}", "a old, car"),
    ],
)
def test_words_stand_where_the_template_has_them(make_model, tokenizer, template, text):
    model = make_model(template=template)
    torch.testing.assert_close(model.encode_pairs([(0, 0)]), written(model, tokenizer, [text]), **EXACT)
    with model.disable_adapter():
        torch.testing.assert_close(model.encode_pairs([(0, 0)]), written(model, tokenizer, [text]), **EXACT)


@pytest.mark.parametrize("template", [None, "the {}."])
def test_a_word_that_looks_like_a_place_is_a_word(make_model, tokenizer, template):
    words = ["{object}", "{}", "{attribute}"]
    model = make_model(attributes=words, train_pairs=[[words[0], "car"]], zero_shot_template=template)
    texts = [f"a photo of {word} car" if template is None else f"the {word} car." for word in words]
    with model.disable_adapter():
        features = model.encode_pairs([(word, "car") for word in words])
    torch.testing.assert_close(features, written(model, tokenizer, texts), **EXACT)


def test_a_hand_written_prompt_of_ones_own(make_model, tokenizer):
    model = make_model(zero_shot_template=["the {}.", "a bad photo of a {}."])
    texts = [written(model, tokenizer, [text]) for text in ("the wet dog.", "a bad photo of a wet dog.")]
    with model.disable_adapter():
        features = model.encode_pairs([(2, 2)])
    torch.testing.assert_close(features, torch.nn.functional.normalize(sum(texts), dim=-1), **EXACT)


def test_the_classes_are_the_pairs_as_text_and_are_saved(make_model, images, tmp_path):
    model = make_model()
    assert list(model.config.id2label.values()) == ["old car", "red car", "old dog", "wet dog"]
    model.set_classes([(2, 1), ["old", "cat"], "red dog"])
    assert model.class_names == ["wet cat", "old cat", "red dog"]
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["class_names"] == model.class_names
    assert saved["train_pairs"] == PAIRS
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path)
    assert loaded.class_names == model.class_names
    torch.testing.assert_close(loaded(image_embeds=images).logits, model(image_embeds=images).logits, **EXACT)


def test_classes_of_two_words_are_attributes_and_objects(tokenizer_path):
    config = CSPConfig(class_names=["red circle", "blue square", "blue circle"], tokenizer_name_or_path=tokenizer_path)
    assert (config.attributes, config.objects) == (["blue", "red"], ["circle", "square"])
    assert config.train_pairs == [["red", "circle"], ["blue", "square"], ["blue", "circle"]]
    assert get_peft_model(make_clip(), config).class_names == config.class_names


def test_other_classes_than_the_training_pairs_can_be_in_the_config(config, make_model):
    model = make_model(class_names=[("wet", "cat"), "old cat"])
    assert model.class_names == ["wet cat", "old cat"]
    assert model.peft_config["default"].train_pairs == PAIRS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objects": None}, "`objects` is missing"),
        ({"attributes": None, "objects": None}, "`attributes` and `objects` are missing"),
        ({"train_pairs": None}, "`train_pairs` is missing"),
        ({"train_pairs": [["old", "ship"]]}, "has the object 'ship', which is none of the 3"),
        ({"train_pairs": [["big", "car"]]}, "has the attribute 'big'"),
        ({"train_pairs": [["old", "car"], ["old", "car"]]}, r"\('old', 'car'\) more than once"),
        ({"train_pairs": [["old", "wet", "car"]]}, "one attribute and one object"),
        ({"attributes": ["old", "old"]}, "`attributes` has 'old' more than once"),
        ({"attributes": []}, "`attributes` is empty"),
        ({"attributes": ["old", " . "]}, r"Word 1 of `attributes` is empty \(' . '\)"),
        ({"class_names": ["old ship"]}, "'old ship' is no attribute and object of this adapter"),
        ({"trainable_words": ["cat"]}, "`trainable_words` has 'cat', which no training pair has"),
        ({"template": "a photo of {attribute}"}, "`template` must hold the places {attribute} and {object} once each"),
        ({"template": "{} {attribute} {object}"}, "`template`"),
        ({"embed_dropout": 1.0}, "`embed_dropout` must be a share from 0 to below 1, got 1.0"),
        ({"init": "random"}, r"`init` must be one of \('mean_token',\), got 'random'"),
        ({"text_chunk_size": 0}, "`text_chunk_size` must be a whole number of 1 or more"),
        ({"zero_shot_template": "a photo"}, "`zero_shot_template` must hold"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


@pytest.mark.parametrize("words", [{"old", "wet"}, "old", {"old": 1}, [1, 2], None.__class__])
def test_words_must_be_a_list_of_texts(config, words):
    with pytest.raises(TypeError, match="`attributes` must be"):
        config(attributes=words)


def test_a_config_without_words_makes_no_model(tokenizer_path):
    clip = make_clip()
    with pytest.raises(ValueError, match="CSP needs `attributes`, `objects` and `train_pairs`"):
        get_peft_model(clip, CSPConfig(class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path))
    assert type(clip).__name__ == "CLIPModel"
    assert not hasattr(clip, "peft_config")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[3, 0]], r"The pair \(3, 0\) does not exist: attributes count from 0 to 2"),
        ([[0, -1]], r"The pair \(0, -1\) does not exist"),
        (torch.tensor([0, 1]), "A pair is an attribute and an object"),
        (torch.tensor([[0.0, 1.0]]), "A pair is an attribute and an object"),
        ([], r"`pair_ids` must be \(pairs, 2\)"),
        ("old car", r"`pair_ids` must be \(pairs, 2\)"),
        ([[0]], "A pair is an attribute and an object"),
        ([[True, False]], "A pair is an attribute and an object"),
    ],
)
def test_pairs_that_are_none_are_refused(make_model, images, pairs, message):
    model = make_model()
    for call in (model.encode_pairs, lambda given: model(image_embeds=images, pair_ids=given)):
        with pytest.raises((ValueError, TypeError), match=message):
            call(pairs)


def test_a_call_chooses_its_classes_in_one_way(make_model, images):
    model = make_model()
    with pytest.raises(ValueError, match="`pair_ids` and `adapter_names` both choose the classes"):
        model(image_embeds=images, pair_ids=[[0, 0]], adapter_names=["default"] * 4)
    with pytest.raises(ValueError, match="`pair_ids` and `input_ids` both choose the classes"):
        model(image_embeds=images, pair_ids=[[0, 0]], input_ids=torch.tensor([[1, 2]]))


def test_classes_may_be_rows_of_numbers_and_must_have_an_order(make_model, config, images):
    model = make_model()
    for numbers in (torch.tensor([[2, 1], [0, 0]]), np.array([[2, 1], [0, 0]])):
        model.set_classes(numbers)
        assert model.class_names == ["wet cat", "old car"]
        model.set_classes(list(numbers))
        assert model.class_names == ["wet cat", "old car"]
    assert model(image_embeds=images, pair_ids=list(numbers)).logits.shape == (4, 2)
    for without in ({"wet cat", "old car"}, {"wet cat": 0, "old car": 1}, "wet cat"):
        with pytest.raises(TypeError, match="`class_names` must be a list of names"):
            model.set_classes(without)
        with pytest.raises(TypeError, match="`class_names` must be a list of names"):
            config(class_names=without)
    assert model.class_names == ["wet cat", "old car"]
    arrays = {"class_names": np.array(["wet cat", "old cat"]), "train_pairs": np.array(PAIRS)}
    assert config(**arrays) == config(class_names=["wet cat", "old cat"])


def test_what_another_thread_has_chosen_is_not_taken_from_it(make_model, images):
    """A call changes nothing that another one may be reading at the same time."""
    model = make_model()
    kept = model.prompt_layer.call_texts
    model(image_embeds=images, pair_ids=[[0, 0]])
    model(image_embeds=images, pair_ids=[[1, 0]])
    seen, before = kept["default"], dict(kept["default"])
    model(image_embeds=images, pair_ids=[[2, 0]])
    assert seen == before
    assert list(kept["default"]) == [("red car",), ("wet car",)]


def test_compiled_it_takes_pairs_that_are_new(make_model):
    model = make_model()
    compiled = torch.compile(model.prompt_layer.texts_of_call, backend="eager")
    for names in (["old car", "red cat"], ["wet dog"]):
        texts = compiled(text_tower(model.get_base_model()), {"pair_ids": names})
        assert texts.class_names == names


def test_of_thousands_of_words_those_that_differ_are_named(make_model, config, tmp_path):
    words = [f"word{number}" for number in range(2000)]
    other = [*words[:1500], "another", *words[1501:]]
    pairs = {"train_pairs": [["word0", "car"], ["word1", "dog"]]}
    message = config(attributes=words, **pairs).first_difference(config(attributes=other, **pairs))
    place = "a list of 2,000 with"
    assert message == f"`attributes` is {place} 'another' at index 1500 there and {place} 'word1500' at index 1500 here"
    message = config(attributes=words, **pairs).first_difference(config(attributes=words[:-1], **pairs))
    assert "is a list of 1,999 with none at index 1999 there" in message
    model = make_model(attributes=words[:100], **pairs)
    model.peft_config["default"].attributes = words[:99]
    with pytest.warns(
        UserWarning, match="changed in its config to a list of 99 with none at index 99, which"
    ) as caught:
        model.save_pretrained(tmp_path)
    assert all(len(str(each.message)) < 400 for each in caught)


def test_its_card_counts_what_is_learned_and_says_what_else_can_be_asked_for(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "5 learned vectors for attributes and objects, 4 classes" in card
    assert "old car · red car · old dog · wet dog\n\nOthers can be any pairs of the attributes and objects" in card


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_has_words_that_are_not_learned(config, dtype, tmp_path):
    model = get_peft_model(make_clip().to(dtype), config()).train()
    assert table_of(model).dtype == torch.float32
    model(image_embeds=torch.randn(4, 40, dtype=dtype), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip().to(dtype), tmp_path)
    pairs = [(0, 0), (0, 1), (2, 1)]
    assert torch.equal(loaded.encode_pairs(pairs), model.encode_pairs(pairs))


OTHERS = {
    "attributes": ["red", "old", "wet"],
    "objects": ["car", "cat", "ship", "dog"],
    "train_pairs": PAIRS[:3],
    "trainable_words": ["old"],
    "template": "the {attribute} {object}",
}


@pytest.mark.parametrize("setting", OTHERS)
def test_an_adapter_of_other_words_is_not_loaded_over_it(make_model, images, setting, tmp_path):
    make_model(**{setting: OTHERS[setting]}).save_pretrained(tmp_path)
    model = make_model()
    before = model.encode_pairs([(0, 0), (2, 1)])
    with pytest.raises(ValueError, match=f"does not fit adapter 'default': `{setting}` is"):
        model.load_adapter(tmp_path, "default")
    assert torch.equal(model.encode_pairs([(0, 0), (2, 1)]), before)
    model.load_adapter(tmp_path, "other")


def test_what_calls_have_chosen_is_forgotten_with_the_cache_and_with_the_adapter(make_model, config, images):
    model, pairs = make_model(), [("old", "car"), ("wet", "dog")]
    with torch.no_grad():
        before = model(image_embeds=images, pair_ids=pairs).logits
        model.get_base_model().text_projection.weight.data.copy_(torch.randn(40, 24))
        model.clear_prompt_cache()
        changed = model(image_embeds=images, pair_ids=pairs).logits
        assert (changed - before).abs().max() > 1e-3
        words = {"attributes": ATTRIBUTES[::-1], "objects": OBJECTS[::-1]}
        with pytest.warns(UserWarning, match="second time"), pytest.warns(UserWarning, match="Already found"):
            replaced = get_peft_model(model.get_base_model(), config(**words)).eval()
        torch.testing.assert_close(replaced(image_embeds=images, pair_ids=pairs).logits, changed, **EXACT)


def test_other_methods_have_no_pairs(tokenizer_path, images):
    for config in (CoOpConfig, CoCoOpConfig):
        model = get_peft_model(
            make_clip().double(), config(class_names=["cat"], tokenizer_name_or_path=tokenizer_path)
        ).eval()
        with pytest.raises(ValueError, match="which has no pairs"):
            model.encode_pairs([[0, 0]])
        with pytest.raises(ValueError, match="has no classes to choose by `pair_ids`"):
            model(image_embeds=images, pair_ids=[[0, 0]])


def test_a_text_that_reads_as_another_pair_is_refused():
    words = PairWords(["light", "light blue", "blue"], ["car", "blue car"])
    assert words.ids("blue car") == (2, 0)
    with pytest.raises(ValueError, match=r"reads as \('light', 'blue car'\) and as \('light blue', 'car'\)"):
        words.ids("light blue car")
    words = PairWords(["light", "light blue", "blue"], ["car"])
    assert words.words(words.ids("light blue car")) == ("light blue", "car")
    with pytest.raises(ValueError, match=r"\('light', 'blue', 'car'\) is written 'light blue car', which reads as"):
        words.name((0, 2, 0))


def test_a_text_with_very_many_readings_is_read_at_once():
    words = PairWords(["a", "a a"], ["b", "a b"])
    assert len(words.ids("a " * 25 + "b")) == 13  # "a a" twelve times, and "a b"
    assert len(words.ids("a " * 2001 + "b")) == 1001
    with pytest.raises(ValueError, match="is no attribute and object of this adapter"):
        words.ids("a " * 30 + "c")


def every_reading(words, rest, before=()):
    if before and rest in words.objects:
        yield (*before, words.objects.index(rest))
    for place, character in enumerate(rest):
        if character == " " and rest[:place] in words.attributes:
            yield from every_reading(words, rest[place + 1 :], (*before, words.attributes.index(rest[:place])))


@given(
    st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=5, unique=True),
    st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=5, unique=True),
    st.text("ab ", min_size=1, max_size=9),
)
def test_of_all_readings_the_one_with_the_fewest_words_is_taken(attributes, objects, text):
    words = PairWords(attributes, objects)
    readings = sorted(every_reading(words, text), key=len)
    shortest = [reading for reading in readings if len(reading) == len(readings[0])]
    if len(shortest) == 1:
        assert words.ids(text) == shortest[0]
    else:
        with pytest.raises(ValueError, match="give the words apart" if shortest else "is no attribute and object"):
            words.ids(text)


@given(st.lists(st.text("ab ", min_size=1, max_size=3).filter(str.strip), min_size=1, max_size=6, unique=True))
def test_what_has_a_name_is_read_back(words):
    pairs = PairWords(words, words)
    for attribute in range(len(words)):
        for thing in range(len(words)):
            try:
                name = pairs.name((attribute, thing))
            except ValueError:
                continue
            assert pairs.ids(name) == (attribute, thing)


def test_the_trainer_trains_it_by_the_papers_recipe(make_model, tmp_path):
    model = make_model(embed_dropout=0.1)
    rows = [{"image_embeds": torch.randn(40).double(), "labels": index % 4} for index in range(8)]
    recipe = METHODS["csp"].recipe(1)
    assert (recipe.num_epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (20, 128, 5e-5, 1e-5)
    assert METHODS["csp"].recipe(1, "ut-zappos").learning_rate == 5e-4
    arguments: TrainingArguments = recipe.arguments(str(tmp_path), len(rows), use_cpu=True, num_train_epochs=2)
    optimizer, schedule = recipe.optimizers(model, arguments, len(rows))
    assert type(optimizer) is torch.optim.Adam
    start = table_of(model).detach().clone()
    Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, schedule)).train()
    moved = (table_of(model) - start).abs().sum(1) > 0
    assert moved[:UNUSED].all()
    assert schedule.get_last_lr() == [5e-5]


def synthetic_task(seed, tokenizer_path):
    """Images near the features of pairs whose true vectors differ from the words'; 48 of 64 pairs are trained."""
    generator = torch.Generator().manual_seed(seed)
    attributes = ["old", "red", "wet", "big", "small", "new", "dry", "blue"]
    objects = ["car", "cat", "dog", "house", "tree", "bird", "ship", "road"]
    order = torch.randperm(64, generator=generator).tolist()
    every = [[attribute, thing] for attribute in attributes for thing in objects]
    pairs = sorted(order[:48])
    settings = {"attributes": attributes, "objects": objects, "tokenizer_name_or_path": tokenizer_path}
    config = CSPConfig(train_pairs=[every[index] for index in pairs], embed_dropout=0.3, **settings)
    truth = get_peft_model(make_clip(), CSPConfig(train_pairs=every, **settings)).eval()
    table_of(truth).data.add_(torch.randn(table_of(truth).shape, generator=generator), alpha=0.02)
    ids = [[index // 8, index % 8] for index in range(64)]
    return config, pairs, ids, truth.encode_pairs(ids), generator


def test_pairs_that_were_never_trained_are_recognised(tokenizer_path):
    config, pairs, ids, features, generator = synthetic_task(0, tokenizer_path)
    model = get_peft_model(make_clip(), config)
    optimizer = torch.optim.Adam([table_of(model)], lr=1e-3)
    unseen = sorted(set(range(64)) - set(pairs))
    images = features.repeat_interleave(4, 0) + 0.005 * torch.randn(256, features.shape[1], generator=generator)
    truth = torch.arange(64).repeat_interleave(4)
    of_unseen = torch.isin(truth, torch.tensor(unseen))

    def accuracy():
        scores = torch.nn.functional.normalize(images, dim=-1) @ model.eval().encode_pairs(ids).T
        return (scores.argmax(1) == truth)[of_unseen].double().mean().item()

    before = accuracy()
    torch.manual_seed(0)
    for _ in range(150):
        drawn = torch.randint(48, (128,), generator=generator)
        batch = features[torch.tensor(pairs)[drawn]] + 0.005 * torch.randn(128, features.shape[1], generator=generator)
        optimizer.zero_grad()
        model.train()(image_embeds=batch, labels=drawn).loss.backward()
        optimizer.step()
    assert before < 0.5
    assert accuracy() > before + 0.3


def test_numpy_pair_ids_of_any_integer_type(make_model):
    model = make_model()
    expected = model.encode_pairs([[0, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (np.int32, np.int64, np.uint8):
            assert torch.equal(model.encode_pairs(np.array([[0, 1]], dtype=dtype)), expected)


@pytest.mark.parametrize("trait", ["needs_images", "has_class_vectors"])
def test_texts_that_depend_on_more_than_their_pair_are_not_encoded_in_parts(make_model, monkeypatch, trait):
    """CSP's own do not; those of a method that is made of it may."""
    model = make_model()
    monkeypatch.setattr(type(model.prompt_layer.prompt), trait, True)
    with pytest.raises(
        ValueError, match="depend on the image or on the other classes: they cannot be encoded in parts"
    ):
        model.encode_pairs([[0, 0]])
