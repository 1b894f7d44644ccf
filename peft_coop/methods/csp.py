"""CSP (arXiv:2204.03574): the words of attributes and objects as vectors, learned, and combined into new classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..prompts import PairWords, PromptSequences, check_template, check_words, clean_word
from ..prompts.pairs import as_plain, in_order
from ..prompts.sequences import check_lengths
from ..recipes import composition_recipe
from ..towers import token_embedding
from .base import Method, Prompt, VectorName
from .config import PromptConfig, check_count

SLOTS = ("{attribute}", "{object}")
PLACES = re.compile("|".join(map(re.escape, (*SLOTS, "{}"))))
STARTS = ("mean_token",)


@dataclass(eq=False)
class CSPConfig(PromptConfig):
    """Settings of CSP: one learned vector per attribute and per object, in the places of the words.

    Args:
        attributes: the A words of the attributes, "old" for example, without duplicates. None: taken from `class_names`
            of two words each.
        objects: the O words of the objects, "car" for example; a word may be both.
        train_pairs: (attribute, object) of the training images; label k is the k-th of them. None: `class_names`.
        class_names: the classes, pairs as words or as texts ("old car"); several attributes may stand before an
            object. None: `train_pairs`.
        template: the prompt, with the places of the words, such as "a photo of {attribute} {object}".
        embed_dropout: the share of the table's elements that a training step leaves out.
        init: what a vector starts as: "mean_token", the mean of the token embeddings of the word's pieces.
        trainable_words: the words whose vectors are learned; None: all that `train_pairs` have.
        text_chunk_size: pairs whose features `encode_pairs` computes at once.
        zero_shot_template: the prompt while the adapter is disabled, with "{}" for the pair; None: `template`.

    Others as `PromptConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: CSP (arXiv:2204.03574).
    """

    zero_shot_template: str | list[str] | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Prompt with {} for the pair, used while the adapter is disabled."}
    )
    attributes: list[str] | None = field(default=None, metadata={"help": "The words of the attributes."})
    objects: list[str] | None = field(default=None, metadata={"help": "The words of the objects."})
    train_pairs: list[list[str]] | None = field(
        default=None, metadata={"help": "Attribute and object of the training images."}
    )
    template: str = field(
        default="a photo of {attribute} {object}", metadata={"help": "The prompt, with the places of the words."}
    )
    embed_dropout: float = field(
        default=0.0, metadata={"help": "The share of the table's elements that a training step leaves out."}
    )
    init: str = field(
        default="mean_token", metadata={"help": "What a vector starts as: the mean of the word's pieces."}
    )
    trainable_words: list[str] | None = field(
        default=None, metadata={"help": "The words that are learned; None: all that the training pairs have."}
    )
    text_chunk_size: int = field(default=256, metadata={"help": "Pairs that are encoded at once for evaluation."})

    method = "csp"
    needs_one_label = "its labels count pairs, of which an image has one"
    shaping = ("attributes", "objects", "train_pairs", "trainable_words", "template")

    def __post_init__(self) -> None:
        for name in ("attributes", "objects"):
            if getattr(self, name) is not None:
                setattr(self, name, check_words(getattr(self, name), name))
        if self.class_names is not None:
            self.class_names = in_order(self.class_names)
        self._settle_words()
        if self.words is not None:
            self.train_pairs = self._checked_pairs(self.words)
            names = self.train_pairs if self.class_names is None else self.class_names
            self.class_names = class_names_of(names, self.words)
            self._check_trainable_words()
        super().__post_init__()
        for slot in SLOTS:
            if not isinstance(self.template, str) or self.template.count(slot) != 1:
                raise ValueError(
                    f"`template` must hold the places {' and '.join(SLOTS)} once each; got {self.template!r}."
                )
        check_template(self.template.replace(SLOTS[0], "{}").replace(SLOTS[1], ""), "`template`", "{}")
        share = self.embed_dropout
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise ValueError(f"`embed_dropout` must be a share from 0 to below 1, got {share!r}.")
        if self.init not in STARTS:
            raise ValueError(f"`init` must be one of {STARTS}, got {self.init!r}.")
        self.text_chunk_size = check_count(self.text_chunk_size, "text_chunk_size")

    @property
    def words(self) -> PairWords | None:
        """The words that the pairs are made of; None where there are none yet."""
        if self.attributes is None or self.objects is None:
            return None
        return PairWords(self.attributes, self.objects)

    @property
    def n_vectors(self) -> int | None:
        """See `PromptConfig.n_vectors`."""
        return sum(map(len, self.trained)) or None

    @property
    def trained(self) -> tuple[set[str], set[str]]:
        """The attributes and the objects whose vectors are learned."""
        pairs = self.train_pairs or []
        used: tuple[set[str], set[str]] = {attribute for attribute, _ in pairs}, {thing for _, thing in pairs}
        if self.trainable_words is None:
            return used
        return used[0] & set(self.trainable_words), used[1] & set(self.trainable_words)

    def _settle_words(self) -> None:
        """Take the words from the classes, where these are two words each."""
        if (self.attributes is None) != (self.objects is None):
            missing = "attributes" if self.attributes is None else "objects"
            raise ValueError(f"`{missing}` is missing: CSP needs the words of the attributes and those of the objects.")
        if self.attributes is not None:
            return
        if self.train_pairs is not None:
            raise ValueError("`attributes` and `objects` are missing: `train_pairs` is made of them.")
        pairs = [tuple(name.split(" ")) for name in self.class_names or () if isinstance(name, str)]
        if pairs and len(pairs) == len(self.class_names or ()) and all(len(pair) == 2 for pair in pairs):
            self.attributes = sorted({attribute for attribute, _ in pairs})
            self.objects = sorted({thing for _, thing in pairs})

    def _checked_pairs(self, words: PairWords) -> list[list[str]]:
        given = as_plain(self.class_names if self.train_pairs is None else self.train_pairs)
        if not given:
            raise ValueError("`train_pairs` is missing: which attributes and objects are seen together in training?")
        what = "class_names" if self.train_pairs is None else "train_pairs"
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            raise TypeError(f"`{what}` must be a list of (attribute, object), got {given!r}.")
        ids = [words.ids(pair) for pair in given]
        longer = next((pair for pair in ids if len(pair) != 2), None)
        if longer is not None:
            raise ValueError(
                f"`{what}` has {words.words(longer)}: CSP is trained on one attribute and one object. Several "
                "attributes can be asked for afterwards, with `set_classes`."
            )
        twice = sorted(words.words(pair) for pair, count in Counter(ids).items() if count > 1)
        if twice:
            raise ValueError(f"`{what}` has {', '.join(map(str, twice))} more than once: each pair is one class.")
        return [list(words.words(pair)) for pair in ids]

    def _check_trainable_words(self) -> None:
        if self.trainable_words is None:
            return
        self.trainable_words = check_words(self.trainable_words, "trainable_words")
        used = {word for pair in self.train_pairs or [] for word in pair}
        idle = [word for word in self.trainable_words if word not in used]
        if idle:
            raise ValueError(f"`trainable_words` has {', '.join(map(repr, idle))}, which no training pair has.")

    def _check_templates(self) -> None:
        if self.zero_shot_template is not None:
            super()._check_templates()


def class_names_of(classes: Iterable[Any], words: PairWords) -> list[str]:
    """The names of pairs, as a user gives them: as texts, words or numbers."""
    return [words.name(words.ids(each)) for each in in_order(classes)]


class CSPPrompt(Prompt):
    """A vector for every attribute and every object, which stand for the words in a fixed prompt.

    Shapes: A attributes, O objects, D text width, M pairs.

    Words that no training pair has are read as they start, whatever an optimizer does to their rows (the original's
    weight decay moves them towards zero), and are saved so.

    Attributes:
        table: `[A+O, D]`, the attributes' vectors first.

    Raises:
        ValueError: if the config has no words, or does not fit the model.

    Reference: CSP (arXiv:2204.03574).
    """

    settings: CSPConfig
    call_arguments = ("pair_ids",)
    idle_rows: Tensor
    idle_start: Tensor

    def __init__(self, config: CSPConfig, model: nn.Module):
        super().__init__(config, model)
        if config.words is None:
            raise ValueError(
                "CSP needs `attributes`, `objects` and `train_pairs` in its config, or `class_names` of two words, "
                "such as 'old car'."
            )
        self.words = config.words
        start = self._start(token_embedding(model).weight.detach())
        attributes, objects = config.trained
        learned = [word in attributes for word in self.words.attributes]
        learned += [word in objects for word in self.words.objects]
        idle = [row for row, is_learned in enumerate(learned) if not is_learned]
        self.table = nn.Parameter(start)
        self.register_buffer("idle_rows", torch.tensor(idle, dtype=torch.long), persistent=False)
        self.register_buffer("idle_start", start[idle].clone(), persistent=False)

    def _start(self, embeddings: Tensor) -> Tensor:
        """The table `[A+O, D]` before training: each word's mean over the token embeddings of its pieces."""
        pieces = self._pieces([clean_word(word) for word in (*self.words.attributes, *self.words.objects)])
        rows = [embeddings[torch.tensor(ids, device=embeddings.device)].mean(0) for ids in pieces]
        return torch.stack(rows)

    def _pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Token ids of every word.

        Raises:
            ValueError: if the tokenizer has none for one.
        """
        pieces = self.reader.encode(words, comes_first=False)
        lost = [word for word, ids in zip(words, pieces, strict=True) if not ids]
        if lost:
            raise ValueError(f"The word {lost[0]!r} is empty to the tokenizer: it has no token for any part of it.")
        return pieces

    def class_names(self, classes: Sequence[Any]) -> list[str]:
        """See `Prompt.class_names`: pairs, as texts ("old car"), words or numbers.

        Raises:
            TypeError, ValueError: if one is no pair, or its text would be read as another.
        """
        return super().class_names(class_names_of(classes, self.words))

    def classes_of_call(self, pair_ids: Any = None) -> list[str]:  # type: ignore[override]
        """See `Prompt.classes_of_call`.

        Args:
            pair_ids: `[M, 2]`, numbers of attribute and object, or `[M, 3]` with two attributes; a tensor, an array or
                a list.

        Raises:
            TypeError, ValueError: if they are none.
        """
        rows = as_plain(pair_ids)
        if not isinstance(rows, list | tuple) or not rows:
            raise ValueError(f"`pair_ids` must be (pairs, 2) numbers of attributes and objects, got {pair_ids!r}.")
        return self.class_names(rows)

    def sequences(self, class_names: Sequence[str]) -> PromptSequences:
        """See `Prompt.sequences`: `BOS a photo of attribute object EOS`, a vector for each word."""
        reader, template = self.reader, self.settings.template
        first = reader.vocab_size
        parts = _around_slots(template)
        texts = [reader.encode([text], comes_first=not place)[0] if text else [] for place, text in enumerate(parts)]
        prompts = []
        for name in class_names:
            *attributes, thing = self.words.ids(name)
            words = [[first + each for each in attributes], [first + len(self.words.attributes) + thing]]
            before, after = words if template.index(SLOTS[0]) < template.index(SLOTS[1]) else words[::-1]
            prompts.append(reader.tokenizer.framed([*texts[0], *before, *texts[1], *after, *texts[2]]))
        sequences = PromptSequences(tuple(prompts), reader.vocab_size, reader.tokenizer.pad_token_id)
        check_lengths(sequences, class_names, reader.max_length, n_special=len(reader.tokenizer.framed([])))
        return sequences

    def hand_written(self, class_names: Sequence[str]) -> list[PromptSequences]:
        """See `Prompt.hand_written`: the words in `template`, or the pair in `zero_shot_template`."""
        own = self.settings.zero_shot_template is None
        templates = [self.settings.template] if own else self.settings.templates
        pairs = [[clean_word(word) for word in self.words.words(self.words.ids(name))] for name in class_names]
        return [self.reader.written([_written(template, words) for words in pairs]) for template in templates]

    def vectors(self, image_embeds: Tensor | None = None) -> Tensor:
        """See `Prompt.vectors`: the table `[A+O, D]`, some of its elements left out in training."""
        return nn.functional.dropout(self._as_read(), self.settings.embed_dropout, self.training)

    def named_vectors(self, class_names: Sequence[str]) -> tuple[list[VectorName], Tensor]:
        """See `Prompt.named_vectors`: each stands for a word, those of the attributes first."""
        kinds = {"attribute": self.words.attributes, "object": self.words.objects}
        names = [VectorName(index, kind, word) for kind, words in kinds.items() for index, word in enumerate(words)]
        return names, self._as_read()

    def _as_read(self) -> Tensor:
        """The table `[A+O, D]`, with the rows that are not learned as they start."""
        # The backward pass needs the rows' numbers, and DDP writes all buffers anew in every forward pass.
        return self.table.index_copy(0, self.idle_rows.clone(), self.idle_start.to(self.table))

    @torch.no_grad()
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if not self.table.is_meta and not torch.equal(self.table, read := self._as_read()):
            self.table.copy_(read)
        super()._save_to_state_dict(destination, prefix, keep_vars)


def _around_slots(template: str) -> list[str]:
    """The three texts before, between and behind the places of the words."""
    marked = template.replace(SLOTS[0], SLOTS[1])
    return [part.strip() for part in marked.split(SLOTS[1])]


def _written(template: str, words: Sequence[str]) -> str:
    """A pair's words, cleaned, put into a template with two places, or with one for both."""
    *attributes, thing = words
    in_place = {SLOTS[0]: " ".join(attributes), SLOTS[1]: thing, "{}": " ".join(words)}
    return PLACES.sub(lambda place: in_place[place.group()], template)  # at once: a word may look like a place


CSP = Method(
    key="csp",
    title="CSP",
    config=CSPConfig,
    prompt=CSPPrompt,
    reference="2204.03574",
    recipe_of=lambda num_shots, data, protocol: composition_recipe(data),
    fields_of=lambda protocol: {"embed_dropout": 0.3},
    fields_of_data=lambda protocol, data: {"embed_dropout": 0.2} if data == "ut-zappos" else {},
    summary="for attributes and objects",
    other_classes="Others can be any pairs of the attributes and objects that `adapter_config.json` names, also pairs "
    "that it was never trained on: `model.set_classes([(attribute, object), ...])`.",
    settings=("embed_dropout",),
    colour="#1b7f79",
    protocols=("composition",),
)
