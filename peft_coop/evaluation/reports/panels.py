"""What pictures of results have in common: colours, panels, legends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .lines import Line

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What learns nothing is grey.
GREYS = {"zero-shot": "#3b3b3b", "prompt-ensemble": "#8c8c8c", "prompt-ensemble-80": "#b3b3b3"}
# Colours that the colour-blind can tell apart (Okabe and Ito); yellow, hard to see on white, is nobody's own.
COLORS = {
    "text-bias": "#56b4e9",
    "text-transform": "#e69f00",
    "image-encoder": "#cc79a7",
    "linear-probe": "#009e73",
    "cocoop": "#d55e00",
    "coop": "#0072b2",
    "other": "#f0e442",
}
MARKERS = "osD^vPX<>"
# Width and height in inches.
PANEL = (2.5, 2.3)
SINGLE_PANEL = (4.2, 3.4)
# Points; a figure as wide as a page is printed at about its size.
FONT = 9
SMALL_FONT = 8
# Of the largest of these fonts, with room to spare.
CHARACTERS_PER_INCH = 11


@dataclass(frozen=True)
class Style:
    """How a line is drawn, the same in every picture of the same methods."""

    color: str
    marker: str


def line_styles(lines: Sequence[Line]) -> dict[str, Style]:
    """A style for each label: the first line of a method has the method's own colour, others what is free."""
    known = GREYS | COLORS
    first = {line.method: line.label for line in reversed(lines) if line.method in known}
    colors = {label: known[method] for method, label in first.items()}
    free = [color for method, color in COLORS.items() if method not in first] or list(COLORS.values())
    others = [line.label for line in lines if line.label not in colors]
    colors |= {label: free[number % len(free)] for number, label in enumerate(others)}
    learning = [line.label for line in lines if line.learns]
    markers = {label: MARKERS[number % len(MARKERS)] for number, label in enumerate(learning)}
    return {line.label: Style(colors[line.label], markers.get(line.label, "*")) for line in lines}


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
    width, height = SINGLE_PANEL if count == 1 else PANEL
    figure = Figure(figsize=(width * columns, height * rows), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    for panel in panels[-columns:]:
        panel.set_xlabel(x, fontsize=FONT)
    for panel in panels[::columns]:
        panel.set_ylabel(y, fontsize=FONT)
    return figure, panels


def name_panel(axes: Axes, title: str, is_average: bool) -> None:
    """Give a panel its title, bold for an average, and the look that all have."""
    from matplotlib.ticker import MaxNLocator

    grid = axes.get_gridspec()
    width = axes.figure.bbox.width / axes.figure.dpi / (grid.ncols if grid else 1)
    lines = textwrap.fill(title, int(CHARACTERS_PER_INCH * width))
    # Names are shown as they are: between dollar signs, matplotlib would read formulas.
    axes.set_title(lines, fontsize=FONT + 1, fontweight="bold" if is_average else "normal", parse_math=False)
    axes.tick_params(labelsize=SMALL_FONT)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.1)


def add_legend(figure: Figure, keys: Sequence[Artist]) -> None:
    """Put a legend below the panels, row by row in as many columns as the width holds; the figure grows by it."""
    width = int(CHARACTERS_PER_INCH * figure.get_figwidth())
    for key in keys:
        key.set_label(textwrap.fill(str(key.get_label()), width))
    for columns in range(len(keys), 0, -1):
        by_column = [key for column in range(columns) for key in keys[column::columns]]
        legend = figure.legend(
            handles=by_column, loc="outside lower center", ncols=columns, fontsize=FONT, frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        legend.remove()
