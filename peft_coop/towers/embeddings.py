"""A text tower's embeddings with a place for learnable vectors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What each thread puts in at the moment, and where: a server's threads share one model.
_now = threading.local()
NOTHING = (None, None)


@dataclass(frozen=True)
class Splice:
    """Where learnable vectors stand in some texts.

    Shapes: N texts of L tokens, D text width.

    Attributes:
        is_learned: `[N, L]`, True where a vector stands.
        rows: `[N, L]`, which one; 0 elsewhere.
        table: `[., D]`, the vectors.
    """

    is_learned: Tensor
    rows: Tensor
    table: Tensor


class SplicedEmbeddings(nn.Module):
    """A text tower's embeddings; within `splicing`, learnable vectors stand in the place of some tokens.

    Args:
        base_layer: the tower's own embeddings, which take `input_ids` or `inputs_embeds`.
        token_embedding: name of the table of token embeddings in them.
    """

    def __init__(self, base_layer: nn.Module, token_embedding: str):
        super().__init__()
        self.base_layer = base_layer
        self.token_embedding_name = token_embedding

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """Embed as the wrapped module does; `input_ids` `[N, L]` have any ordinary token where a vector stands."""
        layer, splice = getattr(_now, "spliced", NOTHING)
        if layer is not self or splice is None or input_ids is None:
            return self.base_layer(input_ids, *args, **kwargs)
        embeds = self.base_layer.get_submodule(self.token_embedding_name)(input_ids)  # [N, L, D]
        embeds = torch.where(splice.is_learned[..., None], splice.table[splice.rows].to(embeds), embeds)
        # The ids, too: some towers count positions by them.
        return self.base_layer(input_ids, *args, **{**kwargs, "inputs_embeds": embeds})

    @contextmanager
    def splicing(self, splice: Splice) -> Iterator[None]:
        """Put vectors in for a while, in this thread."""
        _now.spliced = (self, splice)
        try:
            yield
        finally:
            _now.spliced = NOTHING

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)
