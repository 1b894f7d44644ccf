"""Hidden states of a tower that is read through its own forward: prompts put among them, or states noted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from .mixed_classes import mix_in

# What each thread puts in at the moment: a server's threads share one model.
_now = threading.local()


class States(Protocol):
    """What becomes of hidden states on their way, by the number that a module was given."""

    def before(self, place: int, states: Tensor) -> Tensor:
        """What a layer reads."""

    def behind(self, place: int, states: Tensor) -> Tensor:
        """What the next one gets."""

    def check(self) -> None:
        """Check that it happened.

        Raises:
            RuntimeError: if a module was not passed: it is not open, or another one stands in its place.
        """


class OpenModule:
    """Mixed into a module's own class: what it reads and gives can be changed for a while, see `changing`.

    Attributes:
        _place: its number: a layer's, or -1 for the embeddings, which read no hidden states.
    """

    given = ("_place",)
    _place: int

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Call the module with what it reads changed, and hand on what it gives changed."""
        now: States | None = getattr(_now, "states", None)
        call = cast(Any, super()).__call__
        if now is None:
            return call(*args, **kwargs)
        if self._place >= 0:  # a layer, and not the embeddings
            args = (now.before(self._place, args[0]), *args[1:])
        return now.behind(self._place, call(*args, **kwargs))


def open_up(modules: Sequence[nn.Module], first: int = 0) -> None:
    """Let what some modules read and give be changed; a no-op for those that do.

    Args:
        modules: the modules, each called with hidden states first.
        first: the first one's number; the others follow.
    """
    for place, module in enumerate(modules, start=first):
        if is_open(module):
            continue
        mix_in(module, OpenModule)
        cast(Any, module)._place = place


def is_open(module: nn.Module) -> bool:
    """Whether what a module reads and gives can be changed: itself is open, or what PEFT has wrapped."""
    return any(isinstance(each, OpenModule) for each in module.modules())


@contextmanager
def changing(states: States) -> Iterator[None]:
    """Change what opened modules read and give, in this thread.

    Raises:
        RuntimeError: if it did not happen.
    """
    before = getattr(_now, "states", None)
    _now.states = states
    try:
        yield
    finally:
        _now.states = before
    states.check()


class ReplacedRows:
    """Before some layers, rows of the hidden states are replaced by others.

    Shapes: N texts of L tokens, V learnable vectors, D width.

    Args:
        tables: `[V, D]` by the number of the layer.
        is_learned: `[N, L]`, where a row is replaced.
        rows: `[N, L]`, by which of the V; 0 elsewhere.
    """

    def __init__(self, tables: Mapping[int, Tensor], is_learned: Tensor, rows: Tensor):
        self.tables, self.is_learned, self.rows = tables, is_learned, rows
        self.passed = 0

    def before(self, place: int, states: Tensor) -> Tensor:
        """See `States`."""
        if place not in self.tables:
            return states
        self.passed += 1
        return torch.where(self.is_learned[..., None], self.tables[place][self.rows].to(states), states)

    def behind(self, place: int, states: Tensor) -> Tensor:
        """See `States`."""
        return states

    def check(self) -> None:
        """See `States`."""
        check_passed(self.passed, len(self.tables))


class RowsAtTheEnd:
    """Rows that are appended before the first layer, replaced before others, and taken away behind the last.

    Taken away, what pools the image's tokens, or returns them, sees those of the image alone.

    Shapes: n rows, W width.

    Args:
        tables: `[n, W]`, the first behind the embeddings, whose place is -1, and entry i before layer i.
        n_layers: of the tower.
    """

    def __init__(self, tables: Sequence[Tensor], n_layers: int):
        self.tables, self.n_layers = tables, n_layers
        self.passed = 0

    def before(self, place: int, states: Tensor) -> Tensor:
        """See `States`."""
        if 0 < place < len(self.tables):
            return self._with(place, states[:, : -len(self.tables[0])])
        return states

    def behind(self, place: int, states: Tensor) -> Tensor:
        """See `States`."""
        self.passed += 1
        if place < 0:
            return self._with(0, states)
        return states[:, : -len(self.tables[0])] if place == self.n_layers - 1 else states

    def _with(self, index: int, states: Tensor) -> Tensor:
        rows = self.tables[index].to(states)
        return torch.cat([states, rows.expand(states.shape[0], -1, -1)], dim=1)

    def check(self) -> None:
        """See `States`."""
        check_passed(self.passed, self.n_layers + 1)


class StatesBehind:
    """The hidden states behind some layers, as they are: noted, by the number of the layer.

    transformers' own `output_hidden_states` puts in hooks for good, with which a model can no longer be pickled.

    Args:
        places: the numbers.
    """

    def __init__(self, places: Sequence[int]):
        self.places = set(places)
        self.noted: dict[int, Tensor] = {}

    def before(self, place: int, states: Tensor) -> Tensor:
        """See `States`."""
        return states

    def behind(self, place: int, states: Tensor) -> Tensor:
        """See `States`."""
        if place in self.places:
            self.noted[place] = states
        return states

    def check(self) -> None:
        """See `States`.

        Raises:
            RuntimeError: if a layer was not passed.
        """
        missing = sorted(self.places - self.noted.keys())
        if missing:
            raise RuntimeError(f"The tower's layers {missing} were not passed: something else stands in their place.")


def check_passed(passed: int, expected: int) -> None:
    """Check how many modules with prompts were passed.

    Raises:
        RuntimeError: if there were not as many as prompts.
    """
    if passed != expected:
        raise RuntimeError(
            f"Prompts stand at {expected} modules of a tower, and {passed} of these read them: something was put in "
            "the place of its embeddings or layers since the adapter was added. Add the adapter after that."
        )
