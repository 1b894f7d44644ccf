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
OfBoth = tuple[Tensor, Tensor]  # of trunks, and of rows
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass
class TrunksAndRows:
    """How one layer's attention reads a tree that is packed into one sequence: trunks, and then rows behind them.

    Everything else in a layer works on single positions: packed, its matrix products are as large as they can be.

    Shapes: the sequence holds I trunks of T nodes and then N rows of L nodes; H heads, E width of a head; A nodes of
    each trunk that are not in the sequence.

    Attributes:
        trunk_mask: `[1, 1, T, T + A]`, as the attention in use takes it.
        n_trunks: I.
        trunk_of_row: `[N]`, which trunk stands before each row; not read where there is one trunk.
        aside: keys and values `[I, H, A, E]` of the nodes that are only attended to; None for none.
    """

    trunk_mask: Tensor
    n_trunks: int
    trunk_of_row: Tensor
    aside: KeysAndValues | None = None

    def seen_by_rows(self, key: Tensor, value: Tensor, n_rows: int) -> KeysAndValues:
        """Of the sequence's keys and values `[1, H, ., E]` those that rows attend to, each `[N, H, T + L, E]`."""
        keys, values = self._with_aside(self._split(key, n_rows), self._split(value, n_rows))
        return self._behind_trunks(*keys), self._behind_trunks(*values)

    def attend(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The packed output `[1, ., H, E]`.

        Args:
            attend: maps queries, keys, values `[., H, ., E]` and a mask to an output `[., ., H, E]`.
            query: `[1, H, ., E]`.
            key: as `query`.
            value: as `query`.
            mask: `[N, 1, L, T + A + L]`, as the attention in use takes it.
        """
        queries, keys, values = (self._split(each, mask.shape[0]) for each in (query, key, value))
        keys, values = self._with_aside(keys, values)
        of_trunks = attend(queries[0], keys[0], values[0], self.trunk_mask)
        of_rows = attend(queries[1], self._behind_trunks(*keys), self._behind_trunks(*values), mask)
        return torch.cat([of_trunks.flatten(0, 1), of_rows.flatten(0, 1)])[None]

    def _with_aside(self, keys: OfBoth, values: OfBoth) -> tuple[OfBoth, OfBoth]:
        """Keys, and likewise values, of trunks and of rows, with those of the nodes aside at the trunks' ends."""
        if self.aside is None:
            return keys, values
        key, value = self.aside
        return (torch.cat([keys[0], key], dim=2), keys[1]), (torch.cat([values[0], value], dim=2), values[1])

    def _behind_trunks(self, of_trunks: Tensor, of_rows: Tensor) -> Tensor:
        """Of `[I, H, T, E]` and `[N, H, L, E]` each row behind its trunk, `[N, H, T + L, E]`."""
        n_rows, is_one = of_rows.shape[0], self.n_trunks == 1
        one_each = of_trunks.expand(n_rows, -1, -1, -1) if is_one else of_trunks[self.trunk_of_row]
        return torch.cat([one_each, of_rows], dim=2)

    def _split(self, packed: Tensor, n_rows: int) -> OfBoth:
        """Of `[1, H, ., E]` the trunks' `[I, H, T, E]` and the rows' `[N, H, L, E]`.

        The trunks are copied: kept for the backward pass, a view would keep all of `packed`.
        """
        first = self.n_trunks * self.trunk_mask.shape[-2]
        return _cut(packed[:, :, :first], self.n_trunks).clone(), _cut(packed[:, :, first:], n_rows)


@dataclass
class RowsBehindKeys:
    """How it reads rows alone, behind keys and values that were computed before.

    Shapes: N rows of L nodes, S keys before each; H heads, E width of a head.

    Attributes:
        keys: `[N, H, S, E]`.
        values: `[N, H, S, E]`.
    """

    keys: Tensor
    values: Tensor

    def attend(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The packed output, see `TrunksAndRows.attend`; the mask is `[N, 1, L, S + L]`."""
        keys, values = self.seen_by_rows(key, value, mask.shape[0])
        return attend(_cut(query, mask.shape[0]), keys, values, mask).flatten(0, 1)[None]

    def seen_by_rows(self, key: Tensor, value: Tensor, n_rows: int) -> KeysAndValues:
        """All that rows attend to, each `[N, H, S + L, E]`."""
        keys = torch.cat([self.keys, _cut(key, n_rows)], dim=2)
        return keys, torch.cat([self.values, _cut(value, n_rows)], dim=2)


@dataclass
class LeavesOnly:
    """How the last layer reads what is wanted of it: the queries are those of each row's Q leaves.

    Attributes:
        keys: `[N, H, S, E]`, of all that a row attends to.
        values: `[N, H, S, E]`.
    """

    keys: Tensor
    values: Tensor

    def attend(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The packed output, see `TrunksAndRows.attend`; the mask is `[N, 1, Q, S]`, `key` and `value` are not read."""
        return attend(_cut(query, mask.shape[0]), self.keys, self.values, mask).flatten(0, 1)[None]


PackedTree = TrunksAndRows | RowsBehindKeys | LeavesOnly


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
    tree: PackedTree | None = None,
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
