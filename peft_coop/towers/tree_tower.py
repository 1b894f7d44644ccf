"""Causal text towers, whose prompts share the hidden states of their common beginnings.

What is computed are the nodes of the prompts' prefix tree (`prompts/tree.py`), by the tower's own layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from ..prompts import PromptSequences
from .families import Family
from .prepared_prompts import NO_DEEP_VECTORS, DeepVectors, one_table
from .quick_gelu import LeanQuickGELU
from .text_cache import TextState, text_state
from .text_memory import MAX_POSITIONS, bytes_per_position, in_parts, is_trained, part_size
from .tree_attention import KeysAndValues, LeavesOnly, RowsBehindKeys, TreeAttentionConfig, TrunksAndRows
from .tree_passage import Passage, Rows, Trunks
from .tree_prompts import Nodes, TreePrompts

# Bytes of keys and values of frozen nodes that are kept from one step to the next.
KEPT_KEYS = 2**28


class TreeTower:
    """A causal text tower with CLIP's layers; see `TextTower` for what it answers.

    Args:
        model: the dual encoder.
        family: where its parts are.
    """

    def __init__(self, model: nn.Module, family: Family):
        self.model = model
        text_model = model.text_model
        self.embeddings = text_model.embeddings
        self.layers = text_model.encoder.layers
        self.final_layer_norm = text_model.final_layer_norm
        self.projection = model.text_projection
        self.is_eager = text_model.config._attn_implementation == "eager"
        self.n_heads = text_model.config.num_attention_heads
        self.recomputes = model.training and any(layer.gradient_checkpointing for layer in self.layers)

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return self.embeddings.token_embedding.weight.device

    def install(self) -> None:
        """Let the layers read packed trees, and keep less for the backward pass; a no-op if they do."""
        for layer in self.layers:
            if not isinstance(layer.self_attn.config, TreeAttentionConfig):
                layer.self_attn.config = TreeAttentionConfig(layer.self_attn.config)
            if isinstance(layer.mlp.activation_fn, QuickGELUActivation):
                layer.mlp.activation_fn = LeanQuickGELU(layer.mlp.activation_fn)

    def remove(self) -> None:
        """Undo `install`."""
        for layer in self.layers:
            if isinstance(layer.self_attn.config, TreeAttentionConfig):
                layer.self_attn.config = layer.self_attn.config.config
            if isinstance(layer.mlp.activation_fn, LeanQuickGELU):
                layer.mlp.activation_fn = layer.mlp.activation_fn.original

    @property
    def is_installed(self) -> bool:
        """Whether the layers read packed trees."""
        return isinstance(self.layers[0].self_attn.config, TreeAttentionConfig)

    def prepare(self, sequences: PromptSequences) -> TreePrompts:
        """Lay out the prefix tree of some prompts, once for all calls of `encode`."""
        return TreePrompts(sequences)

    def state(self) -> TextState | None:
        """What every encoded prompt depends on; None where nothing may be kept, see `text_state`."""
        embeddings = self.embeddings.token_embedding, self.embeddings.position_embedding
        return text_state((*embeddings, self.layers, self.final_layer_norm, self.projection), self.device)

    def encode(
        self,
        prompts: TreePrompts,
        vectors: Tensor | None = None,
        memory: int | None = None,
        deep: DeepVectors = NO_DEEP_VECTORS,
    ) -> Tensor:
        """Text features, see `TextTower.encode`."""
        prompts.check_vectors(vectors, deep, len(self.layers))
        prompts = prompts.to(self.device)
        per_image = vectors is not None and vectors.ndim == 3
        table = vectors if vectors is None or per_image else vectors[None]  # [B, V, D] or [1, V, D]
        if any(each.ndim == 3 for each in deep.values()):
            prompts, states = self._encode_apart(prompts, table, deep, memory)
        else:
            states = self._encode_live(prompts, table, deep, memory)  # [B, R*Q, D]
        features = self.projection(self.final_layer_norm(states[:, prompts.leaves]))
        return features if per_image else features[0]

    def _encode_live(self, prompts: TreePrompts, table: Tensor | None, deep: DeepVectors, memory: int | None) -> Tensor:
        """Hidden states `[B, R*Q, D]` of all rows' leaves: the rows of all images in one batch, or in parts."""
        n_images = 1 if table is None else table.shape[0]
        n_rows = len(prompts.live.token_ids)
        rows = torch.arange(n_rows, device=self.device)
        images = torch.arange(n_images, device=self.device)
        has_frozen = prompts.frozen.token_ids.numel() > 0  # the trunk is frozen then, too, and read once with them
        frozen: list[KeysAndValues] = []
        if has_frozen:
            before = Trunks(prompts.trunk, 0, images[:1], rows)
            frozen = prompts.frozen_keys.get(
                self.state(),
                lambda: self._keys(Rows(prompts.frozen, rows, torch.zeros_like(rows)), before),
                worth_keeping=_is_small,
            )
        every_row, every_image = rows.repeat(n_images), images.repeat_interleave(n_rows)

        def encode(start: int, stop: int) -> Tensor:
            part = Rows(prompts.live, every_row[start:stop], every_image[start:stop])
            leaves = prompts.leaf_columns[part.row]
            if has_frozen:
                return self.run(part, [(key[part.row], value[part.row]) for key, value in frozen], table, deep, leaves)
            first, last = (start // n_rows, (stop - 1) // n_rows) if prompts.trunk.has_vectors else (0, 0)
            before = Trunks(prompts.trunk, prompts.n_trunk_vectors, images[first : last + 1], part.image - first)
            return self.run(part, before, table, deep, leaves)

        tables = (table, *deep.values())
        parts = self._in_parts(encode, prompts.live, n_images, tables, memory)
        return torch.cat(parts).reshape(n_images, n_rows * prompts.leaf_columns.shape[1], -1)

    def _encode_apart(
        self, prompts: TreePrompts, table: Tensor | None, deep: DeepVectors, memory: int | None
    ) -> tuple[TreePrompts, Tensor]:
        """The prompts apart, and the hidden states `[1, R*Q, D]` of their rows' leaves.

        What the prompts share is computed up to the first layer where each has vectors of its own, and then goes on in
        each prompt for itself.
        """
        apart = prompts.apart
        if apart is None:
            raise ValueError(
                "Each prompt has vectors of its own, which its `PromptSequences` do not say: `parts=True`."
            )
        first = min(layer for layer, each in deep.items() if each.ndim == 3)
        image = torch.zeros(1, dtype=torch.long, device=self.device)

        def share(start: int, stop: int) -> Tensor:
            row = torch.arange(start, stop, device=self.device)
            before = Trunks(prompts.trunk, prompts.n_trunk_vectors, image, torch.zeros_like(row))
            passage = self._start(Rows(prompts.live, row, torch.zeros_like(row)), before, table)
            with self._without_checkpointing():
                self._pass(passage, first, deep)
            return passage.states[0]

        n_tokens = prompts.trunk.token_ids.shape[1] - prompts.n_trunk_vectors
        parts = self._in_parts(share, prompts.live, 1, (table, *deep.values()), memory)
        shared = torch.cat([parts[0][:n_tokens], *(part[n_tokens:] for part in parts)])
        of_own = {layer: one_table(each, prompts.n_prompts) for layer, each in deep.items() if layer >= first}
        own = apart.prompts

        def go_on(start: int, stop: int) -> Tensor:
            row = torch.arange(start, stop, device=self.device)
            rows = Rows(own.live, row, torch.zeros_like(row))
            before = Trunks(own.trunk, own.n_trunk_vectors, image, torch.zeros_like(row))
            states = torch.cat([shared[apart.of_trunk], shared[apart.of_rows[row]].flatten(0, 1)])[None]
            return self._to_leaves(self._passage(states, rows, before), first, of_own, own.leaf_columns[row])

        parts = self._in_parts(go_on, own.live, 1, (shared, *of_own.values()), memory)
        return own, torch.cat(parts).flatten(0, 1)[None]

    def _in_parts(
        self,
        encode: Callable[[int, int], Tensor],
        nodes: Nodes,
        n_images: int,
        tables: Sequence[Tensor | None],
        memory: int | None,
    ) -> list[Tensor]:
        """What `encode` makes of the rows from a first to a last one, of all rows at once or in parts."""
        size, again = self._part_size(nodes, n_images, tables, memory)
        return in_parts(encode, n_images * len(nodes.token_ids), size, again)

    def run(
        self,
        rows: Rows,
        before: Trunks | list[KeysAndValues],
        table: Tensor | None,
        deep: DeepVectors,
        leaf_columns: Tensor,
    ) -> Tensor:
        """Hidden states `[N, Q, D]` of rows' leaves behind the last layer.

        Args:
            rows: N pairs of a row and an image.
            before: what stands before them: trunks, which are computed with them, or each layer's keys and values.
            table: `[B, V, D]` or `[1, V, D]`, the learnable vectors.
            deep: what stands in their hidden states' place before some layers.
            leaf_columns: `[N, Q]`, the nodes whose states are wanted; the last layer computes no other.
        """
        return self._to_leaves(self._start(rows, before, table), 0, deep, leaf_columns)

    def _to_leaves(self, passage: Passage, first: int, deep: DeepVectors, leaf_columns: Tensor) -> Tensor:
        """Hidden states `[N, Q, D]` of rows' leaves behind the last layer, of rows in front of the layer `first`."""
        n_rows, length = passage.rows.row.shape[0], passage.rows.nodes.token_ids.shape[1]
        last = len(self.layers) - 1
        with self._without_checkpointing():
            self._pass(passage, last, deep, first)
            passage.replace(deep.get(last), are_kept=True)
            states, tree = passage.states, passage.tree(last)
            keys_and_values = tree.seen_by_rows(*self._keys_of(self.layers[last], states), n_rows)
            of_rows = states[0, states.shape[1] - n_rows * length :].unflatten(0, (n_rows, length))
            leaves = _at(of_rows, leaf_columns).flatten(0, 1)[None]
            mask = _at(passage.mask[:, 0], leaf_columns)[:, None]
            states = self.layers[last](leaves, mask, tree=LeavesOnly(*keys_and_values))
        return states[0].unflatten(0, leaf_columns.shape)

    def _pass(self, passage: Passage, until: int, deep: DeepVectors, first: int = 0) -> None:
        """Take rows through the layers from `first` on, up to and without `until`."""
        for number in range(first, until):
            layer = self.layers[number]
            passage.replace(deep.get(number), are_kept=number + 1 not in deep)
            tree = passage.tree(number, partial(self._keys_of, layer))
            passage.states = layer(passage.states, passage.mask, tree=tree)

    def _keys(self, rows: Rows, before: Trunks) -> list[KeysAndValues]:
        """Each layer's keys and values of trunks and rows, none of them learnable, for others to attend to."""
        passage = self._start(rows, before, None)
        kept = []
        with self._without_checkpointing():
            for number, layer in enumerate(self.layers):
                tree = passage.tree(number)
                kept.append(tree.seen_by_rows(*self._keys_of(layer, passage.states), rows.row.shape[0]))
                passage.states = layer(passage.states, passage.mask, tree=tree)
        return kept

    def _start(self, rows: Rows, before: Trunks | list[KeysAndValues], table: Tensor | None) -> Passage:
        """Rows, and trunks before them, as the first layer reads them."""
        states = self._embed(rows, table).flatten(0, 1)[None]
        if isinstance(before, list):
            mask = self._as_layers_take_it(rows.nodes.mask[rows.row], states.dtype)
            return Passage(states, mask, rows, [RowsBehindKeys(*each) for each in before])
        trunks = Rows(before.nodes, torch.zeros_like(before.images), before.images)
        return self._passage(torch.cat([self._embed(trunks, table).flatten(0, 1)[None], states], dim=1), rows, before)

    def _passage(self, states: Tensor, rows: Rows, before: Trunks) -> Passage:
        """Hidden states `[1, ., D]` of trunks and the rows behind them, as layers take them."""
        mask = self._as_layers_take_it(rows.nodes.mask[rows.row], states.dtype)
        trunk_mask = self._as_layers_take_it(before.nodes.mask, states.dtype)
        return Passage(states, mask, rows, TrunksAndRows(trunk_mask, before.images.shape[0], before.of_row), before)

    def _embed(self, rows: Rows, table: Tensor | None) -> Tensor:
        """Hidden states `[N, L, D]` before the first layer."""
        nodes = rows.nodes
        states = self.embeddings.token_embedding(nodes.token_ids[rows.row])
        if nodes.has_vectors and table is not None:
            index = nodes.vector_rows[rows.row]
            learned = table[0][index] if table.shape[0] == 1 else table[rows.image[:, None], index]
            states = torch.where(nodes.is_learned[rows.row][..., None], learned.to(states), states)
        return states + self.embeddings.position_embedding(nodes.position_ids[rows.row])

    @staticmethod
    def _keys_of(layer: nn.Module, states: Tensor) -> KeysAndValues:
        """The keys and values `[N, H, L, E]` that a layer's attention makes of hidden states `[N, L, D]`."""
        attention = layer.self_attn
        normed = layer.layer_norm1(states)
        key, value = (
            projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.k_proj, attention.v_proj)
        )
        return key, value

    @contextmanager
    def _without_checkpointing(self) -> Iterator[None]:
        """Switch off the layers' own gradient checkpointing: here whole parts are computed again, with their keys.

        Re-entrant checkpointing of a layer would not see that gradients pass through the keys.
        """
        switched = [layer for layer in self.layers if layer.gradient_checkpointing] if self.recomputes else []
        for layer in switched:
            layer.gradient_checkpointing = False
        try:
            yield
        finally:
            for layer in switched:
                layer.gradient_checkpointing = True

    def _as_layers_take_it(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The mask as the attention in use wants it: eager attention adds it to the scores."""
        if not self.is_eager:
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def _part_size(
        self, nodes: Nodes, n_images: int, tables: Sequence[Tensor | None], memory: int | None
    ) -> tuple[int, bool]:
        """How many rows to encode at once, and whether to compute them again in the backward pass."""
        n_rows, length = nodes.token_ids.shape
        if not is_trained(tables, self.layers, self.final_layer_norm, self.projection):
            return max(1, MAX_POSITIONS // length), False
        weight = self.embeddings.token_embedding.weight
        more = 2 * self.n_heads * nodes.mask.shape[-1] if self.is_eager else 0
        per_row = length * len(self.layers) * bytes_per_position(weight, more)
        return part_size(per_row, n_rows * n_images, memory, self.recomputes, self.device)


def _is_small(keys: list[KeysAndValues]) -> bool:
    """Whether the keys and values of the frozen nodes are worth their memory."""
    return sum(2 * key.nbytes for key, _ in keys) <= KEPT_KEYS


def _at(values: Tensor, columns: Tensor) -> Tensor:
    """Of `[N, L, W]` the `[N, Q, W]` at some columns `[N, Q]`."""
    return values.gather(1, columns[..., None].expand(-1, -1, values.shape[-1]))
