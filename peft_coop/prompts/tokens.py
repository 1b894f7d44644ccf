"""Class names and prompts as token ids, by the tokenizer that the text tower was trained with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import AutoTokenizer, CLIPTokenizer

from .class_names import clean_name


@dataclass(frozen=True)
class NameTokens:
    """One class name, tokenised.

    Attributes:
        name: the name as the user wrote it.
        ids: tokens of the name in its template, `"{name}."` as a rule, without BOS and EOS.
        name_length: how many of `ids` belong to the name when the context stands between the name and the rest.
    """

    name: str
    ids: tuple[int, ...]
    name_length: int


SAMPLE = "a photo of a"  # words that every vocabulary can spell
# Texts that are tokenised at once: a tokenizer makes kilobytes of each, which is too much of hundreds of thousands.
TEXTS_AT_ONCE = 4096


class PromptTokenizer:
    """Text to token ids, and what the tokenizer puts around a text.

    What stands around a text, BOS and EOS or [CLS] and [SEP], is what the tokenizer adds, and never what `text_config`
    says, where OpenAI's checkpoints have wrong ids.

    Args:
        tokenizer: a Hugging Face tokenizer.

    Attributes:
        before: ids of the special tokens before a text.
        after: of those behind it.
        pad_token_id: of padding; 0 where there is none.

    Raises:
        ValueError: if the tokenizer has no vocabulary.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        # transformers 5 makes an empty tokenizer where a folder or repository has the model's config and no vocabulary.
        [ids] = self.encode([SAMPLE])
        if set(ids) <= set(tokenizer.all_special_ids):
            raise ValueError(f"It has no vocabulary ({len(tokenizer)} tokens): every word is unknown to it.")
        framed = tokenizer(SAMPLE, verbose=False)["input_ids"]
        places = [start for start in range(len(framed)) if framed[start : start + len(ids)] == ids]
        if not places:
            raise ValueError(f"It reads {SAMPLE!r} as {ids}, and with special tokens as {framed}, which lacks that.")
        start = places[0]
        self.before = tuple(framed[:start])
        self.after = tuple(framed[start + len(ids) :])
        self.pad_token_id: int = tokenizer.pad_token_id or 0

    def framed(self, ids: Sequence[int]) -> tuple[int, ...]:
        """A text's ids with the special tokens around them."""
        return (*self.before, *ids, *self.after)

    def check_ends(self) -> None:
        """Check that a text ends in a token of its own, where a causal tower reads its feature.

        Raises:
            ValueError: if it does not.
        """
        missing = [name for name, ids in (("bos_token", self.before), ("eos_token", self.after)) if not ids]
        if missing:
            raise ValueError(
                f"A prompt needs a BOS and an EOS token, and {type(self.tokenizer).__name__} has no "
                f"{' and no '.join(missing)}. Pass the tokenizer of a CLIP model as `tokenizer_name_or_path`."
            )

    @classmethod
    def from_pretrained(cls, name_or_path: str) -> PromptTokenizer:
        """Load from a Hub name or a folder, a bare folder of `vocab.json` and `merges.txt` included."""
        has_config = any(
            os.path.isfile(os.path.join(name_or_path, file)) for file in ("tokenizer_config.json", "config.json")
        )
        if os.path.isfile(os.path.join(name_or_path, "vocab.json")) and not has_config:
            return cls(CLIPTokenizer.from_pretrained(name_or_path))
        return cls(AutoTokenizer.from_pretrained(name_or_path))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, without BOS and EOS."""
        every: list[list[int]] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = list(texts[start : start + TEXTS_AT_ONCE])
            every += self.tokenizer(some, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return every

    def encode_behind(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of texts that stand behind others: some vocabularies have other tokens behind a space."""
        [before] = self.encode(["a"])
        together, alone = self.encode([f"a {text}" for text in texts]), self.encode(texts)
        return [
            whole[len(before) :] if whole[: len(before)] == before else by_itself
            for whole, by_itself in zip(together, alone, strict=True)
        ]

    def as_behind(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of texts that were tokenised alone, as they are behind others, see `encode_behind`.

        Ids that no text gives, as it is read back from them, stay what they are.
        """
        words = [self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in texts]
        again, behind = self.encode(words), self.encode_behind([each.strip() for each in words])
        return [
            other if other and same == list(ids) else list(ids)
            for ids, same, other in zip(texts, again, behind, strict=True)
        ]

    def encode_names(
        self, class_names: Sequence[str], template: str = "{}.", comes_first: bool = False
    ) -> list[NameTokens]:
        """Tokenise class names as the papers do: underscores are spaces, and the full stop is part of the text.

        CLIP's BPE merges some names with the full stop ("kite (bird of prey)." ends in one token for ")."), so name
        and full stop are tokenised together, and only the length is taken from the name alone.

        Args:
            class_names: the names.
            template: the fixed text with "{}" for the name.
            comes_first: whether nothing stands before the name.

        Raises:
            ValueError: if nothing of a name is left, or it holds BOS or EOS.
        """
        texts = [clean_name(name) for name in class_names]
        encode = self.encode if comes_first else self.encode_behind
        in_template = encode([template.replace("{}", text) for text in texts])
        alone = encode(texts)
        special = {*self.before, *self.after}
        for name, name_ids in zip(class_names, alone, strict=True):
            if special.intersection(name_ids):
                raise ValueError(
                    f"The class name {name!r} holds a special token of {type(self.tokenizer).__name__}, which begins "
                    "or ends a prompt: write it in other words."
                )
        lost = [name for name, name_ids in zip(class_names, alone, strict=True) if not name_ids]
        if lost:
            raise ValueError(
                f"The class name {lost[0]!r} is empty to the tokenizer: it has no token for any part of it."
            )
        return [
            NameTokens(name, tuple(ids), min(len(name_ids), len(ids)))
            for name, ids, name_ids in zip(class_names, in_template, alone, strict=True)
        ]


def warn_of_unknown_words(names: Sequence[NameTokens], tokenizer: PromptTokenizer) -> None:
    """Warn of names with words that the tokenizer does not know, which all read alike to the model."""
    unknown = [name.name for name in names if tokenizer.tokenizer.unk_token_id in name.ids]
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        warnings.warn(
            f"{type(tokenizer.tokenizer).__name__} does not know words of these class names: {shown}. It reads every "
            "such word as the same unknown one: write the names in the language and script that the model was trained "
            "on.",
            stacklevel=2,
        )


def warn_of_duplicates(names: Sequence[NameTokens]) -> None:
    """Warn of names that read alike; allowed, since ImageNet's list has two names twice."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        alike.setdefault(name.ids, []).append(name.name)
    groups = [" = ".join(map(repr, dict.fromkeys(group))) for group in alike.values() if len(group) > 1]
    if groups:
        warnings.warn(
            "These class names occur more than once, or are the same to the tokenizer, and such classes cannot be told "
            f"apart by a unified context: {', '.join(sorted(groups))}.",
            stacklevel=2,
        )


def find_tokenizer(name_or_path: str | None, base_name_or_path: str | None) -> PromptTokenizer:
    """Load the tokenizer of a prompt.

    Args:
        name_or_path: what the config says; None means the base model's.
        base_name_or_path: the base model's own name or path.

    Raises:
        ValueError: if neither is known, or nothing can be loaded from them.
    """
    if name_or_path and _is_lost_path(name_or_path) and base_name_or_path:
        warnings.warn(
            f"The tokenizer saved as {name_or_path!r} is not on this machine; using the base model's, "
            f"{base_name_or_path!r}.",
            stacklevel=2,
        )
        name_or_path = None
    source = name_or_path or base_name_or_path
    if not source:
        raise ValueError(
            "No tokenizer is known: the base model has no name or path (it was not made by `from_pretrained`), and "
            "`tokenizer_name_or_path` is not set. Set it to a Hub name or to a folder with the tokenizer's files."
        )
    try:
        return PromptTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No tokenizer could be loaded from {source!r}: {error} Set `tokenizer_name_or_path` to a Hub name or to a "
            "folder with the tokenizer's files."
        ) from error


def _is_lost_path(name_or_path: str) -> bool:
    """Whether this is a local path, and one that does not exist here (a Hub name has at most one slash)."""
    looks_local = os.path.isabs(name_or_path) or name_or_path.startswith((".", "~")) or name_or_path.count(os.sep) > 1
    return looks_local and not os.path.exists(name_or_path)
