"""Accuracy on seen pairs against accuracy on unseen pairs, as curves over the bias between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .averages import Value, over_seeds
from .composition_tables import world_name
from .finished_runs import Run
from .grouped_runs import Line, distinct, make_lines
from .panels import add_legend, name_panel, panel_grid, runs_of
from .styles import Style, line_styles

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Places at which the curves of several seeds are averaged.
PLACES = 200
MARK: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.6, "markersize": 5}


def composition_figure(runs: Sequence[Run], metric: str = "accuracy") -> Figure:
    """Draw the accuracy on images of seen pairs over that on images of unseen pairs: a panel for each world.

    The point of the best harmonic mean has a mark; the area under the curve stands in the legend. Curves are means over
    seeds, bands one sample standard deviation.

    Args:
        runs: of the composition protocol, of one model and one dataset.
        metric: every figure has all that is measured of compositions, whichever is asked for.

    Raises:
        ValueError: if there is no such run, or they are of several datasets.
    """
    own, _ = runs_of(runs, "composition", metric)
    datasets = distinct(run.data for run in own)
    if len(datasets) > 1:
        raise ValueError(f"A figure is of one dataset, got {datasets}.")
    lines = make_lines(own)
    styles = line_styles(lines)
    worlds = distinct(split for run in own for split in run.results)
    figure, axes = panel_grid(len(worlds), "accuracy on unseen pairs (%)", "accuracy on seen pairs (%)")
    for place, world in zip(axes, worlds, strict=True):
        for line in lines:
            _draw_line(place, line, world, styles[line.label])
        name_panel(place, f"{datasets[0]}, {world_name(world)}" if len(worlds) == 1 else world_name(world), False)
        place.set_xlim(left=0)
        place.set_ylim(bottom=0)
    add_legend(figure, [*(_key(line, worlds, styles[line.label]) for line in lines), _mark_key()])
    return figure


def _draw_line(axes: Axes, line: Line, world: str, style: Style) -> None:
    curves = [run.results[world]["curve"] for run in line.runs if world in run.results]
    if not curves:
        return
    if len(curves) == 1:
        axes.plot(*(100 * np.array(curves[0][name]) for name in ("unseen", "seen")), color=style.color, linewidth=1.2)
    else:
        _draw_mean(axes, curves, style.color)
    best = [over_seeds(line.by_seed(world, f"best_hm_{kind}")) for kind in ("unseen", "seen")]
    point = [100 * value.mean for value in best if value is not None]
    axes.plot(*point, style.marker, color=style.color, **MARK)


def _draw_mean(axes: Axes, curves: Sequence[dict[str, list[float]]], color: str) -> None:
    """The mean of some curves and what they differ by, at places along the axis of unseen pairs."""
    places = np.linspace(0, max(max(curve["unseen"]) for curve in curves), PLACES)
    heights = 100 * np.array([_height(curve, places) for curve in curves])
    mean, spread = heights.mean(axis=0), heights.std(axis=0, ddof=1)
    axes.fill_between(100 * places, mean - spread, mean + spread, color=color, alpha=0.18, linewidth=0)
    axes.plot(100 * places, mean, color=color, linewidth=1.2)


def _height(curve: dict[str, list[float]], places: NDArray) -> NDArray:
    """A curve's accuracy on seen pairs at places along the axis of unseen pairs; 0 where it does not reach."""
    return np.interp(places, curve["unseen"], curve["seen"], right=0)


def _key(line: Line, worlds: Sequence[str], style: Style) -> Artist:
    from matplotlib.lines import Line2D

    areas = [(world, over_seeds(line.by_seed(world, "auc"))) for world in worlds]
    told = [f"{_percent(value)} {world if len(worlds) > 1 else ''}".strip() for world, value in areas if value]
    return Line2D(
        [],
        [],
        color=style.color,
        marker=style.marker,
        **MARK,
        label=f"{line.label}: AUC {'; '.join(told)}",
    )


def _mark_key() -> Artist:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", label="marks: the best harmonic mean", **MARK, marker="o", color="white")


def _percent(value: Value) -> str:
    spread = "" if value.std is None else f" ± {100 * value.std:.1f}"
    return f"{100 * value.mean:.1f}{spread}"
