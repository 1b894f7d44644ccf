"""One adapter's prompts: how they are built from class names, and the features kept of them in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .encoder import PromptTensors
from .layout import (
    PromptSequences,
    check_lengths,
    context_sequences,
    spliced_sequences,
    template_sequences,
)
from .tokens import PromptTokenizer, check_class_names, find_tokenizer, warn_of_duplicates


class FeatureCache:
    """The text features of one set of prompts, kept as long as nothing that they depend on changes.

    The learnable vectors are compared by value, since a change through `.data` leaves no other trace. Features are kept
    for every key at once, so that replicas on several devices do not push out each other's.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[Tensor | None, Tensor]] = {}

    def get(self, key: Hashable, vectors: Tensor | None, compute: Callable[[], Tensor]) -> Tensor:
        """Return the features kept under `key`, of equal `vectors`, or compute and keep them."""
        entry = self._entries.get(key)
        if entry is not None and _same(entry[0], vectors):
            return entry[1].clone()  # the caller may normalise it in place
        features = compute()
        if not features.requires_grad:
            self._entries[key] = (None if vectors is None else vectors.detach().clone(), features.clone())
        return features

    def __getstate__(self) -> dict:
        return {"_entries": {}}  # copies and pickles start empty


def _same(kept: Tensor | None, now: Tensor | None) -> bool:
    if kept is None or now is None:
        return kept is now
    return kept.device == now.device and kept.dtype == now.dtype and torch.equal(kept, now)


@dataclass
class ClassPrompts:
    """The prompts of one list of classes.

    Attributes:
        class_names: the C names as the user wrote them.
        learned: the C prompts with learnable vectors.
        zero_shot: per hand-written template, the C prompts without.
    """

    class_names: list[str]
    learned: PromptTensors
    zero_shot: list[PromptTensors]

    def __post_init__(self) -> None:
        self.learned_cache = FeatureCache()
        self.zero_shot_cache = FeatureCache()


@dataclass
class PromptBuilder:
    """What an adapter's prompts have in common; builds them for any class names.

    Attributes:
        tokenizer_source: the config's and the base model's `name_or_path`; loaded when first needed.
        vocab_size: V of the text tower.
        max_length: the tower's `max_position_embeddings`.
        n_ctx: M, context vectors in a prompt.
        position: "end", "middle" or "front".
        class_specific: whether every class has vectors of its own.
        templates: hand-written prompts with `{}` for the name, used while the adapter is disabled.
    """

    tokenizer_source: tuple[str | None, str | None]
    vocab_size: int
    max_length: int
    n_ctx: int
    position: str
    class_specific: bool
    templates: tuple[str, ...]

    @cached_property
    def tokenizer(self) -> PromptTokenizer:
        """The prompt's tokenizer.

        Raises:
            ValueError: if none can be loaded, or its ids lie outside the tower's vocabulary.
        """
        tokenizer = find_tokenizer(*self.tokenizer_source)
        self.check_ids([[tokenizer.bos_token_id, tokenizer.eos_token_id]])
        return tokenizer

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without BOS and EOS.

        Raises:
            ValueError: if one lies outside the tower's vocabulary.
        """
        ids = self.tokenizer.encode(texts)
        self.check_ids(ids)
        return ids

    def build(self, class_names: Sequence[str]) -> ClassPrompts:
        """Build the prompts of some classes.

        Raises:
            TypeError, ValueError: for names that are no names, see `check_class_names`, or prompts that are too long.
        """
        names = check_class_names(class_names)
        warn_of_duplicates(names)
        name_tokens = self.tokenizer.encode_names(names)
        self.check_ids([tokens.ids for tokens in name_tokens])
        learned = context_sequences(
            name_tokens,
            self.tokenizer,
            self.vocab_size,
            self.n_ctx,
            self.position,
            self.class_specific,
        )
        zero_shot = [
            template_sequences(names, template, self.tokenizer, self.vocab_size) for template in self.templates
        ]
        for sequences in zero_shot:
            self.check_ids(sequences.ids)
        check_lengths(learned, names, self.max_length, self.n_ctx)
        for template, sequences in zip(self.templates, zero_shot, strict=True):
            check_lengths(sequences, [template.replace("{}", name) for name in names], self.max_length)
        return ClassPrompts(names, PromptTensors(learned), [PromptTensors(sequences) for sequences in zero_shot])

    def check_ids(self, texts: Sequence[Sequence[int]]) -> None:
        """Check token ids against the tower's vocabulary: a larger one would be read as a learnable vector.

        Raises:
            ValueError: if one lies outside it.
        """
        largest = max((token for ids in texts for token in ids), default=0)
        if largest >= self.vocab_size:
            raise ValueError(
                f"The tokenizer does not belong to this model: it uses token id {largest}, and the text tower's "
                f"vocabulary has {self.vocab_size} tokens. Set `tokenizer_name_or_path` to the base model's tokenizer."
            )

    def splice(self, input_ids: Tensor) -> PromptTensors:
        """Put the context into prompts given as CLIP's own token ids.

        Args:
            input_ids: `[N, L]`, each `BOS … EOS` and then padding of any kind: a prompt ends at its first EOS.

        Raises:
            ValueError: if the context is class-specific, or a row does not begin with BOS or has no EOS.
        """
        if self.class_specific:
            raise ValueError(
                "This adapter has a class-specific context, which belongs to its own classes and cannot be put into "
                "other texts: call the model without `input_ids`, or train a unified context."
            )
        if input_ids.ndim != 2 or not input_ids.numel():
            raise ValueError(f"`input_ids` must be (texts, tokens), got a tensor of shape {tuple(input_ids.shape)}.")
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        texts = []
        for index, row in enumerate(input_ids.tolist()):
            if row[0] != bos or eos not in row[1:]:
                raise ValueError(
                    f"Row {index} of `input_ids` is no prompt: it must begin with BOS ({bos}) and contain EOS ({eos}), "
                    f"got {row}."
                )
            texts.append(row[1 : row.index(eos, 1)])
        self.check_ids(texts)
        sequences: PromptSequences = spliced_sequences(
            texts, self.tokenizer, self.vocab_size, self.n_ctx, self.position
        )
        check_lengths(
            sequences, [f"row {index} of `input_ids`" for index in range(len(texts))], self.max_length, self.n_ctx
        )
        return PromptTensors(sequences)
