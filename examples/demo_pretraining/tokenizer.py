"""Train a small tokenizer of CLIP's kind: byte-level BPE with an end-of-word mark."""

import json

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
N_MERGES = 500


def learn_merges(captions: list[str]) -> list[tuple[str, str]]:
    """The most frequent pairs, in the order in which they are to be merged."""
    backend = CLIPTokenizer().backend_tokenizer  # CLIP's own lower-casing and splitting into words
    trainer = BpeTrainer(
        vocab_size=512 + N_MERGES,
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    merges = json.loads(backend.to_str())["model"]["merges"]
    return [tuple(merge) for merge in merges][:N_MERGES]


def train_tokenizer(captions: list[str], model_max_length: int) -> CLIPTokenizer:
    """A tokenizer that knows the captions' words and can spell any other text.

    The vocabulary is laid out as CLIP's: the 256 bytes, the same at the end of a word, the merges, and
    the two special tokens last.
    """
    alphabet = sorted(ByteLevel.alphabet())
    merges = learn_merges(captions)
    tokens = alphabet + [byte + END_OF_WORD for byte in alphabet] + ["".join(pair) for pair in merges]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=model_max_length)
