"""Text towers whose prompts share nothing: each prompt is a row of its own, through the model's own text forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..prompts import PromptSequences
from .embeddings import Splice, SplicedEmbeddings
from .families import Family, device_of, text_layers, text_limit, token_embedding
from .mixed_classes import close
from .prepared_prompts import NO_DEEP_VECTORS, DeepVectors, PreparedPrompts, one_table
from .states_between import ReplacedRows, changing, open_up
from .text_cache import TextState, text_state
from .text_memory import MAX_POSITIONS, bytes_per_position, in_parts, is_trained, part_size


class PlainPrompts(PreparedPrompts):
    """C prompts as rows of L tokens, shorter ones filled up.

    Attributes:
        token_ids: `[C, L]`; where a vector stands, an ordinary token, which means nothing.
        is_learned: `[C, L]`, where a learnable vector stands.
        vector_rows: `[C, L]`, which one; 0 elsewhere.
        mask: `[C, L]`, 1 where the prompt is and 0 behind it.
    """

    tensors = ("token_ids", "is_learned", "vector_rows", "mask")

    @torch.inference_mode(False)  # training may use them later
    def __init__(self, sequences: PromptSequences, length: int | None = None, padding: int | None = None):
        super().__init__(sequences)
        longest = max(map(len, sequences.ids)) if length is None else length
        rows = [[*ids, *[sequences.pad_token_id] * (longest - len(ids))] for ids in sequences.ids]
        ids = torch.tensor(rows)
        lengths = torch.tensor([len(each) for each in sequences.ids])
        self.is_learned = ids >= sequences.vocab_size
        self.vector_rows = (ids - sequences.vocab_size).masked_fill(~self.is_learned, 0)
        self.token_ids = ids.masked_fill(self.is_learned, _ordinary_token(sequences, padding))
        self.mask = (torch.arange(longest) < lengths[:, None]).long()

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.mask.device


def _ordinary_token(sequences: PromptSequences, padding: int | None) -> int:
    """A token that no tower takes for padding or for the end of a text, to stand where a vector stands.

    Args:
        sequences: the prompts, with the tokenizer's padding.
        padding: the tower's own, from which RoBERTa counts positions, whatever the tokenizer's is.
    """
    first = sequences.ids[0]
    special = {sequences.pad_token_id, padding, first[0], first[-1]}
    return next(token for token in range(len(special) + 1) if token not in special)


class PlainTower:
    """A text tower that is not causal, or whose layers are not CLIP's; see `TextTower` for what it answers.

    Args:
        model: the dual encoder.
        family: where its parts are.
    """

    is_installed = True  # as far as prompts without vectors in deeper layers need it

    def __init__(self, model: nn.Module, family: Family):
        self.model = model
        self.family = family
        self.config = model.config.text_config
        layers = model.get_submodule(family.text_parts[0]).modules()
        checkpoints = any(getattr(layer, "gradient_checkpointing", False) for layer in layers)
        self.recomputes = model.training and checkpoints

    def install(self) -> None:
        """Let vectors stand before deeper layers, which are called as they are."""
        open_up(text_layers(self.model))

    def remove(self) -> None:
        """Undo `install`."""
        close([self.model.get_submodule(self.family.text_parts[0])])

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return device_of(self.model)

    def prepare(self, sequences: PromptSequences) -> PlainPrompts:
        """Fill prompts up to one length, once for all calls of `encode`."""
        padding = getattr(self.model.get_submodule(self.family.embeddings), "padding_idx", None)
        return PlainPrompts(sequences, text_limit(self.model) if self.family.pads_to_limit else None, padding)

    def state(self) -> TextState | None:
        """What every encoded prompt depends on; None where nothing may be kept, see `text_state`."""
        layer = self.model.get_submodule(self.family.embeddings)
        if not isinstance(layer, SplicedEmbeddings):
            return text_state(self._parts(), self.device)
        return text_state((*self._parts(), layer.base_layer), self.device, without=layer)

    def encode(
        self,
        prompts: PlainPrompts,
        vectors: Tensor | None = None,
        memory: int | None = None,
        deep: DeepVectors = NO_DEEP_VECTORS,
    ) -> Tensor:
        """Text features, see `TextTower.encode`."""
        prompts.check_vectors(vectors, deep, len(text_layers(self.model)))
        prompts = prompts.to(self.device)
        per_image = vectors is not None and vectors.ndim == 3
        n_images = vectors.shape[0] if vectors is not None and per_image else 1
        n_vectors = 0 if vectors is None else vectors.shape[-2]
        table = vectors.flatten(0, -2) if vectors is not None and n_vectors else None  # [B*V, D]
        n_prompts, length = prompts.token_ids.shape
        every_row = torch.arange(n_prompts, device=self.device).repeat(n_images)
        first_vector = torch.arange(n_images, device=self.device).repeat_interleave(n_prompts) * n_vectors
        own = any(each.ndim == 3 for each in deep.values())
        deep = {layer: one_table(each, n_prompts) if own else each for layer, each in deep.items()}

        def encode(start: int, stop: int) -> Tensor:
            row = every_row[start:stop]
            splice = None
            if table is not None:
                rows = prompts.vector_rows[row] + first_vector[start:stop, None]
                splice = Splice(prompts.is_learned[row], rows, table)
            deep_rows = prompts.vector_rows[row] + (row[:, None] * n_vectors if own else 0)
            with changing(ReplacedRows(deep, prompts.is_learned[row], deep_rows)):
                return self._own_features(prompts.token_ids[row], prompts.mask[row], splice)

        size, again = self._part_size(length, n_images * n_prompts, (table, *deep.values()), memory)
        parts = in_parts(encode, n_images * n_prompts, size, again)
        features = parts[0] if len(parts) == 1 else torch.cat(parts)
        return features.unflatten(0, (n_images, n_prompts)) if per_image else features

    def _own_features(self, token_ids: Tensor, mask: Tensor, splice: Splice | None) -> Tensor:
        """Features `[N, P]` by the model's own text forward."""
        given: dict[str, Any] = {"input_ids": token_ids}
        if self.family.mask == "padding":
            given["attention_mask"] = mask
        elif self.family.mask == "causal":
            given["attention_mask"] = self._causal_mask(*token_ids.shape)
        own = getattr(type(self.model), "__base_class__", type(self.model)).get_text_features
        if splice is None:
            return own(self.model, **given, return_dict=True).pooler_output
        with self.model.get_submodule(self.family.embeddings).splicing(splice):
            return own(self.model, **given, return_dict=True).pooler_output

    def _causal_mask(self, n_texts: int, length: int) -> Tensor:
        """`[N, 1, L, L]`, added to the scores, so that it means the same to every attention; EOS ends what is read."""
        dtype = token_embedding(self.model).weight.dtype
        lowest = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype, device=self.device)
        return lowest.triu(1).expand(n_texts, 1, -1, -1)

    def _parts(self) -> tuple[nn.Module, ...]:
        return tuple(self.model.get_submodule(part) for part in self.family.text_parts)

    def _part_size(
        self, length: int, n_rows: int, tables: Sequence[Tensor | None], memory: int | None
    ) -> tuple[int, bool]:
        """How many rows to encode at once, and whether to compute them again in the backward pass."""
        if not is_trained(tables, *self._weights_behind_vectors()):
            return max(1, MAX_POSITIONS // length), False
        weight, n_heads = token_embedding(self.model).weight, self.config.num_attention_heads
        per_row = length * self.config.num_hidden_layers * bytes_per_position(weight, 2 * n_heads * length)
        return part_size(per_row, n_rows, memory, self.recomputes, self.device)

    def _weights_behind_vectors(self) -> list[nn.Module]:
        """All modules of the text side that hold weights, but the layer with the prompts."""
        layer = self.model.get_submodule(self.family.embeddings)
        inside = set(layer.modules())
        every = [each for part in self._parts() for each in part.modules()]
        return [each for each in every if each not in inside and not list(each.children())]
