"""How many images were learned from, where classes have fewer than were asked for."""

from __future__ import annotations

from collections.abc import Sequence

from .finished_runs import Run
from .grouped_runs import distinct


def shots_note(runs: Sequence[Run]) -> str:
    """A sentence for every dataset and number of shots that not all classes have; nothing if there is none.

    Args:
        runs: of a table.
    """
    short = [run for run in runs if run.shots_used and run.shots_used[0] < run.num_shots]
    return " ".join(distinct(_sentence(run) for run in sorted(short, key=lambda run: run.num_shots)))


def _sentence(run: Run) -> str:
    fewest, most = run.shots_used or (0, 0)
    used = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{run.num_shots} shots of {run.data} are {used} {run.items} per class, as there are no more."
