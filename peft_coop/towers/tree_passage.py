"""The hidden states of a tree's nodes on their way through the layers, where some may be replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .tree_attention import KeysAndValues, RowsBehindKeys, TrunksAndRows
from .tree_prompts import Nodes


@dataclass
class Rows:
    """N pairs of a row of nodes and an image, which pass through the tower together.

    Attributes:
        nodes: the rows' nodes.
        row: `[N]`.
        image: `[N]`.
    """

    nodes: Nodes
    row: Tensor
    image: Tensor


@dataclass
class Trunks:
    """The trunk that stands before rows, once for each of their images.

    Attributes:
        nodes: the trunk, as one row.
        n_vectors: how many of its last nodes are learnable vectors.
        images: `[I]`, the images; one where no learnable vector stands in the trunk.
        of_row: `[N]`, which of the I stands before each of the rows.
    """

    nodes: Nodes
    n_vectors: int
    images: Tensor
    of_row: Tensor


class Passage:
    """Rows, and the trunks before them, between two layers.

    Vectors of the trunk that are replaced before the next layer need not be computed in this one, only attended to:
    they stand aside then.

    Args:
        states: `[1, ., D]`, trunks and then rows.
        mask: the rows', as layers take it.
        rows: the rows.
        trees: how a layer's attention reads them: all layers alike, or each behind keys and values of its own.
        trunks: the trunks; None for rows behind keys.
    """

    def __init__(
        self,
        states: Tensor,
        mask: Tensor,
        rows: Rows,
        trees: TrunksAndRows | list[RowsBehindKeys],
        trunks: Trunks | None = None,
    ):
        self.states, self.mask, self.rows, self.trees = states, mask, rows, trees
        self.trunks = trunks if trunks is not None and trunks.n_vectors else None
        self.aside: Tensor | None = None  # [I, A, D]

    def tree(
        self, number: int, keys_of: Callable[[Tensor], KeysAndValues] | None = None
    ) -> TrunksAndRows | RowsBehindKeys:
        """How the attention of a layer reads what is in `states`.

        Args:
            number: the layer's.
            keys_of: its keys and values of hidden states; needed where vectors stand aside.
        """
        if isinstance(self.trees, list):
            return self.trees[number]
        if self.aside is None or keys_of is None:
            return self.trees
        n_queries = self.trees.trunk_mask.shape[-2] - self.aside.shape[1]
        return replace(self.trees, trunk_mask=self.trees.trunk_mask[:, :, :n_queries], aside=keys_of(self.aside))

    def replace(self, table: Tensor | None, are_kept: bool) -> None:
        """Replace the hidden states of learnable vectors before a layer.

        Args:
            table: `[V, D]`, by what; None: they stay.
            are_kept: whether they are read behind the layer, too, and not replaced there.
        """
        if table is not None:
            self._replace_in_rows(table)
        if self.trunks is None or (table is None and are_kept and self.aside is None):
            return
        n_trunks, n_nodes = self.trunks.images.shape[0], self.trunks.nodes.token_ids.shape[1]
        n_tokens = n_nodes - self.trunks.n_vectors
        n_inside = n_nodes if self.aside is None else n_tokens
        first, of_rows = self.states[0, : n_trunks * n_inside], self.states[0, n_trunks * n_inside :]
        of_trunks = first.unflatten(0, (n_trunks, n_inside))
        vectors = of_trunks[:, n_tokens:] if self.aside is None else self.aside
        if table is not None:
            new = table[self.trunks.nodes.vector_rows[0, n_tokens:]]
            vectors = new.to(self.states).expand(n_trunks, -1, -1)
        of_trunks = of_trunks[:, :n_tokens]
        if are_kept:
            of_trunks = torch.cat([of_trunks, vectors], dim=1)
        self.states = torch.cat([of_trunks.flatten(0, 1), of_rows])[None]
        self.aside = None if are_kept else vectors

    def _replace_in_rows(self, table: Tensor) -> None:
        """Replace those that stand behind the trunk."""
        nodes = self.rows.nodes
        if not nodes.has_vectors:
            return
        is_learned = nodes.is_learned[self.rows.row].flatten()
        new = table[nodes.vector_rows[self.rows.row].flatten()].to(self.states)
        before = self.states.shape[1] - is_learned.shape[0]
        of_rows = torch.where(is_learned[:, None], new, self.states[0, before:])
        self.states = torch.cat([self.states[0, :before], of_rows])[None]
