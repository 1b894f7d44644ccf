"""What is kept of the text side, as long as nothing that it depends on changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..module_state import ModuleState, module_state

T = TypeVar("T")


class TextState(NamedTuple):
    """What encoded prompts depend on beside their ids and the learnable vectors.

    Attributes:
        place: device, dtype of autocast (None without), and whether in inference mode: training cannot use its tensors.
        modules: the state of all modules that the prompts pass through.
    """

    place: Hashable
    modules: ModuleState


def text_state(
    modules: tuple[nn.Module, ...], device: torch.device, without: nn.Module | None = None
) -> TextState | None:
    """The present state of the modules that prompts pass through.

    Args:
        modules: embeddings, layers, norm, projection.
        device: where they are.
        without: what they hold and the prompts do not pass through.

    Returns:
        The state; None where nothing may be kept: it cannot be known (see `module_state`), a gradient must reach the
        modules, or code is traced, since a compiled graph must not hold what was kept.
    """
    if torch.compiler.is_compiling():
        return None
    state = module_state(*modules, without=without)
    if state is None or (state.requires_grad and torch.is_grad_enabled()):
        return None
    autocasts = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    autocast = torch.get_autocast_dtype(device.type) if autocasts else None
    return TextState((device, autocast, torch.is_inference_mode_enabled()), state)


class TextCache(Generic[T]):
    """One result for every place, of the latest state and vectors there.

    The learnable vectors are compared by value, since a change through `.data` leaves no other trace. Results are kept
    for every place at once, so that evaluation under autocast does not push out what was computed without.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[ModuleState, tuple[Tensor, ...], T]] = {}

    def get(
        self,
        state: TextState | None,
        compute: Callable[[], T],
        vectors: Sequence[Tensor] = (),
        worth_keeping: Callable[[T], bool] = lambda result: True,
    ) -> T:
        """Return what is kept of this state and equal vectors, or compute it and keep it.

        Args:
            state: None: nothing is kept.
            compute: computes the result.
            vectors: all that the result depends on, of any shapes.
            worth_keeping: whether to keep a result.
        """
        if state is None:
            return compute()
        entry = self._entries.get(state.place)
        if entry is not None and entry[0] == state.modules and _same(entry[1], vectors):
            return entry[2]
        result = compute()
        self._entries.pop(state.place, None)
        if worth_keeping(result):
            kept = tuple(each.detach().clone() for each in vectors)
            self._entries[state.place] = (state.modules, kept, result)
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"_entries": {}}  # copies and pickles start empty


def _same(kept: Sequence[Tensor], now: Sequence[Tensor]) -> bool:
    return len(kept) == len(now) and all(
        one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)
        for one, other in zip(kept, now, strict=True)
    )
