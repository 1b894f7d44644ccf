"""What pictures of results have in common: panels and legends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .finished_runs import OF_SEVERAL, OF_VIDEOS, Run, check_metric, metric_of
from .grouped_runs import distinct

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Inches: a column and a page of a paper in two columns. A figure is printed at its own size, and so are its fonts.
COLUMN_WIDTH = 3.25
PAGE_WIDTH = 6.75
# Heights of panels, by how many stand beside each other.
PANEL_HEIGHTS = {1: 2.4, 2: 2.3, 3: 2.0, 4: 1.7}
# Points.
FONT = 8
SMALL_FONT = 7
# Of the larger font, with room to spare.
CHARACTERS_PER_INCH = 13
# What a key's picture and the space around it take of a legend's line, in characters.
KEY_CHARACTERS = 4
# Lines of a legend in one column from which on two columns are better.
HIGH_LEGEND = 6


def runs_of(runs: Sequence[Run], protocol: str, metric: str) -> tuple[list[Run], str]:
    """The runs that a figure shows, and which of their metrics.

    They are of a protocol, or of that with videos or with several labels per image where there is none of it.

    Raises:
        ValueError: if there is none, they are of several models, or there is no such metric.
    """
    check_metric(metric)
    by_name = ([run for run in runs if run.protocol == f"{kind}{protocol}"] for kind in ("", OF_VIDEOS, OF_SEVERAL))
    own: list[Run] = next(filter(None, by_name), [])
    models = distinct(run.model for run in own)
    if len(models) != 1:
        raise ValueError(f"A figure is of the {protocol} runs of one model, got {models or 'no such run'}.")
    return own, metric_of(own[0].protocol, metric)


def dataset_panels(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The datasets of each panel, by its title."""
    datasets = distinct(run.data for run in runs)
    average = {f"average over {len(datasets)} datasets": datasets} if len(datasets) > 1 else {}
    return average | {data: [data] for data in datasets}


def panel_grid(count: int, x: str, y: str) -> tuple[Figure, list[Axes]]:
    """A figure of panels, in rows of equal length where that looks well.

    Args:
        count: how many panels.
        x: name of the horizontal axis, written below the lowest panels.
        y: name of the vertical axis, written beside the left panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = count if count <= 3 else 3 if count in (5, 6, 9) else 4
    rows = -(-count // columns)
    size = COLUMN_WIDTH if count == 1 else PAGE_WIDTH, PANEL_HEIGHTS[columns] * rows
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04))
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    for panel in panels[-columns:]:
        panel.set_xlabel(x, fontsize=SMALL_FONT)
    for panel in panels[::columns]:
        panel.set_ylabel(y, fontsize=SMALL_FONT)
    return figure, panels


def name_panel(axes: Axes, title: str, is_average: bool) -> None:
    """Give a panel its title, bold for an average, and the look that all have."""
    from matplotlib.ticker import MaxNLocator

    grid = axes.get_gridspec()
    width = axes.figure.bbox.width / axes.figure.dpi / (grid.ncols if grid else 1)  # inches
    lines = textwrap.fill(title, int(CHARACTERS_PER_INCH * width))
    # Names are shown as they are: between dollar signs, matplotlib would read formulas.
    axes.set_title(lines, fontsize=FONT, fontweight="bold" if is_average else "normal", parse_math=False)
    axes.tick_params(labelsize=SMALL_FONT)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.1)


def add_legend(figure: Figure, keys: Sequence[Artist]) -> None:
    """Put a legend below the panels, row by row in as many columns as the width holds; the figure grows by it.

    Names are broken where one is wider than the figure, and where one column of many would be too high.
    """
    whole = int(CHARACTERS_PER_INCH * figure.get_figwidth())
    half = [(2, whole // 2 - KEY_CHARACTERS)] if len(keys) > HIGH_LEGEND else []
    for columns, characters in [*((count, whole) for count in range(len(keys), 1, -1)), *half, (1, whole)]:
        legend = _make_legend(figure, keys, columns, characters)
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        legend.remove()


def _make_legend(figure: Figure, keys: Sequence[Artist], columns: int, characters: int) -> Legend:
    """A legend whose keys follow each other row by row, their names broken after so many characters."""
    by_column = [key for column in range(columns) for key in keys[column::columns]]
    legend = figure.legend(
        handles=by_column,
        labels=[textwrap.fill(str(key.get_label()), characters) for key in by_column],
        loc="outside lower center",
        ncols=columns,
        fontsize=SMALL_FONT,
        frameon=False,
        handlelength=1.8,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend
