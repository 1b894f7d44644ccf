"""How many prompts a text tower encodes at once, so that what is kept for the backward pass stays below a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Positions encoded at once where no gradient is needed.
MAX_POSITIONS = 32768
# Numbers that a layer keeps for the backward pass, per position and unit of width.
KEPT_PER_UNIT = 16
# Bytes that the text side may keep for the backward pass before it computes them again; on a GPU, this share of it.
CPU_MEMORY = 2 * 2**30
GPU_SHARE = 1 / 4
# In how many parts the rows are recomputed where gradient checkpointing is switched on.
CHECKPOINTED_PARTS = 8


def is_trained(tables: Iterable[Tensor | None], *parts: nn.Module) -> bool:
    """Whether a gradient must reach the learnable vectors, or a weight of some modules."""
    learns = any(table is not None and table.requires_grad for table in tables) or any(
        weight.requires_grad for part in parts for weight in part.parameters()
    )
    return torch.is_grad_enabled() and learns


def bytes_per_position(weight: Tensor, more: int = 0) -> int:
    """What a layer keeps of one position.

    Args:
        weight: `[., D]`, one of the tower's weights.
        more: numbers beside those that grow with D.
    """
    return (KEPT_PER_UNIT * weight.shape[1] + more) * weight.element_size()


def part_size(
    per_row: int, n_rows: int, memory: int | None, recomputes: bool, device: torch.device
) -> tuple[int, bool]:
    """How many rows to encode at once, and whether to compute them again in the backward pass.

    Args:
        per_row: bytes that are kept of a row.
        n_rows: rows of all images.
        memory: bytes that may be kept; None: 2 GiB, or a quarter of a GPU's memory.
        recomputes: whether gradient checkpointing is switched on.
        device: where the tower is.
    """
    total = per_row * n_rows
    memory = default_memory(device) if memory is None else memory
    if total <= memory and not recomputes:
        return n_rows, False
    part = min(memory, total // CHECKPOINTED_PARTS) if recomputes else memory
    return max(1, part // per_row), True


def in_parts(encode: Callable[[int, int], Tensor], n_rows: int, size: int, again: bool) -> list[Tensor]:
    """What `encode` makes of rows, of all at once or in parts.

    While a graph is traced for any number of images, they are one part: how many there will be is not known.

    Args:
        encode: encodes the rows from a first up to, and without, a last one.
        n_rows: rows of all images.
        size: rows of a part.
        again: whether the backward pass is to compute them again.
    """
    if isinstance(n_rows, torch.SymInt):
        return [encode(0, n_rows)]
    parts = []
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        parts.append(checkpoint(encode, start, stop, use_reentrant=False) if again else encode(start, stop))
    return parts


def default_memory(device: torch.device) -> int:
    """Bytes that may be kept for the backward pass where nobody has said."""
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return CPU_MEMORY
