"""Prompts as a prefix tree, laid out in rows that a transformer can read.

A causal tower's hidden state depends only on what stands before it. So prompts that begin alike share those states, and
only the nodes of their prefix tree (one per distinct prefix) need computing. The layout has three kinds of nodes:

- the *trunk*: the prefix that all prompts share, a single path;
- *frozen* nodes: they and all that stands before them are ordinary tokens, so no gradient passes through them;
- *live* nodes: all others, among them every leaf, where a prompt ends and its feature is read.

Frozen and live nodes lie in rows of whole paths. A node attends to the trunk, to its ancestors in its row and to
itself.

Everything here works on integers.

References: computing shared prefixes once, forward and backward, is known from the training of language models: Prefix
Grouper (arXiv:2506.05433) for one prefix of a group, Tree Training (arXiv:2511.00413) and "Prompt Trees: Training-time
Prefix Caching" (Scaled Cognition, 2025) for trees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .sequences import PromptSequences

# Nodes in a row. More nodes repeat less of what the paths of different rows share, and cost more attention.
ROW_SIZE = 128


@dataclass(frozen=True)
class Columns:
    """The frozen or the live nodes of all rows.

    Shapes: R rows, N nodes of the fullest row, S keys: trunk, frozen and then, for live nodes, live ones.

    Attributes:
        ids: `[R, N]`, ids over the extended vocabulary; 0 where the row has no further node.
        position_ids: `[R, N]`, a node's depth.
        mask: `[R, N, S]`, True where the node may attend; what stands for no node attends to itself.
    """

    ids: np.ndarray
    position_ids: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class PromptTree:
    """The prefix tree of C prompts in R rows.

    Attributes:
        trunk: `[T]`, ids of the prefix that all prompts share.
        frozen: the nodes without a gradient.
        live: the other nodes.
        leaf_rows: `[C]`, each prompt's row.
        leaf_columns: `[C]`, where in it, among the live nodes, the prompt ends.
        path_columns: `[C, L]`, where in it each id of the prompt stands, among nodes of its kind, frozen or live; of
            no meaning in the trunk and behind the end.
        n_nodes: nodes of the tree, each counted once.
    """

    trunk: np.ndarray
    frozen: Columns
    live: Columns
    leaf_rows: np.ndarray
    leaf_columns: np.ndarray
    path_columns: np.ndarray
    n_nodes: int

    @property
    def n_computed(self) -> int:
        """Positions that are computed: nodes, those that several rows repeat, and padding."""
        return self.trunk.size + self.frozen.ids.size + self.live.ids.size


def build_tree(sequences: PromptSequences, row_size: int = ROW_SIZE) -> PromptTree:
    """Build the prefix tree of some prompts and lay it out.

    Args:
        sequences: the prompts, in any order, duplicates and prefixes of each other allowed.
        row_size: nodes per row; a longer prompt has a row of its own.
    """
    paths = _Paths(sequences)
    trunk_length = paths.shared_by_all()
    rows = _split_into_rows(paths, trunk_length, row_size)
    return _lay_out(paths, trunk_length, rows)


class _Paths:
    """The prompts in lexicographic order: those that begin alike are neighbours.

    Shapes: C prompts, L ids of the longest.

    Attributes:
        ids: `[C, L]`, -1 after the end.
        lengths: `[C]`.
        shared: `[C]`, how many ids a prompt has in common with the one before it.
        order: `[C]`, which prompt stands at each place.
        learned: `[C, L]`, whether a learnable vector stands there or before.
    """

    def __init__(self, sequences: PromptSequences):
        lengths = np.fromiter(map(len, sequences.ids), dtype=np.int64, count=len(sequences.ids))
        ids = np.full((len(lengths), lengths.max()), -1, dtype=np.int64)
        inside = np.arange(ids.shape[1]) < lengths[:, None]
        ids[inside] = np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in sequences.ids])
        self.order = np.lexsort(ids.T[::-1])
        self.ids = ids[self.order]
        self.lengths = lengths[self.order]
        same = (self.ids[1:] == self.ids[:-1]) & (self.ids[1:] >= 0)
        self.shared = np.concatenate([[0], np.logical_and.accumulate(same, axis=1).sum(axis=1)])
        self.learned = np.logical_or.accumulate(self.ids >= sequences.vocab_size, axis=1)

    def shared_by_all(self) -> int:
        """How many ids all prompts begin with, leaving each at least its last."""
        everywhere = self.shared[1:].min(initial=self.lengths.max())
        return int(min(everywhere, self.lengths.min() - 1))


def _split_into_rows(paths: _Paths, trunk_length: int, row_size: int) -> np.ndarray:
    """The row `[C]` of each path: filled in order, and then with the smallest size that needs no further row."""
    fresh = (paths.lengths - paths.shared).tolist()
    whole = (paths.lengths - trunk_length).tolist()
    largest = max(row_size, *whole)
    rows = _fill(fresh, whole, largest)
    low, high = max(whole), largest
    while low < high:
        middle = (low + high) // 2
        smaller = _fill(fresh, whole, middle)
        if smaller[-1] == rows[-1]:
            rows, high = smaller, middle
        else:
            low = middle + 1
    return np.array(rows)


def _fill(fresh: list[int], whole: list[int], size: int) -> list[int]:
    rows = []
    row, used = -1, size
    for more, all_of_it in zip(fresh, whole, strict=True):
        used += more
        if used > size or row < 0:
            row, used = row + 1, all_of_it
        rows.append(row)
    return rows


def _lay_out(paths: _Paths, trunk_length: int, rows: np.ndarray) -> PromptTree:
    n_cls, longest = paths.ids.shape
    depths = np.arange(longest)
    starts_row = np.diff(rows, prepend=-1) > 0
    begin = np.where(starts_row, trunk_length, paths.shared)
    inside = depths < paths.lengths[:, None]
    is_new = (depths >= begin[:, None]) & inside
    path, depth = np.nonzero(is_new)  # one entry per node of a row, in the order of rows, paths and depths

    # The node at each place of each path: a node that is not new is the one of the path before.
    node = np.zeros((n_cls, longest), dtype=np.int64)
    node[path, depth] = np.arange(len(path))
    node = np.maximum.accumulate(node, axis=0)

    leaves = node[np.arange(n_cls), paths.lengths - 1]
    live = _live_nodes(paths, node, path, depth, leaves, trunk_length)
    row = rows[path]
    n_rows = int(rows[-1]) + 1
    column = np.where(live, _count_within(row, live), _count_within(row, ~live))
    width = {kind: int(column[live == kind].max(initial=-1)) + 1 for kind in (False, True)}
    place = column + np.where(live, width[False], 0)
    mask = _ancestors(
        place, row, depth, node[path, np.maximum(depth - 1, 0)], trunk_length, n_rows, sum(width.values())
    )

    columns = {}
    for kind in (False, True):
        ids, position_ids = np.zeros((2, n_rows, width[kind]), dtype=np.int64)
        chosen = live == kind
        ids[row[chosen], column[chosen]] = paths.ids[path, depth][chosen]
        position_ids[row[chosen], column[chosen]] = depth[chosen]
        columns[kind] = Columns(ids, position_ids, _with_trunk(mask, trunk_length, width[False], kind))
    back = np.argsort(paths.order)
    in_tree = (depths >= np.maximum(paths.shared, trunk_length)[:, None]) & inside
    return PromptTree(
        trunk=paths.ids[0, :trunk_length],
        frozen=columns[False],
        live=columns[True],
        leaf_rows=row[leaves][back],
        leaf_columns=column[leaves][back],
        path_columns=column[node][back],
        n_nodes=trunk_length + int(in_tree.sum()),
    )


def _live_nodes(
    paths: _Paths, node: np.ndarray, path: np.ndarray, depth: np.ndarray, leaves: np.ndarray, trunk_length: int
) -> np.ndarray:
    """Whether each node is live: behind a learnable vector, a leaf, or behind a leaf."""
    live = paths.learned[path, depth]
    if not live.any():
        return np.ones_like(live)  # hand-written prompts have no vector: one kind of nodes is enough
    live[leaves] = True
    along = live[node]
    along[:, :trunk_length] = False
    return np.logical_or.accumulate(along, axis=1)[path, depth]


def _count_within(row: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """For each node, how many chosen ones stand before it in its row."""
    before = np.cumsum(chosen) - chosen
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    return before - before[starts][row]


def _ancestors(
    place: np.ndarray,
    row: np.ndarray,
    depth: np.ndarray,
    parent: np.ndarray,
    trunk_length: int,
    n_rows: int,
    width: int,
) -> np.ndarray:
    """`[R, W, W]`, True where the second place is an ancestor of the first, or itself."""
    mask = np.zeros((n_rows, width, width), dtype=bool)
    mask[:, np.arange(width), np.arange(width)] = True
    for level in range(trunk_length + 1, int(depth.max()) + 1):
        here = np.flatnonzero(depth == level)
        mask[row[here], place[here]] |= mask[row[here], place[parent[here]]]
    return mask


def _with_trunk(mask: np.ndarray, trunk_length: int, n_frozen: int, live: bool) -> np.ndarray:
    part = mask[:, n_frozen:] if live else mask[:, :n_frozen, :n_frozen]
    return np.concatenate([np.ones((*part.shape[:2], trunk_length), dtype=bool), part], axis=2)
