"""What single settings do, as dots on a line for each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .averages import over_seeds
from .finished_runs import TITLES, Run, check_metric, metric_of
from .grouped_runs import Line, distinct, make_lines
from .panels import CHARACTERS_PER_INCH, PAGE_WIDTH, SMALL_FONT, name_panel
from .styles import method_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of a method that has no colour of its own.
NOBODYS = "#56b4e9"
# Inches.
LINE_HEIGHT = 0.17
AROUND = 0.75
# At most this share of a figure's width is for the settings' names.
NAMES_SHARE = 0.45


def ablation_figure(runs: Sequence[Run], metric: str = "accuracy") -> Figure:
    """Draw a dot for each combination of settings: a panel for each dataset, side by side, with the same lines.

    Bars through the dots are one sample standard deviation over seeds. The axis does not begin at zero.

    Args:
        runs: of the ablation protocol, of any models.
        metric: a key of `TITLES`.

    Raises:
        ValueError: if there is no such run.
    """
    check_metric(metric)
    own = [run for run in runs if run.protocol == "ablation"]
    if not own:
        raise ValueError("A figure is of the ablation runs, got no such run.")
    metric = metric_of("ablation", metric)
    return dots_figure(own, metric, TITLES[metric])


def dots_figure(runs: Sequence[Run], metric: str, name: str) -> Figure:
    """Draw a dot for each line: a panel for each dataset, side by side, with the same lines.

    Args:
        runs: of one protocol; measured on "test".
        metric: of the results, a fraction.
        name: of the metric.
    """
    lines, datasets = make_lines(runs), distinct(run.data for run in runs)
    characters = int(NAMES_SHARE * PAGE_WIDTH * CHARACTERS_PER_INCH)
    labels = [textwrap.fill(line.label, characters) for line in lines]
    figure, panels = _panels_side_by_side(len(datasets), sum(label.count("\n") + 1 for label in labels))
    for place, data in zip(panels, datasets, strict=True):
        _draw_dots(place, lines, data, metric)
        name_panel(place, data, False)
        _finish_panel(place, len(lines), f"{name} (%)")
    panels[0].set_yticks(range(len(labels)), labels, parse_math=False)
    return figure


def _panels_side_by_side(count: int, text_lines: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAGE_WIDTH, AROUND + LINE_HEIGHT * text_lines), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, sharey=True, squeeze=False)[0])


def _draw_dots(axes: Axes, lines: Sequence[Line], data: str, metric: str) -> None:
    colors = method_colors()
    for position, line in enumerate(lines):
        value = over_seeds(line.by_seed("test", metric, data=data))
        if value is None:
            continue
        color, spread = colors.get(line.method, NOBODYS), 100 * (value.std or 0)
        axes.errorbar(100 * value.mean, position, xerr=spread or None, color=color, elinewidth=0.9, capsize=2)
        axes.plot(100 * value.mean, position, "o", color=color, markersize=4)


def _finish_panel(axes: Axes, count: int, name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlabel(name, fontsize=SMALL_FONT)
    axes.tick_params(axis="y", length=0, labelsize=SMALL_FONT)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.margins(x=0.08)
