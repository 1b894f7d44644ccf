"""Prompts as sequences, and their features against Hugging Face's own CLIP and a slow, obvious assembly.

Features are compared in float64, where rounding is far below 1e-9 and a mistake is not.
"""

from types import SimpleNamespace

import pytest
import torch
from conftest import make_clip
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from peft_coop.prompts import PromptTokenizer, TextReader
from peft_coop.prompts.sequences import around_context, context_sequences, spliced_sequences, text_sequences
from peft_coop.towers import text_tower
from peft_coop.towers.tree_prompts import TreePrompts

NAMES = ["cat", "great white shark", "Boeing_737-200", "kite (bird of prey)", "pink-yellow dahlia?"]
VOCAB = 49408


@pytest.fixture
def prompt_tokenizer(tokenizer):
    return PromptTokenizer(tokenizer)


@pytest.fixture
def clip(clip):
    text_tower(clip).install()
    return clip.double()


def make_tower(*args, **kwargs):
    model = make_clip(*args, **kwargs).double()
    text_tower(model).install()
    return model


def build(tokenizer_path, names=NAMES, **settings):
    reader = TextReader((tokenizer_path, None), VOCAB, 77)
    learned = context_sequences(reader.names(names), reader.tokenizer, VOCAB, 4, **settings)
    written = reader.hand_written(names, "a photo of a {}.")
    return SimpleNamespace(learned=TreePrompts(learned), zero_shot=[TreePrompts(written)])


def features_of_texts(clip, tokenizer, texts):
    """Hugging Face's own text features, padded to 77 positions as the original does."""
    inputs = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")
    return clip.get_text_features(**inputs).pooler_output


@given(
    before=st.lists(st.integers(), max_size=5),
    after=st.lists(st.integers(), max_size=3),
    ctx=st.lists(st.integers(), min_size=1, max_size=9),
)
def test_positions(before, after, ctx):
    half = len(ctx) // 2
    assert around_context(before, after, ctx, "end") == ctx + before + after
    assert around_context(before, after, ctx, "middle") == ctx[:half] + before + ctx[half:] + after
    assert around_context(before, after, ctx, "front") == before + ctx + after


def test_names_are_tokenised_with_their_full_stop(prompt_tokenizer, tokenizer):
    for name, tokens in zip(NAMES, prompt_tokenizer.encode_names(NAMES), strict=True):
        text = name.replace("_", " ") + "."
        whole = tokenizer(text)["input_ids"]
        assert [tokenizer.bos_token_id, *tokens.ids, tokenizer.eos_token_id] == whole


@pytest.mark.parametrize("name, last_token", [("kite (bird of prey)", ").</w>"), ("pink-yellow dahlia?", "?.</w>")])
def test_a_name_that_merges_with_the_full_stop(prompt_tokenizer, tokenizer, name, last_token):
    [tokens] = prompt_tokenizer.encode_names([name])
    assert tokenizer.convert_ids_to_tokens(tokens.ids[-1]) == last_token
    # The length is that of the name alone, so with the context behind it no full stop is left over.
    assert tokens.name_length == len(tokens.ids)
    [prompt] = context_sequences([tokens], prompt_tokenizer, VOCAB, 2, "front").ids
    assert prompt == (49406, *tokens.ids, VOCAB, VOCAB + 1, 49407)


def test_many_texts_are_tokenised_in_parts(tokenizer, monkeypatch):
    texts = ["a photo of a cat", "dog", "", "a moss-covered car", "wet"]
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    prompt_tokenizer, sizes = PromptTokenizer(tokenizer), []
    prompt_tokenizer.tokenizer = lambda some, **options: sizes.append(len(some)) or tokenizer(some, **options)
    monkeypatch.setattr("peft_coop.prompts.tokens.TEXTS_AT_ONCE", 2, raising=False)
    assert prompt_tokenizer.encode(texts) == expected
    assert sizes == [2, 2, 1]
    assert prompt_tokenizer.encode([]) == []


def test_class_specific_rows_follow_each_other(prompt_tokenizer):
    names = prompt_tokenizer.encode_names(NAMES)
    sequences = context_sequences(names, prompt_tokenizer, VOCAB, 3, "middle", class_specific=True)
    rows = [[token - VOCAB for token in prompt if token >= VOCAB] for prompt in sequences.ids]
    assert rows == [[3 * index, 3 * index + 1, 3 * index + 2] for index in range(len(NAMES))]


def test_templates_fill_in_the_name(prompt_tokenizer, tokenizer):
    reader = TextReader((prompt_tokenizer.tokenizer.name_or_path, None), VOCAB, 77)
    sequences = reader.hand_written(NAMES, "a {} in the wild.")
    texts = [f"a {name.replace('_', ' ')} in the wild." for name in NAMES]
    assert [list(prompt) for prompt in sequences.ids] == tokenizer(texts)["input_ids"]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_splicing_into_given_texts_is_the_same_prompt(prompt_tokenizer, position):
    names = prompt_tokenizer.encode_names(["cat", "great white shark"])
    built = context_sequences(names, prompt_tokenizer, VOCAB, 4, position)
    spliced = spliced_sequences([name.ids for name in names], prompt_tokenizer, VOCAB, 4, position)
    assert spliced == built


def test_hand_written_prompts_equal_hugging_face(clip, tokenizer, tokenizer_path):
    [prompts] = build(tokenizer_path).zero_shot
    expected = features_of_texts(clip, tokenizer, [f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    torch.testing.assert_close(text_tower(clip).encode(prompts), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "position, template", [("end", "a photo of a {}."), ("middle", "a photo {} of a."), ("front", "{} a photo of a.")]
)
@pytest.mark.parametrize("kind", ["clip", "metaclip_2"])
def test_words_as_vectors_equal_the_words(kind, tokenizer, tokenizer_path, position, template):
    model = make_tower(kind)
    names = ["cat", "great white shark", "Boeing_737-200"] if position != "end" else NAMES
    words = tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    vectors = model.text_model.embeddings.token_embedding.weight[words]
    prompts = build(tokenizer_path, names, position=position).learned
    expected = features_of_texts(model, tokenizer, [template.replace("{}", name.replace("_", " ")) for name in names])
    torch.testing.assert_close(text_tower(model).encode(prompts, vectors), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("conditional", [False, True])
def test_features_equal_a_padded_loop(clip, tokenizer, tokenizer_path, position, class_specific, conditional):
    """One prompt at a time, its embeddings put together by hand and padded to 77 positions."""
    prompts = build(tokenizer_path, position=position, class_specific=class_specific).learned
    n_rows = 4 * len(NAMES) if class_specific else 4
    vectors = torch.randn((3, n_rows, 24) if conditional else (n_rows, 24), dtype=torch.float64) * 0.1
    actual = text_tower(clip).encode(prompts, vectors)
    slow = [
        torch.cat(
            [
                padded_feature(clip, tokenizer, name, table, index, position, class_specific)
                for index, name in enumerate(NAMES)
            ]
        )
        for table in (vectors if conditional else vectors[None])
    ]
    expected = torch.stack(slow) if conditional else slow[0]
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)


def padded_feature(clip, tokenizer, name, table, index, position, class_specific):
    name = name.replace("_", " ")
    ctx = table[4 * index : 4 * index + 4] if class_specific else table
    ids = tokenizer(f"{name}.", add_special_tokens=False)["input_ids"]
    length = len(tokenizer(name, add_special_tokens=False)["input_ids"])
    embed = clip.text_model.embeddings.token_embedding
    words = embed(torch.tensor(ids))
    bos, eos = embed(torch.tensor([[49406], [49407]]))
    before = {"end": 4, "middle": 2, "front": 0}[position]
    parts = [bos, ctx[:before], words[:length], ctx[before:], words[length:], eos]
    prompt = torch.cat(parts)
    padded = torch.cat([prompt, eos.expand(77 - len(prompt), -1)])[None]
    text_model = clip.text_model
    states = text_model.embeddings(inputs_embeds=padded)
    mask = torch.full((77, 77), float("-inf"), dtype=states.dtype).triu(1)[None, None]
    for layer in text_model.encoder.layers:
        states = layer(states, mask)
    return clip.text_projection(text_model.final_layer_norm(states[:, len(prompt) - 1]))


def test_eager_attention_agrees(clip, tokenizer_path):
    """But for its softmax, which Hugging Face computes in float32."""
    [prompts] = build(tokenizer_path).zero_shot
    expected = text_tower(clip).encode(prompts)
    clip.set_attn_implementation("eager")
    torch.testing.assert_close(text_tower(clip).encode(prompts), expected, atol=1e-5, rtol=0)


def test_chunks_change_nothing(clip, tokenizer_path, monkeypatch):
    prompts = build(tokenizer_path).learned
    vectors = torch.randn(3, 4, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = text_tower(clip).encode(prompts, vectors)
        monkeypatch.setattr("peft_coop.towers.tree_tower.MAX_POSITIONS", 40)
        torch.testing.assert_close(text_tower(clip).encode(prompts, vectors), expected, atol=1e-9, rtol=0)


def test_ids_come_from_the_tokenizer_and_not_from_the_config(tokenizer, tokenizer_path):
    """OpenAI's configs say that EOS is 2; MetaCLIP 2's tokenizer really has EOS 2."""
    wrong = make_tower(bos_token_id=0, eos_token_id=2)
    [prompts] = build(tokenizer_path).zero_shot
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    expected = features_of_texts(wrong, tokenizer, texts)  # finds EOS as the highest id
    torch.testing.assert_close(text_tower(wrong).encode(prompts), expected, atol=1e-9, rtol=0)


def test_a_tokenizer_whose_eos_is_two():
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "cat", "dog", "."]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=core, **special))
    model = make_tower("metaclip_2", vocab_size=8, bos_token_id=0, eos_token_id=2)
    sequences = text_sequences(["a cat.", "a dog."], tokenizer, 8)
    assert sequences.ids == ((0, 4, 5, 7, 2), (0, 4, 6, 7, 2))
    expected = model.get_text_features(torch.tensor(sequences.ids)).pooler_output
    actual = text_tower(model).encode(TreePrompts(sequences))
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)


def test_a_tokenizer_without_eos_is_refused():
    core = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="a"))
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    with pytest.raises(ValueError, match="has no eos_token"):
        PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")).check_ends()
