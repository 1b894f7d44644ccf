"""What learned context vectors are close to: the nearest words of CLIP's vocabulary.

Letters: C classes, M context vectors, R vectors to look up, V words, D text width.

Reference: CoOp (arXiv:2109.01134), "Interpreting the Learned Prompts".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..methods import VectorName
from ..models import prompt_in_use
from ..towers import token_embedding

# How vocabularies mark words: CLIP's where a word ends, SentencePiece's where one begins.
WORD_END = "</w>"
WORD_START = "\u2581"
PLURALS = {"word": "words", "class": "classes"}
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}

DISTANCES_AT_ONCE = 2**24
# Matrix products are fast and inexact where two vectors are close: this many more than asked for are compared exactly.
SPARE = 32


@dataclass(frozen=True)
class NearWord:
    """A word of the vocabulary near a context vector.

    Attributes:
        text: as a human reads it; bytes that are no text alone look like "<0xF0>".
        token_id: its id.
        distance: Euclidean, between the context vector and the word's token embedding.
        is_whole_word: False for pieces that only occur in longer words.
    """

    text: str
    token_id: int
    distance: float
    is_whole_word: bool


@dataclass(frozen=True)
class ContextWords:
    """The words nearest to one context vector.

    Attributes:
        class_name: whose vector it is, or what kind of word it stands for; None if the context is unified.
        index: which of the M vectors, from 0.
        words: the nearest first.
        stands_for: the word that it was put in the place of, an attribute of CSP for example; None for others.
        place: where in the prompt it stands, where vectors stand in more than one place; None otherwise.
    """

    class_name: str | None
    index: int
    words: list[NearWord]
    stands_for: str | None = None
    place: str | None = None

    @property
    def title(self) -> str | None:
        """What stands above its group in a table."""
        return self.class_name or self.place


@torch.no_grad()
def nearest_words(
    model: nn.Module, top_k: int = 3, whole_words: bool = False, class_names: Sequence[str] | None = None
) -> list[ContextWords]:
    """Find the words nearest to every context vector of the adapter in use.

    Of a conditional context (CoCoOp) these are the vectors that all images share, before an image shifts them.

    Args:
        model: a CLIP with a learned prompt, on any device.
        top_k: words per vector.
        whole_words: leave out pieces of words.
        class_names: for a class-specific context, the classes to look at; where vectors stand for words, these; None:
            all.

    Returns:
        One entry per vector: M, or M for every class one after the other; of CSP one for each word.

    Raises:
        TypeError: if the model has no learned prompt.
        ValueError: if no adapter is active or it learned nothing among words, a class or word is none of the
            adapter's, or there are not as many words.
    """
    layer, adapter = prompt_in_use(model)
    tokenizer = layer.prompt.reader.tokenizer.tokenizer
    names, vectors = _chosen_vectors(layer, adapter, class_names)
    if not names:
        raise ValueError(
            f"Adapter {adapter!r} has no vectors among words: what it learned is in the vision tower, or behind it."
        )
    weight = token_embedding(model.get_base_model()).weight
    vocabulary = _vocabulary(tokenizer, len(weight), whole_words)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= len(vocabulary):
        raise ValueError(
            f"`top_k` must be a whole number from 1 to {len(vocabulary)}, the words there are; got {top_k!r}."
        )
    ids = torch.tensor(sorted(vocabulary), device=weight.device)
    distances, places = nearest_rows(vectors, weight[ids].float(), top_k)
    rows = zip(names, ids[places].tolist(), distances.tolist(), strict=True)
    return [
        ContextWords(
            name.group,
            name.index,
            [
                NearWord(readable(vocabulary[token], tokenizer), token, distance, is_whole_word(vocabulary[token]))
                for token, distance in zip(tokens, far, strict=True)
            ],
            name.word,
            name.place,
        )
        for name, tokens, far in rows
    ]


def _chosen_vectors(layer: Any, adapter: str, chosen: Sequence[str] | None) -> tuple[list[VectorName], Tensor]:
    """The names of the chosen vectors, and the vectors `[R, D]` in float32."""
    texts = layer.class_texts.get(adapter)
    names, vectors = layer.prompt.named_vectors([] if texts is None else texts.class_names)
    vectors = vectors.detach().float()
    if chosen is None:
        return names, vectors
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name.word or name.group or "", []).append(row)
    if rows.keys() == {""}:
        raise ValueError(
            f"Adapter {adapter!r} has one context for all classes: leave out `class_names`, got {list(chosen)}."
        )
    kind = "word" if names[0].word else "class"
    for each in chosen:
        if each not in rows:
            raise ValueError(
                f"{each!r} is not a {kind} of adapter {adapter!r}; its {PLURALS[kind]} are {', '.join(rows)}."
            )
    kept = [row for each in dict.fromkeys(chosen) for row in rows[each]]
    return [names[row] for row in kept], vectors[kept]


def _vocabulary(tokenizer: Any, size: int, whole_words: bool) -> dict[int, str]:
    """The tokens by their ids, without the special ones and those that the tower has no embedding of."""
    special = set(tokenizer.all_special_ids)
    return {
        token_id: token
        for token, token_id in tokenizer.get_vocab().items()
        if token_id < size and token_id not in special and (not whole_words or is_whole_word(token))
    }


def is_whole_word(token: str) -> bool:
    """Whether a token of the vocabulary can stand for a word by itself."""
    return token.endswith(WORD_END) or token.startswith(WORD_START)


def nearest_rows(vectors: Tensor, table: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The nearest rows of a table.

    Args:
        vectors: `[R, D]`.
        table: `[V, D]`.
        top_k: how many rows for each vector.

    Returns:
        Distances and row numbers, `[R, top_k]` each, the nearest first; of equally near ones the first row.
    """
    found = []
    for part in vectors.split(max(1, DISTANCES_AT_ONCE // len(table))):
        likely = torch.cdist(part, table).topk(min(top_k + SPARE, len(table)), largest=False).indices
        likely = likely.sort(dim=1).values
        exact = (table[likely] - part[:, None]).norm(dim=-1)
        distances, order = exact.sort(dim=1, stable=True)
        found.append((distances[:, :top_k], likely.gather(1, order[:, :top_k])))
    return torch.cat([distances for distances, _ in found]), torch.cat([rows for _, rows in found])


def readable(token: str, tokenizer: Any) -> str:
    """A token of the vocabulary as text, with what cannot be seen as "<0xF0>" (bytes) or "<U+200D>" (characters)."""
    piece = token.removesuffix(WORD_END)
    text = tokenizer.convert_tokens_to_string([piece]).strip(" ")
    if "\ufffd" in text and all(character in BYTES for character in piece):
        text = bytes(BYTES[character] for character in piece).decode("utf-8", errors="surrogateescape")
    return "".join(character if character.isprintable() else by_number(character) for character in text)


def by_number(character: str) -> str:
    """A character, or a byte that is none and was decoded as a lone surrogate, by its number."""
    number = ord(character)
    return f"<0x{number - 0xDC00:02X}>" if 0xDC80 <= number <= 0xDCFF else f"<U+{number:04X}>"
