"""Sequences over the extended vocabulary and learnable vectors, to text features.

The towers are causal, so prompts share the hidden states of their common beginnings: what is computed are the nodes of
the prompts' prefix tree (`tree.py`), by the tower's own layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import KeysAndValues, TreeRows
from .cache import TextCache, TextState, text_state
from .layout import PromptSequences
from .towers import TextTowerFamily
from .tree import Columns, build_tree

# Positions encoded at once where no gradient is needed.
MAX_POSITIONS = 32768
# Numbers that a layer keeps for the backward pass, per position and unit of width.
KEPT_PER_UNIT = 16
# Bytes that the text side may keep for the backward pass before it computes them again; on a GPU, this share of it.
CPU_MEMORY = 2 * 2**30
GPU_SHARE = 1 / 4
# Bytes of keys and values of frozen nodes that are kept from one step to the next.
KEPT_KEYS = 2**28
# In how many parts the rows are recomputed where gradient checkpointing is switched on.
CHECKPOINTED_PARTS = 8


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


class PromptTensors:
    """C prompts as the rows of their prefix tree.

    Attributes:
        trunk: the nodes that all prompts share, as one row.
        frozen: the nodes behind which no learnable vector stands.
        live: the other nodes, among them all leaves.
        leaf_columns: `[R, Q]`, where prompts end in each row; a row with fewer leaves repeats its first column.
        leaves: `[C]`, where each prompt ends among these R*Q.
    """

    @torch.inference_mode(False)  # training may use them later
    def __init__(self, sequences: PromptSequences):
        tree = build_tree(sequences)
        depth = np.arange(tree.trunk.size)
        trunk = Columns(tree.trunk[None], depth[None], (depth[:, None] >= depth)[None])
        self.trunk, self.frozen, self.live = (
            Nodes.of(columns, sequences.vocab_size) for columns in (trunk, tree.frozen, tree.live)
        )
        slots, most = _number_within(tree.leaf_rows)
        leaf_columns = np.zeros((len(tree.live.ids), most), dtype=np.int64)
        leaf_columns[tree.leaf_rows, slots] = tree.leaf_columns
        self.leaf_columns = torch.from_numpy(leaf_columns)
        self.leaves = torch.from_numpy(tree.leaf_rows * most + slots)
        self._copies: dict[torch.device, PromptTensors] = {}
        self.frozen_keys: TextCache[list[KeysAndValues]] = TextCache()

    def clear(self) -> None:
        """Forget the keys and values that are kept, on every device."""
        self.frozen_keys.clear()
        for other in self._copies.values():
            other.clear()

    def to(self, device: torch.device) -> PromptTensors:
        """These prompts on `device`: themselves, or a copy that is made once and kept.

        They stay where they are, since replicas of the model on other devices read them at the same time.
        """
        if self.leaves.device == device:
            return self
        if device not in self._copies:
            other = copy(self)
            other.frozen_keys = TextCache()
            with torch.inference_mode(False):  # training may use them later
                for name in ("trunk", "frozen", "live", "leaf_columns", "leaves"):
                    setattr(other, name, getattr(self, name).to(device))
            self._copies[device] = other
        return self._copies[device]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_copies": {}}  # copies and pickles start without


def encode_prompts(
    model: nn.Module,
    family: TextTowerFamily,
    prompts: PromptTensors,
    vectors: Tensor | None = None,
    memory: int | None = None,
) -> Tensor:
    """Encode prompts with the text tower of a dual encoder.

    Shapes: C prompts, V learnable vectors, D text width, P projection width, B images.

    Args:
        model: the dual encoder; its tower's layers read packed trees, see `install_text_side`.
        family: where its parts are.
        prompts: the prompts, on any device.
        vectors: `[V, D]`, or `[B, V, D]` for one set per image; None where no prompt has a learnable vector.
        memory: bytes that may be kept for the backward pass; what exceeds them is computed again there, in parts. None:
            2 GiB, or a quarter of a GPU's memory.

    Returns:
        Text features, projected and not normalised: `[C, P]`, or `[B, C, P]` for one set per image.
    """
    tower = _Tower(model, family)
    prompts = prompts.to(tower.device)
    per_image = vectors is not None and vectors.ndim == 3
    table = vectors if vectors is None or per_image else vectors[None]  # [B, V, D] or [1, V, D]
    states = _encode_live(tower, prompts, table, memory)  # [B, R*Q, D]
    features = tower.project(states[:, prompts.leaves])
    return features if per_image else features[0]


def _encode_live(tower: _Tower, prompts: PromptTensors, table: Tensor | None, memory: int | None) -> Tensor:
    """Hidden states `[B, R*Q, D]` of all rows' leaves: the rows of all images in one batch, or in parts."""
    n_images = 1 if table is None else len(table)
    n_rows = len(prompts.live.token_ids)
    rows = torch.arange(n_rows, device=tower.device)
    images = torch.arange(n_images, device=tower.device)
    has_frozen = prompts.frozen.token_ids.numel() > 0  # the trunk is frozen then, too, and read once with them
    frozen: list[KeysAndValues] = []
    if has_frozen:
        trunk_of_rows = Trunk(prompts.trunk, images[:1], rows)
        frozen = prompts.frozen_keys.get(
            tower.state(), lambda: tower.keys(prompts.frozen, rows, trunk_of_rows), worth_keeping=_is_small
        )
    every_row, every_image = rows.repeat(n_images), images.repeat_interleave(n_rows)

    def encode(start: int, stop: int) -> Tensor:
        row, image = every_row[start:stop], every_image[start:stop]
        leaves = prompts.leaf_columns[row]
        if has_frozen:
            outside = [(key[row], value[row]) for key, value in frozen]
            return tower.run(prompts.live, table, row, image, outside=outside, leaf_columns=leaves)
        first, last = (start // n_rows, (stop - 1) // n_rows) if prompts.trunk.has_vectors else (0, 0)
        trunk = Trunk(prompts.trunk, images[first : last + 1], image - first)
        return tower.run(prompts.live, table, row, image, trunk, leaf_columns=leaves)

    size, again = tower.part_size(prompts.live, n_images, table, memory)
    parts = []
    for start in range(0, n_images * n_rows, size):
        stop = min(start + size, n_images * n_rows)
        parts.append(checkpoint(encode, start, stop, use_reentrant=False) if again else encode(start, stop))
    states = parts[0] if len(parts) == 1 else torch.cat(parts)
    return states.reshape(n_images, n_rows * prompts.leaf_columns.shape[1], -1)


def state_of_text_side(model: nn.Module, family: TextTowerFamily) -> TextState | None:
    """What the features of a dual encoder's prompts depend on beside their ids and vectors, see `text_state`."""
    return _Tower(model, family).state()


def default_memory(device: torch.device) -> int:
    """Bytes that may be kept for the backward pass where nobody has said."""
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return CPU_MEMORY


def _is_small(keys: list[KeysAndValues]) -> bool:
    """Whether the keys and values of the frozen nodes are worth their memory."""
    return sum(2 * key.nbytes for key, _ in keys) <= KEPT_KEYS


def _number_within(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """For each entry, how many before it have the same row; and the most that any row has."""
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows)
    numbers = np.empty_like(rows)
    numbers[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers, int(counts.max())


def _at(values: Tensor, columns: Tensor) -> Tensor:
    """Of `[N, L, W]` the `[N, Q, W]` at some columns `[N, Q]`."""
    return values.gather(1, columns[..., None].expand(-1, -1, values.shape[-1]))


@dataclass
class Trunk:
    """The trunk of some rows, once for each of their images.

    Attributes:
        nodes: the trunk, as one row.
        images: `[I]`, the images; one where no learnable vector stands in the trunk.
        of_row: `[N]`, which of the I stands before each row.
    """

    nodes: Nodes
    images: Tensor
    of_row: Tensor


class _Tower:
    """The parts of a text tower, and the passes over them. The one place that reaches inside one."""

    def __init__(self, model: nn.Module, family: TextTowerFamily):
        text_model = getattr(model, family.text_model)
        self.embeddings = getattr(text_model, family.embeddings)
        self.layers = text_model.encoder.layers
        self.final_layer_norm = text_model.final_layer_norm
        self.projection = getattr(model, family.text_projection)
        self.is_eager = text_model.config._attn_implementation == "eager"
        self.n_heads = text_model.config.num_attention_heads
        self.recomputes = text_model.training and any(layer.gradient_checkpointing for layer in self.layers)

    @property
    def device(self) -> torch.device:
        return self.embeddings.token_embedding.weight.device

    def state(self) -> TextState | None:
        """What every encoded prompt depends on; None where nothing may be kept, see `text_state`."""
        embeddings = self.embeddings.token_embedding, self.embeddings.position_embedding
        return text_state((*embeddings, self.layers, self.final_layer_norm, self.projection), self.device)

    def weights(self) -> Iterator[nn.Parameter]:
        """All weights behind the embeddings, those of adapters among them."""
        for part in (*self.layers, self.final_layer_norm, self.projection):
            yield from part.parameters()

    def embed(self, nodes: Nodes, table: Tensor | None, rows: Tensor, images: Tensor) -> Tensor:
        """Hidden states `[N, L, D]` before the first layer, of N pairs of a row and an image."""
        states = self.embeddings.token_embedding(nodes.token_ids[rows])
        if nodes.has_vectors and table is not None:
            index = nodes.vector_rows[rows]
            learned = table[0][index] if len(table) == 1 else table[images[:, None], index]
            states = torch.where(nodes.is_learned[rows][..., None], learned.to(states), states)
        return states + self.embeddings.position_embedding(nodes.position_ids[rows])

    def run(
        self,
        nodes: Nodes,
        table: Tensor | None,
        rows: Tensor,
        images: Tensor,
        trunk: Trunk | None = None,
        outside: Sequence[KeysAndValues] = (),
        kept: list[KeysAndValues] | None = None,
        leaf_columns: Tensor | None = None,
    ) -> Tensor:
        """Hidden states behind the last layer, of N pairs of a row and an image: `[N, Q, D]` of leaves, or packed.

        Args:
            nodes: the nodes.
            table: `[B, V, D]` or `[1, V, D]`, the learnable vectors.
            rows: `[N]`.
            images: `[N]`.
            trunk: what stands before the rows, computed with them; or None, and `outside` is given.
            outside: each layer's keys and values that stand before the rows.
            kept: each layer's keys and values of the rows, and of what stands before them, are appended here.
            leaf_columns: `[N, Q]`, the nodes whose states are wanted; the last layer computes no other.
        """
        states = self.embed(nodes, table, rows, images)
        n_rows, length = states.shape[:2]
        states = states.flatten(0, 1)[None]
        mask = self.as_layers_take_it(nodes.mask[rows], states.dtype)
        n_trunks, trunk_mask, trunk_of_row = 0, mask[:0, :, :0, :0], rows[:0]
        if trunk is not None:
            n_trunks, trunk_of_row = len(trunk.images), trunk.of_row
            trunk_states = self.embed(trunk.nodes, table, torch.zeros_like(trunk.images), trunk.images)
            states = torch.cat([trunk_states.flatten(0, 1)[None], states], dim=1)
            trunk_mask = self.as_layers_take_it(trunk.nodes.mask, states.dtype)
        with self.without_checkpointing():
            for index, layer in enumerate(self.layers):
                tree = TreeRows(n_trunks, trunk_mask, trunk_of_row, outside[index] if outside else None, kept)
                if leaf_columns is not None and index == len(self.layers) - 1:
                    tree.own = self.keys_of(layer, states)
                    of_rows = states[0, states.shape[1] - n_rows * length :].unflatten(0, (n_rows, length))
                    states = _at(of_rows, leaf_columns).flatten(0, 1)[None]
                    mask = _at(mask[:, 0], leaf_columns)[:, None]
                states = layer(states, mask, tree=tree)
        return states if leaf_columns is None else states[0].unflatten(0, leaf_columns.shape)

    @staticmethod
    def keys_of(layer: nn.Module, states: Tensor) -> KeysAndValues:
        """The keys and values `[N, H, L, E]` that a layer's attention makes of hidden states `[N, L, D]`."""
        attention = layer.self_attn
        normed = layer.layer_norm1(states)
        key, value = (
            projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.k_proj, attention.v_proj)
        )
        return key, value

    @contextmanager
    def without_checkpointing(self) -> Iterator[None]:
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

    def keys(self, nodes: Nodes, rows: Tensor, trunk: Trunk) -> list[KeysAndValues]:
        """Each layer's keys and values of a trunk and some nodes, none of them learnable, for others to attend to."""
        kept: list[KeysAndValues] = []
        self.run(nodes, None, rows, torch.zeros_like(rows), trunk, kept=kept)
        return kept

    def as_layers_take_it(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The mask as the attention in use wants it: eager attention adds it to the scores."""
        if not self.is_eager:
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def part_size(self, nodes: Nodes, n_images: int, table: Tensor | None, memory: int | None) -> tuple[int, bool]:
        """How many rows to encode at once, and whether to compute them again in the backward pass."""
        n_rows, length = nodes.token_ids.shape
        learns = (table is not None and table.requires_grad) or any(each.requires_grad for each in self.weights())
        if not (torch.is_grad_enabled() and learns):
            return max(1, MAX_POSITIONS // length), False
        weight = self.embeddings.token_embedding.weight
        units = KEPT_PER_UNIT * weight.shape[1] + (2 * self.n_heads * nodes.mask.shape[-1] if self.is_eager else 0)
        per_row = units * length * len(self.layers) * weight.element_size()
        total = per_row * n_rows * n_images
        memory = default_memory(self.device) if memory is None else memory
        if total <= memory and not self.recomputes:
            return n_rows * n_images, False
        part = min(memory, total // CHECKPOINTED_PARTS) if self.recomputes else memory
        return max(1, part // per_row), True

    def project(self, states: Tensor) -> Tensor:
        """Text features `[..., P]` of hidden states `[..., D]`."""
        return self.projection(self.final_layer_norm(states))
