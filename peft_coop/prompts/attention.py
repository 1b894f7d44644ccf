"""Attention along a prompt tree's paths: how a text tower's own layers read it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "prompt_tree"
KeysAndValues = tuple[Tensor, Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass
class TreeRows:
    """How one layer's attention reads a tree whose nodes are packed into one sequence.

    Everything else in a layer works on single positions: packed, its matrix products are as large as they can be.

    Shapes: the sequence holds I trunks of T nodes and then P rows of L nodes, or Q leaves each; H heads, S keys before
    a row's own, E width of a head.

    Attributes:
        n_trunks: I; 0 where `outside` stands before the rows.
        trunk_mask: `[1, 1, T, T]`, as the attention in use takes it.
        trunk_of_row: `[P]`, which trunk stands before each row; not read where there is one trunk or none.
        outside: keys and values that stand before each row where the sequence has no trunk, each `[P, H, S, E]`.
        kept: if not None, what the rows attend to, before them and their own, is appended here.
        own: if not None, the sequence's keys and values; the queries are then those of the rows' leaves only.
    """

    n_trunks: int
    trunk_mask: Tensor
    trunk_of_row: Tensor
    outside: KeysAndValues | None = None
    kept: list[KeysAndValues] | None = None
    own: KeysAndValues | None = None

    def attend(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The packed output `[1, N, H, E]`.

        Args:
            attend: maps queries, keys, values `[., H, ., E]` and a mask to an output `[., ., H, E]`.
            query: `[1, H, N, E]`.
            key: as `query`.
            value: as `query`.
            mask: `[P, 1, L or Q, S + L]`, as the attention in use takes it.
        """
        key, value = self.own or (key, value)
        n_rows = len(mask)
        trunk_keys, row_keys = self._split(key, n_rows)
        trunk_values, row_values = self._split(value, n_rows)
        before = self.outside or (self._for_rows(trunk_keys, n_rows), self._for_rows(trunk_values, n_rows))
        row_keys, row_values = torch.cat([before[0], row_keys], dim=2), torch.cat([before[1], row_values], dim=2)
        if self.kept is not None:
            self.kept.append((row_keys, row_values))
        if self.own is not None or not self.n_trunks:
            return attend(_cut(query, n_rows), row_keys, row_values, mask).flatten(0, 1)[None]
        trunk_queries, row_queries = self._split(query, n_rows)
        of_trunks = attend(trunk_queries, trunk_keys, trunk_values, self.trunk_mask).flatten(0, 1)
        of_rows = attend(row_queries, row_keys, row_values, mask).flatten(0, 1)
        return torch.cat([of_trunks, of_rows])[None]

    def _split(self, packed: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
        """Of `[1, H, N, E]` the trunks' `[I, H, T, E]` and the rows' `[P, H, L, E]`.

        The trunks are copied: kept for the backward pass, a view would keep all of `packed`.
        """
        first = self.n_trunks * self.trunk_mask.shape[-1]
        return _cut(packed[:, :, :first], self.n_trunks).clone(), _cut(packed[:, :, first:], n_rows)

    def _for_rows(self, of_trunks: Tensor, n_rows: int) -> Tensor:
        """Of `[I, H, T, E]` what stands before each row, `[P, H, T, E]`."""
        return of_trunks.expand(n_rows, -1, -1, -1) if self.n_trunks == 1 else of_trunks[self.trunk_of_row]


def _cut(packed: Tensor, count: int) -> Tensor:
    """Cut a packed sequence `[1, H, count * L, E]` into `[count, H, L, E]`."""
    return packed[0].unflatten(1, (count, packed.shape[2] // max(count, 1))).transpose(0, 1)


class TreeAttentionConfig:
    """A text tower's config as its attention modules see it: all as it is, but the attention's name is ours.

    Args:
        config: the tower's own config, whose attention implementation does the work.
    """

    _attn_implementation = NAME

    def __init__(self, config: Any):
        self.config = config

    def __getattr__(self, name: str) -> Any:
        if name == "config":
            raise AttributeError(name)
        return getattr(self.config, name)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    tree: TreeRows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as the tower's config says: over the packed nodes of a tree, or plainly without `tree`."""
    implementation = module.config.config._attn_implementation
    if tree is not None and implementation != "eager":
        implementation = "sdpa"  # the flash kernels take no mask of one's own
    if implementation == "eager":
        attend = sys.modules[type(module).__module__].eager_attention_forward
    else:
        attend = ALL_ATTENTION_FUNCTIONS[implementation]
        if implementation != "sdpa":  # the flash kernels read the implementation from the module's config
            module = copy(module)
            module.config = module.config.config
    if tree is None:
        return attend(module, query, key, value, attention_mask, **kwargs)
    return tree.attend(lambda *inputs: attend(module, *inputs, **kwargs)[0], query, key, value, attention_mask), None


ALL_ATTENTION_FUNCTIONS.register(NAME, tree_attention)
