"""Accuracy of each method as bars: of base and new classes, of a source and its targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .averages import Value, over_datasets
from .finished_runs import TITLES, Run
from .grouped_runs import Line, distinct, make_lines
from .label_spacing import label_value, separate_labels
from .panels import add_legend, dataset_panels, name_panel, panel_grid, runs_of
from .styles import Style, line_styles
from .tables import base_and_new, source_and_targets

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIR_BAR = 0.38
BAR = 0.76
DIAMOND: dict[str, Any] = {"marker": "D", "color": "white", "markeredgecolor": "black", "markersize": 3}


def base_to_new_figure(runs: Sequence[Run], metric: str = "accuracy") -> Figure:
    """Draw a pair of bars for each method, base and new classes, with H between them.

    A panel for each dataset, before them the average if there are several. Error bars are one sample standard
    deviation over seeds.

    Args:
        runs: of the base-to-new protocol and of one model.
        metric: a key of `TITLES`; the calibration error has no H.

    Raises:
        ValueError: if there is no such run.
    """
    own, metric = runs_of(runs, "base-to-new", metric)
    lines = make_lines(own)
    styles = line_styles(lines)
    panels = dataset_panels(own)
    figure, axes = panel_grid(len(panels), "", f"{TITLES[metric]} (%)")
    for place, (title, datasets) in zip(axes, panels.items(), strict=True):
        for position, line in enumerate(lines):
            _draw_pair(place, position, base_and_new(line, datasets, metric), styles[line.label].color)
        _finish_panel(place, title, len(datasets) > 1, len(lines))
    add_legend(figure, [*(_bar_key(line, styles[line.label]) for line in lines), *_pair_keys(metric)])
    separate_labels(figure)
    return figure


def transfer_figure(runs: Sequence[Run], metric: str = "accuracy") -> Figure:
    """Draw a bar for each method: a panel for the source, one for each target, and before them the targets' average.

    Error bars are one sample standard deviation over seeds.

    Args:
        runs: of cross-dataset transfer or of domain generalisation, of one model and one source.
        metric: a key of `TITLES`.

    Raises:
        ValueError: if there is no such run.
    """
    own, metric = runs_of(runs, runs[0].protocol if runs else "cross-dataset", metric)
    sources = distinct(run.data for run in own)
    if len(sources) > 1:
        raise ValueError(f"A figure is of what was learned from one dataset, got {sources}.")
    lines = make_lines(own)
    styles = line_styles(lines)
    panels = sorted(source_and_targets(own).items(), key=lambda panel: len(panel[1]) == 1)  # the average first
    figure, axes = panel_grid(len(panels), "", f"{TITLES[metric]} (%)")
    for place, (title, splits) in zip(axes, panels, strict=True):
        for position, line in enumerate(lines):
            value = over_datasets([line.by_seed(split, metric) for split in splits])
            _draw_single(place, position, value, styles[line.label].color)
        _finish_panel(place, title, len(splits) > 1, len(lines))
    add_legend(figure, [_bar_key(line, styles[line.label]) for line in lines])
    separate_labels(figure)
    return figure


def _finish_panel(axes: Axes, title: str, is_average: bool, count: int) -> None:
    name_panel(axes, title, is_average)
    axes.set_xticks([])
    axes.set_xlim(-0.6, count - 0.4)


def _draw_pair(axes: Axes, position: int, values: Sequence[Value | None], color: str) -> None:
    base, new, *mean = values
    base_top = _draw_bar(axes, position - PAIR_BAR / 2, PAIR_BAR, base, color)
    new_top = _draw_bar(axes, position + PAIR_BAR / 2, PAIR_BAR, new, color, hatch="/////")
    for value in filter(None, mean):
        height = 100 * value.mean
        axes.plot(position, height, zorder=3, **DIAMOND)
        label_value(axes, position, max(base_top, new_top), f"{height:.1f}")


def _draw_single(axes: Axes, position: int, value: Value | None, color: str) -> None:
    top = _draw_bar(axes, position, BAR, value, color)
    if value is not None:
        label_value(axes, position, top, f"{100 * value.mean:.1f}")


def _draw_bar(axes: Axes, place: float, width: float, value: Value | None, color: str, hatch: str = "") -> float:
    """Draw a bar with its error bar, and give the height of both."""
    if value is None:
        return 0
    height, spread = 100 * value.mean, 100 * (value.std or 0)
    axes.bar(place, height, width, color="white" if hatch else color, edgecolor=color, hatch=hatch, linewidth=0.8)
    if spread:
        axes.errorbar(place, height, spread, color="black", elinewidth=0.8, capsize=1.5)
    return height + spread


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
