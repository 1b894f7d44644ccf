"""Pictures of results, fit for a paper."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .lines import Line, Value, distinct, make_lines, over_datasets
from .panels import SMALL_FONT, Style, add_legend, line_styles, name_panel, panel_grid
from .runs import METRICS, Run, check_metric
from .tables import base_and_new

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR = 0.38
DIAMOND: dict[str, Any] = {"marker": "D", "color": "white", "markeredgecolor": "black", "markersize": 3.5}


def few_shot_figure(runs: Sequence[Run], metric: str = "accuracy") -> Figure:
    """Draw a metric over shots: a panel for each dataset, before them the average if there are several.

    As in the CoOp paper (arXiv:2109.01134, figure 3), what learns nothing is a star at zero shots, here with a dotted
    line through the panel. Bands are one sample standard deviation over seeds.

    Args:
        runs: of the few-shot protocol and of one model.
        metric: a key of `METRICS`.

    Raises:
        ValueError: if there is no such run.
    """
    own = _runs_of(runs, "few-shot", metric)
    lines = make_lines(own, across=("num_shots",))
    styles = line_styles(lines)
    panels = _panels(own)
    figure, axes = panel_grid(len(panels), "labelled images per class", f"{METRICS[metric]} (%)")
    for place, (title, datasets) in zip(axes, panels.items(), strict=True):
        for line in lines:
            _draw_curve(place, _curve(line, datasets, metric), styles[line.label])
        name_panel(place, title, len(datasets) > 1)
        _name_shots(place, {run.num_shots for run in own})
    add_legend(figure, [_curve_key(line, styles[line.label]) for line in lines])
    return figure


def base_to_new_figure(runs: Sequence[Run], metric: str = "accuracy") -> Figure:
    """Draw a pair of bars for each method, base and new classes, with H between them.

    A panel for each dataset, before them the average if there are several. Error bars are one sample standard
    deviation over seeds.

    Args:
        runs: of the base-to-new protocol and of one model.
        metric: a key of `METRICS`; the calibration error has no H.

    Raises:
        ValueError: if there is no such run.
    """
    own = _runs_of(runs, "base-to-new", metric)
    lines = make_lines(own)
    styles = line_styles(lines)
    panels = _panels(own)
    figure, axes = panel_grid(len(panels), "", f"{METRICS[metric]} (%)")
    for place, (title, datasets) in zip(axes, panels.items(), strict=True):
        for position, line in enumerate(lines):
            _draw_pair(place, position, base_and_new(line, datasets, metric), styles[line.label].color)
        name_panel(place, title, len(datasets) > 1)
        place.set_xticks([])
        place.set_xlim(-0.6, len(lines) - 0.4)
    add_legend(figure, [*(_bar_key(line, styles[line.label]) for line in lines), *_pair_keys(metric)])
    return figure


def plot_few_shot(runs: Sequence[Run], path: str | os.PathLike, metric: str = "accuracy") -> None:
    """Write `few_shot_figure` to a file; its ending says which kind, such as ".png" or ".pdf"."""
    save_figure(few_shot_figure(runs, metric), path)


def plot_base_to_new(runs: Sequence[Run], path: str | os.PathLike, metric: str = "accuracy") -> None:
    """Write `base_to_new_figure` to a file; its ending says which kind, such as ".png" or ".pdf"."""
    save_figure(base_to_new_figure(runs, metric), path)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure to a file, the same bytes for the same figure."""
    import matplotlib

    undated: dict[str, Any] = {"CreationDate": None} if Path(path).suffix == ".pdf" else {}
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # publishers refuse the default, Type 3 fonts
        figure.savefig(path, dpi=200, metadata=undated)


def _runs_of(runs: Sequence[Run], protocol: str, metric: str) -> list[Run]:
    check_metric(metric)
    own = [run for run in runs if run.protocol == protocol]
    models = distinct(run.model for run in own)
    if len(models) != 1:
        raise ValueError(f"A figure is of the {protocol} runs of one model, got {models or 'no such run'}.")
    return own


def _panels(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The datasets of each panel, by its title."""
    datasets = distinct(run.data for run in runs)
    average = {f"average over {len(datasets)} datasets": datasets} if len(datasets) > 1 else {}
    return average | {data: [data] for data in datasets}


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
        axes.plot(shots, means, style.marker, color=style.color, markersize=9, clip_on=False, zorder=3)
        return
    spreads = [100 * (value.std or 0) for value in curve.values()]
    low, high = np.subtract(means, spreads), np.add(means, spreads)
    axes.fill_between(shots, low, high, color=style.color, alpha=0.18, linewidth=0)
    if len(shots) == 1:
        axes.errorbar(shots, means, spreads, color=style.color, elinewidth=1, capsize=2)
    axes.plot(shots, means, color=style.color, marker=style.marker, markersize=3.5, linewidth=1.4)


def _draw_pair(axes: Axes, position: int, values: Sequence[Value | None], color: str) -> None:
    base, new, *mean = values
    base_top = _draw_bar(axes, position - BAR / 2, base, color)
    new_top = _draw_bar(axes, position + BAR / 2, new, color, hatch="/////")
    for value in filter(None, mean):
        height = 100 * value.mean
        axes.plot(position, height, zorder=3, **DIAMOND)
        above: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 3), "ha": "center"}
        axes.annotate(f"{height:.1f}", (position, max(base_top, new_top)), **above, fontsize=SMALL_FONT - 1)


def _draw_bar(axes: Axes, place: float, value: Value | None, color: str, hatch: str = "") -> float:
    """Draw a bar with its error bar, and give the height of both."""
    if value is None:
        return 0
    height, spread = 100 * value.mean, 100 * (value.std or 0)
    axes.bar(place, height, BAR, color="white" if hatch else color, edgecolor=color, hatch=hatch, linewidth=1)
    if spread:
        axes.errorbar(place, height, spread, color="black", elinewidth=0.9, capsize=1.8)
    return height + spread


def _name_shots(axes: Axes, shots: set[int]) -> None:
    ticks, end = sorted({0, *shots}), max(1, *shots)
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_xlim(-0.04 * end, 1.04 * end)


def _curve_key(line: Line, style: Style) -> Artist:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"markersize": 4, "linestyle": "-"} if line.learns else {"markersize": 9, "linestyle": ":"}
    return Line2D([], [], color=style.color, marker=style.marker, label=line.label, **look)


def _bar_key(line: Line, style: Style) -> Artist:
    from matplotlib.patches import Patch

    return Patch(color=style.color, label=line.label)


def _pair_keys(metric: str) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    base = Patch(facecolor="#dddddd", edgecolor="#555555", label="base classes")
    new = Patch(facecolor="white", edgecolor="#555555", hatch="/////", label="new classes")
    mean = Line2D([], [], linestyle="", label="harmonic mean H (the number)", **DIAMOND)
    return [base, new] if metric == "ece" else [base, new, mean]
