"""One adapter's prompts: how they are built from class names, and the features kept of them in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from .cache import TextCache
from .class_names import check_class_names
from .encoder import PromptTensors
from .layout import (
    PromptSequences,
    check_lengths,
    context_sequences,
    spliced_sequences,
    template_sequences,
)
from .tokens import PromptTokenizer, find_tokenizer, warn_of_duplicates


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
        self.learned_features: TextCache[Tensor] = TextCache()
        self.zero_shot_features: TextCache[Tensor] = TextCache()

    def clear(self) -> None:
        """Forget all that is kept of these prompts."""
        for features in (self.learned_features, self.zero_shot_features):
            features.clear()
        for prompts in (self.learned, *self.zero_shot):
            prompts.clear()


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
        name_tokens = self.tokenizer.encode_names(names)
        warn_of_duplicates(name_tokens)
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
