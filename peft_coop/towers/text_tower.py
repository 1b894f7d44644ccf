"""A dual encoder's text side: sequences over the extended vocabulary and learnable vectors, to text features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..prompts import PromptSequences, TextReader, check_class_names, check_template
from .families import find_family, text_limit, token_embedding
from .plain_tower import PlainTower
from .prepared_prompts import NO_DEEP_VECTORS, DeepVectors, PreparedPrompts
from .similarity import normalize
from .text_cache import TextState
from .tree_tower import TreeTower


class TextTower(Protocol):
    """What a text tower answers, causal or not.

    Shapes: C prompts, V learnable vectors, D text width, P projection width, B images.
    """

    def install(self) -> None:
        """Make the tower ready to encode prompts; a no-op if it is."""

    def remove(self) -> None:
        """Undo `install`."""

    @property
    def is_installed(self) -> bool:
        """Whether it is ready."""

    def prepare(self, sequences: PromptSequences) -> PreparedPrompts:
        """Prompts as the tower reads them, made once for all calls of `encode`."""

    def encode(
        self,
        prompts: Any,
        vectors: Tensor | None = None,
        memory: int | None = None,
        deep: DeepVectors = NO_DEEP_VECTORS,
    ) -> Tensor:
        """Encode prompts.

        Args:
            prompts: what `prepare` returned, on any device.
            vectors: `[V, D]`, or `[B, V, D]` for one set per image; None where no prompt has a learnable vector.
            memory: bytes that may be kept for the backward pass; what exceeds them is computed again there, in parts.
                None: 2 GiB, or a quarter of a GPU's memory.
            deep: by the number of a layer, 1 or more, `[V, D]`: what replaces the hidden states at the learnable
                vectors' places before it.

        Returns:
            Text features, projected and not normalised: `[C, P]`, or `[B, C, P]` for one set per image.
        """

    def state(self) -> TextState | None:
        """What features depend on beside the prompts and the vectors: the key of everything that is kept of them.

        None where nothing may be kept, see `text_state`.
        """


def text_tower(model: nn.Module) -> TextTower:
    """The text tower of a dual encoder.

    Raises:
        ValueError: if the model is of an unknown family.
    """
    family = find_family(model)
    return TreeTower(model, family) if family.shares_prefixes else PlainTower(model, family)


def text_reader(model: nn.Module, tokenizer_name_or_path: str | None = None) -> TextReader:
    """What turns texts into the token ids of a dual encoder.

    Args:
        model: the dual encoder.
        tokenizer_name_or_path: its tokenizer; None: the model's own name or path.
    """
    source = (tokenizer_name_or_path, getattr(model, "name_or_path", None))
    reads_at_end = find_family(model).reads_at_end
    return TextReader(source, token_embedding(model).num_embeddings, text_limit(model), reads_at_end)


@contextmanager
def installed(tower: TextTower) -> Iterator[None]:
    """Make a tower ready for a while, and leave it as it was."""
    if tower.is_installed:
        yield
        return
    tower.install()
    try:
        yield
    finally:
        tower.remove()


def average(features: Sequence[Tensor]) -> Tensor:
    """Features of one template as they are; of several, the mean of the normalised ones."""
    return features[0] if len(features) == 1 else torch.stack([normalize(each) for each in features]).mean(0)


@torch.no_grad()
def encode_templates(
    model: nn.Module, class_names: Sequence[str], templates: Sequence[str], reader: TextReader | None = None
) -> Tensor:
    """Text features of hand-written prompts, zero-shot classification's.

    Args:
        model: a dual encoder, left as it is.
        class_names: the C classes; underscores become spaces.
        templates: prompts with "{}" for the name.
        reader: of its texts; None: by the model's own tokenizer.

    Returns:
        `[C, P]`: the projected features of one template, or the mean of the normalised features of several.

    Raises:
        TypeError, ValueError: if a template has no place for the name, or a prompt is too long for the model.
    """
    reader = reader or text_reader(model)
    names = check_class_names(class_names)
    for template in templates:
        check_template(template, "A template", "a photo of a {}.")
    tower = text_tower(model)
    with installed(tower):
        every = [tower.encode(tower.prepare(reader.hand_written(names, each))) for each in templates]
    return average(every)
