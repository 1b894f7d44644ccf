"""Texts as one text tower reads them: its tokenizer, its vocabulary, its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from .class_names import check_class_names, clean_name
from .sequences import PromptSequences, check_lengths, text_sequences
from .tokens import NameTokens, PromptTokenizer, find_tokenizer, warn_of_duplicates, warn_of_unknown_words


@dataclass
class TextReader:
    """Turns texts into token ids of a text tower.

    Attributes:
        tokenizer_source: the config's and the base model's `name_or_path`; loaded when first needed.
        vocab_size: V of the text tower.
        max_length: the tower's positions.
        reads_at_end: whether the tower reads the feature where EOS stands, so that the tokenizer must have one.
    """

    tokenizer_source: tuple[str | None, str | None]
    vocab_size: int
    max_length: int
    reads_at_end: bool = True

    @cached_property
    def tokenizer(self) -> PromptTokenizer:
        """The prompt's tokenizer.

        Raises:
            ValueError: if none can be loaded, it is of another kind of model, or its ids lie outside the vocabulary.
        """
        tokenizer = find_tokenizer(*self.tokenizer_source)
        if self.reads_at_end:
            tokenizer.check_ends()
        self.check_ids([[*tokenizer.before, *tokenizer.after]])
        return tokenizer

    def encode(self, texts: Sequence[str], comes_first: bool = True) -> list[list[int]]:
        """Token ids of texts, without what stands around them.

        Args:
            texts: the texts.
            comes_first: whether nothing stands before them.

        Raises:
            ValueError: if one lies outside the tower's vocabulary.
        """
        ids = self.tokenizer.encode(texts) if comes_first else self.tokenizer.encode_behind(texts)
        self.check_ids(ids)
        return ids

    def names(self, class_names: Sequence[str], template: str = "{}.", comes_first: bool = False) -> list[NameTokens]:
        """Tokenise class names, see `PromptTokenizer.encode_names`; warnings name those that read alike or are unknown.

        Raises:
            TypeError, ValueError: for names that are no names, see `check_class_names`.
        """
        names = self.tokenizer.encode_names(check_class_names(class_names), template, comes_first)
        warn_of_duplicates(names)
        warn_of_unknown_words(names, self.tokenizer)
        self.check_ids([name.ids for name in names])
        return names

    def hand_written(self, class_names: Sequence[str], template: str) -> PromptSequences:
        """Prompts without learnable vectors: every class name in the `{}` of `template`.

        Raises:
            ValueError: if one is too long, with its class and the template.
        """
        names = [clean_name(name) for name in class_names]
        sequences = self._framed([template.replace("{}", name) for name in names])
        n_special = len(self.tokenizer.framed([]))
        check_lengths(sequences, names, self.max_length, n_special=n_special, template=template)
        return sequences

    def written(self, texts: Sequence[str]) -> PromptSequences:
        """Prompts without learnable vectors.

        Raises:
            ValueError: if one is too long.
        """
        sequences = self._framed(texts)
        check_lengths(sequences, texts, self.max_length, n_special=len(self.tokenizer.framed([])))
        return sequences

    def _framed(self, texts: Sequence[str]) -> PromptSequences:
        sequences = text_sequences(texts, self.tokenizer, self.vocab_size)
        self.check_ids(sequences.ids)
        return sequences

    def given_texts(self, input_ids: Tensor, comes_first: bool = False) -> list[list[int]]:
        """The texts of a tokenizer's `input_ids` `[N, L]`, without what stands around them.

        Each row is a text with its special tokens and then padding of any kind: a text ends at its first EOS; at the
        first padding where the tokenizer has no EOS.

        Args:
            input_ids: as the tokenizer gives them of texts alone.
            comes_first: whether nothing is put before them; else they are read as behind a space.

        Raises:
            ValueError: if a row does not begin with BOS or has no EOS.
        """
        if input_ids.ndim != 2 or not input_ids.numel():
            raise ValueError(f"`input_ids` must be (texts, tokens), got a tensor of shape {tuple(input_ids.shape)}.")
        begin, ends = list(self.tokenizer.before), self.tokenizer.after
        end = ends[0] if ends else self.tokenizer.pad_token_id
        texts = []
        for index, row in enumerate(input_ids.tolist()):
            text = row[len(begin) :]
            if row[: len(begin)] != begin or (ends and end not in text):
                begins = f"begin with BOS ({', '.join(map(str, begin))}) and " if begin else ""
                raise ValueError(
                    f"Row {index} of `input_ids` is no prompt: it must {begins}contain EOS ({end}), got {row}."
                )
            texts.append(text[: text.index(end)] if end in text else text)
        self.check_ids(texts)
        return texts if comes_first else self.tokenizer.as_behind(texts)

    def as_given(self, input_ids: Tensor) -> PromptSequences:
        """The texts of a tokenizer's `input_ids` `[N, L]` as prompts, nothing put in.

        Raises:
            ValueError: as `given_texts`, or if one is too long.
        """
        framed = tuple(map(self.tokenizer.framed, self.given_texts(input_ids, comes_first=True)))
        sequences = PromptSequences(framed, self.vocab_size, self.tokenizer.pad_token_id)
        descriptions = [f"row {index} of `input_ids`" for index in range(len(framed))]
        check_lengths(sequences, descriptions, self.max_length, n_special=len(self.tokenizer.framed([])))
        return sequences

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
