"""Prompts as a text tower reads them, made once for all calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..prompts import PromptSequences

if TYPE_CHECKING:
    from typing_extensions import Self

# What stands in the place of the learnable vectors' hidden states before some layers, by the layer's number: `[V, D]`,
# or `[C, V, D]`, other ones for each of the C prompts.
DeepVectors = Mapping[int, Tensor]
NO_DEEP_VECTORS: DeepVectors = MappingProxyType({})


class PreparedPrompts(ABC):
    """C prompts as tensors, with a copy of them on every device where they were needed.

    They stay where they are, since replicas of a model on other devices read them at the same time.

    Args:
        sequences: the prompts.

    Attributes:
        tensors: names of the attributes that move to a device.
        n_vectors: how many rows of learnable vectors the prompts need.
        n_prompts: C.
    """

    tensors: ClassVar[tuple[str, ...]]

    def __init__(self, sequences: PromptSequences) -> None:
        self._copies: dict[torch.device, Self] = {}
        self.n_prompts = len(sequences.ids)
        self.n_vectors = max(0, max(max(ids) for ids in sequences.ids) - sequences.vocab_size + 1)

    def check_vectors(self, vectors: Tensor | None, deep: DeepVectors, n_layers: int) -> None:
        """Check that every learnable vector of the prompts is there, and that there are the layers that read them.

        Args:
            vectors: `[V, D]` or `[B, V, D]`; None for none.
            deep: `[V, D]` or `[C, V, D]` by layer.
            n_layers: of the tower.

        Raises:
            ValueError: if one is not.
        """
        for layer, table in {"the embeddings": vectors, **{f"layer {each}": deep[each] for each in deep}}.items():
            there = 0 if table is None else table.shape[-2]
            if there < self.n_vectors:
                raise ValueError(
                    f"The prompts need {self.n_vectors} learnable vectors, and there are {there} at {layer}: "
                    "`sequences` and the vectors of a method belong together."
                )
        own = [table for table in deep.values() if table.ndim == 3]
        if any(len(table) != self.n_prompts for table in own) or (own and vectors is not None and vectors.ndim == 3):
            raise ValueError(
                f"Vectors of each prompt's own are one set for each of the {self.n_prompts} prompts, the same for all "
                f"images; got {[tuple(table.shape) for table in own]}."
            )
        beyond = [layer for layer in deep if not 0 < layer < n_layers]
        if beyond:
            raise ValueError(
                f"Vectors can stand before layers 1 to {n_layers - 1} of this text tower, which has {n_layers} layers; "
                f"got some for {beyond}."
            )

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they are."""

    def forget(self) -> None:  # noqa: B027  most keep nothing
        """Forget what is kept of these prompts on their own device."""

    def clear(self) -> None:
        """Forget what is kept of them, on every device."""
        self.forget()
        for other in self._copies.values():
            other.forget()

    def to(self, device: torch.device) -> Self:
        """These prompts on `device`: themselves, or a copy that is made once and kept."""
        if self.device == device:
            return self
        if device not in self._copies:
            other = copy(self)
            other.forget()
            with torch.inference_mode(False):  # training may use them later
                for name in self.tensors:
                    tensors = getattr(self, name)
                    setattr(other, name, None if tensors is None else tensors.to(device))
            self._copies[device] = other
        return self._copies[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copies": {}}  # copies and pickles start without


def one_table(table: Tensor, n_prompts: int) -> Tensor:
    """Vectors `[C, V, D]`, or `[V, D]` for all C prompts, as one table `[C*V, D]`."""
    return (table if table.ndim == 3 else table.expand(n_prompts, -1, -1)).flatten(0, 1)
