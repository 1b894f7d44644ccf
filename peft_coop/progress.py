"""What is shown of long work: one bar for all that is under way, from the outermost stage to the innermost.

A stage counts its own steps. Opened inside another one it fills that one's present step, so that a benchmark is one bar
over its datasets, their runs, and a run's training; opened alone it is a bar of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

FORMAT = "{desc}: {percentage:3.0f}%|{bar:20}| [{elapsed}<{remaining}{postfix}]"
INTERVAL = 0.1  # seconds between two drawings

_innermost: ContextVar[Stage | None] = ContextVar("innermost", default=None)
_shown = True


def show_progress(shown: bool) -> None:
    """Whether bars are drawn from now on."""
    global _shown
    _shown = shown


@dataclass(frozen=True)
class Part:
    """A part of a step.

    Attributes:
        start: where it begins, as a fraction of the step.
        end: where it ends.
        all_count: whether it is moved by stages, too, that move nothing elsewhere.
    """

    start: float = 0.0
    end: float = 1.0
    all_count: bool = False

    def within(self, start: float, end: float, all_count: bool) -> Part:
        """A part of this part; what counts in the whole counts there."""
        length = self.end - self.start
        return Part(self.start + start * length, self.start + end * length, all_count or self.all_count)


class Stage:
    """Some steps of work.

    Args:
        name: of the work.
        total: how many steps.
        unit: what a step is.
        parent: the stage whose present step this is.
        counts: whether it moves the parent's bar; what comes before the actual work does not.
        shown: False for work that is too short for a bar.
    """

    def __init__(self, name: str, total: int, unit: str, parent: Stage | None, counts: bool, shown: bool):
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._of_present_step = 0.0
        self._part = Part()  # of the present step, which the stages inside fill
        self._doing = ""
        self._parent = parent
        self._counts = counts
        self._root: Stage = parent._root if parent else self
        self._shown = shown
        self._bar: Any = None  # of the outermost; there is none before there is something to show
        self._drawn = 0.0
        self._skipped = 0.0

    def doing(self, what: str) -> None:
        """What the present step is."""
        self._doing = what
        self._draw(now=True)

    def update(self, steps: int = 1) -> None:
        """So many steps are done."""
        self.done += steps
        self._of_present_step = 0.0
        self._draw(now=self.done >= self.total)

    def skip(self, steps: int = 1) -> None:
        """So many steps had been done before: they say nothing of how long the others take."""
        before = self._fraction_of_all()
        self.done += steps
        self._of_present_step = 0.0
        self._root._skipped += self._fraction_of_all() - before
        self._draw(now=True)

    def write(self, line: str) -> None:
        """Print a line of the output above the bar."""
        with bar_aside():
            print(line, flush=True)  # noqa: T201  the caller's output, not the library's

    def close(self) -> None:
        """The end, also after an error; `stage` calls it."""
        if self._bar is not None:
            self._draw(now=True)
            self._bar.close()

    def _text(self) -> str:
        """Where it stands, in words."""
        if self.total == 1 and self._doing:
            return self._doing
        step = min(self.done + 1, self.total) if self._doing else self.done
        return f"{self.unit} {step:,}/{self.total:,}" + (f": {self._doing}" if self._doing else "")

    def _fraction_of_all(self) -> float:
        """How much of everything is done; a stage that has ended still fills its part of the present step."""
        own = min(1.0, (self.done + self._of_present_step) / self.total) if self.total else 1.0
        if self._parent is None:
            return own
        part = self._parent._part
        if self._counts or part.all_count:
            reached = part.start + own * (part.end - part.start)
            self._parent._of_present_step = max(self._parent._of_present_step, reached)
        return self._parent._fraction_of_all()

    def _draw(self, now: bool) -> None:
        root = self._root
        if root._bar is None:
            root._bar = _make_bar(root.name, root._shown and _shown)
        root._bar.n, root._bar.initial = self._fraction_of_all(), root._skipped
        if now or time.monotonic() - root._drawn >= INTERVAL:
            root._bar.set_postfix_str(", ".join(self._texts()), refresh=True)
            root._drawn = time.monotonic()

    def _texts(self) -> list[str]:
        own = self._text() if self._parent is None else f"{self.name} {self._text()}"
        return [*(self._parent._texts() if self._parent else []), own]


@contextmanager
def stage(name: str, total: int, unit: str = "step", counts: bool = True, shown: bool = True) -> Iterator[Stage]:
    """A stage of work, and its bar if it is the outermost.

    Args:
        name: of the work.
        total: how many steps.
        unit: what a step is.
        counts: whether it moves the bar of the stage that it is in.
        shown: False for work that is too short for a bar.
    """
    parent = _innermost.get()
    opened = Stage(name, total, unit, parent, counts, shown)
    _innermost.set(opened)
    try:
        yield opened
    finally:
        _innermost.set(parent)
        opened.close()


@contextmanager
def part_of_step(start: float, end: float, all_count: bool = False) -> Iterator[None]:
    """The stages inside fill a part of the present step of the stage that they are in, so that others can follow.

    Args:
        start: where the part begins, as a fraction of the step, or of the part that it is in.
        end: where it ends.
        all_count: whether stages that come before the actual work elsewhere are the work here.
    """
    present = _innermost.get()
    if present is None:
        yield
        return
    before = present._part
    present._part = before.within(start, end, all_count)
    try:
        yield
    finally:
        present._part = before


@contextmanager
def bar_aside() -> Iterator[None]:
    """Inside it the bar is off its line, so that what is printed has one of its own; it is drawn again below that."""
    present = _innermost.get()
    bar = present._root._bar if present else None
    if bar is None:
        yield
        return
    bar.clear()
    try:
        yield
    finally:
        bar.refresh()


def _make_bar(name: str, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=1, desc=name, bar_format=FORMAT, dynamic_ncols=True, smoothing=0, disable=not shown)


@contextmanager
def without_datasets_bars() -> Iterator[None]:
    """Without the bars of `datasets`, where a stage tells what is done, or where they tell of nothing."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
