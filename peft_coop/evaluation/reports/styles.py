"""Colours and markers of the lines of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .grouped_runs import Line

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
