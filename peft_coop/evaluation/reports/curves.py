"""A metric over labelled images per class, as curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .averages import Value, over_datasets
from .finished_runs import TITLES, Run
from .grouped_runs import Line, make_lines
from .label_spacing import thin_ticks
from .panels import add_legend, dataset_panels, name_panel, panel_grid, runs_of
from .styles import Style, line_styles

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def few_shot_figure(runs: Sequence[Run], metric: str = "accuracy") -> Figure:
    """Draw a metric over shots: a panel for each dataset, before them the average if there are several.

    As in the CoOp paper (arXiv:2109.01134, figure 3), what learns nothing is a star at zero shots, here with a dotted
    line through the panel. Bands are one sample standard deviation over seeds.

    Args:
        runs: of the few-shot protocol and of one model.
        metric: a key of `TITLES`.

    Raises:
        ValueError: if there is no such run.
    """
    own, metric = runs_of(runs, "few-shot", metric)
    lines = make_lines(own, across=("num_shots",))
    styles = line_styles(lines)
    panels = dataset_panels(own)
    figure, axes = panel_grid(len(panels), f"labelled {own[0].items} per class", f"{TITLES[metric]} (%)")
    for place, (title, datasets) in zip(axes, panels.items(), strict=True):
        for line in lines:
            _draw_curve(place, _curve(line, datasets, metric), styles[line.label])
        name_panel(place, title, len(datasets) > 1)
        _name_shots(place, {run.num_shots for run in own})
    add_legend(figure, [_curve_key(line, styles[line.label]) for line in lines])
    thin_ticks(figure)
    return figure


def _curve(line: Line, datasets: Sequence[str], metric: str) -> dict[int, Value]:
    """A line's value by shots, where every dataset has one."""
    shots = sorted({run.num_shots for run in line.runs})
    values = {
        number: over_datasets([line.by_seed("test", metric, data=data, num_shots=number) for data in datasets])
        for number in shots
    }
    return {number: value for number, value in values.items() if value}


def _draw_curve(axes: Axes, curve: dict[int, Value], style: Style) -> None:
    shots, means = list(curve), [100 * value.mean for value in curve.values()]
    if not shots:
        return
    if shots == [0]:
        axes.axhline(means[0], color=style.color, linewidth=1, linestyle=":")
        axes.plot(shots, means, style.marker, color=style.color, markersize=7, clip_on=False, zorder=3)
        return
    spreads = [100 * (value.std or 0) for value in curve.values()]
    low, high = np.subtract(means, spreads), np.add(means, spreads)
    axes.fill_between(shots, low, high, color=style.color, alpha=0.18, linewidth=0)
    if len(shots) == 1:
        axes.errorbar(shots, means, spreads, color=style.color, elinewidth=1, capsize=2)
    axes.plot(shots, means, color=style.color, marker=style.marker, markersize=3, linewidth=1.2)


def _name_shots(axes: Axes, shots: set[int]) -> None:
    ticks, end = sorted({0, *shots}), max(1, *shots)
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_xlim(-0.04 * end, 1.04 * end)


def _curve_key(line: Line, style: Style) -> Artist:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"markersize": 4, "linestyle": "-"} if line.learns else {"markersize": 7, "linestyle": ":"}
    return Line2D([], [], color=style.color, marker=style.marker, label=line.label, **look)
