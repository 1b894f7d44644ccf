"""Prompts as the rows of their prefix tree, in tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..prompts import PromptSequences
from ..prompts.tree import Columns, PromptTree, build_tree
from .prepared_prompts import PreparedPrompts
from .text_cache import TextCache
from .tree_attention import KeysAndValues


@dataclass
class Nodes:
    """Nodes of a prompt tree in rows.

    Shapes: R rows, N nodes, S keys that they may attend to.

    Attributes:
        token_ids: `[R, N]`, ids of the tower's vocabulary, 0 where a learnable vector stands.
        vector_rows: `[R, N]`, row in the table of learnable vectors, 0 where a token stands.
        is_learned: `[R, N]`, where a learnable vector stands.
        position_ids: `[R, N]`.
        mask: `[R, 1, N, S]`, True where a node may attend.
        has_vectors: whether `is_learned` is True anywhere.
    """

    token_ids: Tensor
    vector_rows: Tensor
    is_learned: Tensor
    position_ids: Tensor
    mask: Tensor
    has_vectors: bool

    @classmethod
    def of(cls, columns: Columns, vocab_size: int) -> Nodes:
        """Turn one kind of a tree's nodes into tensors."""
        ids = torch.from_numpy(columns.ids)
        is_learned = ids >= vocab_size
        return cls(
            token_ids=ids.masked_fill(is_learned, 0),
            vector_rows=(ids - vocab_size).masked_fill(~is_learned, 0),
            is_learned=is_learned,
            position_ids=torch.from_numpy(columns.position_ids),
            mask=torch.from_numpy(columns.mask)[:, None],
            has_vectors=bool(is_learned.any()),
        )

    def to(self, device: torch.device) -> Nodes:
        """These nodes on `device`."""
        tensors = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "has_vectors"}
        return Nodes(**{name: tensor.to(device) for name, tensor in tensors.items()}, has_vectors=self.has_vectors)


class TreePrompts(PreparedPrompts):
    """C prompts as the rows of their prefix tree.

    Attributes:
        trunk: the nodes that all prompts share, as one row: tokens, and then learnable vectors, wherever they stand.
        n_trunk_vectors: how many of the trunk are learnable vectors.
        frozen: the nodes behind which no learnable vector stands.
        live: the other nodes, among them all leaves.
        leaf_columns: `[R, Q]`, where prompts end in each row; a row with fewer leaves repeats its first column.
        leaves: `[C]`, where each prompt ends among these R*Q.
        frozen_keys: each layer's keys and values of the frozen nodes, where they are kept.
        apart: the same prompts where each has vectors of its own; None where they never have.

    Raises:
        NotImplementedError: if they have, and a class name stands in front of the vectors.
    """

    tensors = ("trunk", "frozen", "live", "leaf_columns", "leaves", "apart")

    @torch.inference_mode(False)  # training may use them later
    def __init__(self, sequences: PromptSequences, tree: PromptTree | None = None):
        super().__init__(sequences)
        tree = tree or build_tree(sequences)
        is_vector = tree.trunk >= sequences.vocab_size
        depth = _tokens_first(is_vector)
        trunk = Columns(tree.trunk[None, depth], depth[None], (depth[:, None] >= depth)[None])
        self.n_trunk_vectors = int(is_vector.sum())
        self.trunk, self.frozen, self.live = (
            Nodes.of(columns, sequences.vocab_size) for columns in (trunk, tree.frozen, tree.live)
        )
        slots, most = _number_within(tree.leaf_rows)
        leaf_columns = np.zeros((len(tree.live.ids), most), dtype=np.int64)
        leaf_columns[tree.leaf_rows, slots] = tree.leaf_columns
        self.leaf_columns = torch.from_numpy(leaf_columns)
        self.leaves = torch.from_numpy(tree.leaf_rows * most + slots)
        self.frozen_keys: TextCache[list[KeysAndValues]] = TextCache()
        self.apart = PromptsApart.of(sequences, self, tree) if sequences.parts else None

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.leaves.device

    def forget(self) -> None:
        """See `PreparedPrompts.forget`: the keys and values that are kept here."""
        self.frozen_keys = TextCache()


@dataclass
class PromptsApart:
    """C prompts behind a layer from which on each has vectors of its own.

    Up to there they share the states of their common beginnings; behind it each is a path of its own, but for what
    stands in front of the vectors.

    Attributes:
        prompts: the prompts, whose table of vectors is `[C*V, D]`.
        of_trunk: `[T]`, where the states of their trunk stand among the shared ones: those of the tokens of the shared
            trunk, and then of all rows' nodes. Of no meaning where a vector stands, as in the next.
        of_rows: `[R, N]`, where those of their rows' nodes stand.
    """

    prompts: TreePrompts
    of_trunk: Tensor
    of_rows: Tensor

    @classmethod
    def of(cls, sequences: PromptSequences, shared: TreePrompts, shared_tree: PromptTree) -> PromptsApart:
        """Lay out the prompts apart.

        Args:
            sequences: the prompts.
            shared: the same, with the states that they share.
            shared_tree: their tree.
        """
        if shared_tree.frozen.ids.size:
            raise NotImplementedError("Vectors of each prompt's own must stand in front of the class names.")
        first, n_vectors = sequences.vocab_size, shared.n_vectors
        ids = tuple(
            tuple(each + number * n_vectors if each >= first else each for each in prompt)
            for number, prompt in enumerate(sequences.ids)
        )
        own_sequences = PromptSequences(ids, first, sequences.pad_token_id)
        own_tree = build_tree(own_sequences)
        n_trunk, rows = own_tree.trunk.size, own_tree.live.ids.shape
        here = _places(own_tree, first, n_trunk)
        there = _places(shared_tree, first, shared_tree.trunk.size - shared.n_trunk_vectors)
        is_token = np.zeros(here.shape, dtype=bool)
        for prompt, row in zip(ids, is_token, strict=True):
            row[: len(prompt)] = np.asarray(prompt) < first
        sources = np.zeros(n_trunk + own_tree.live.ids.size, dtype=np.int64)
        sources[here[is_token]] = there[is_token]
        of_trunk, of_rows = torch.from_numpy(sources[:n_trunk]), torch.from_numpy(sources[n_trunk:]).view(rows)
        return cls(TreePrompts(own_sequences, own_tree), of_trunk, of_rows)

    def to(self, device: torch.device) -> PromptsApart:
        """These prompts on `device`."""
        return PromptsApart(self.prompts.to(device), self.of_trunk.to(device), self.of_rows.to(device))


def _tokens_first(is_vector: np.ndarray) -> np.ndarray:
    """The order in which a trunk's nodes are laid out."""
    return np.argsort(is_vector, kind="stable")


def _places(tree: PromptTree, vocab_size: int, n_before: int) -> np.ndarray:
    """`[C, L]`, where each id of each prompt stands: in the trunk, or behind `n_before` others in the rows."""
    places = n_before + tree.leaf_rows[:, None] * tree.live.ids.shape[1] + tree.path_columns
    places[:, _tokens_first(tree.trunk >= vocab_size)] = np.arange(tree.trunk.size)
    return places


def _number_within(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """For each entry, how many before it have the same row; and the most that any row has."""
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows)
    numbers = np.empty_like(rows)
    numbers[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers, int(counts.max())
