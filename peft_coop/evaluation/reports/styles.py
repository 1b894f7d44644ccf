"""Colours and markers of the lines of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...methods import METHODS
from .grouped_runs import Line

# What learns nothing is grey.
GREYS = {"zero-shot": "#3b3b3b", "prompt-ensemble": "#8c8c8c", "prompt-ensemble-80": "#b3b3b3"}
# Colours that the colour-blind can tell apart (Okabe and Ito) and, where these are at an end, others between them;
# METHODS has those of the prompt methods.
BASELINES = {
    "text-bias": "#56b4e9",
    "text-transform": "#e69f00",
    "image-encoder": "#cc79a7",
    "linear-probe": "#009e73",
    "tip-adapter": "#882255",
    "tip-adapter-f": "#e31a8c",
    "clip-adapter": "#8a8d0f",
    "gda": "#7bc62d",
    "layer-norm": "#6a51a3",
    "two-stage": "#a6761d",
    "lora": "#1b4f72",
}
YELLOW = "#f0e442"  # hard to see on white: nobody's own
MARKERS = "osD^vPX<>"


@dataclass(frozen=True)
class Style:
    """How a line is drawn, the same in every picture of the same methods."""

    color: str
    marker: str


def method_colors() -> dict[str, str]:
    """The colours of the methods that have one of their own, by their keys."""
    prompts = {key: method.colour for key, method in reversed(METHODS.items()) if method.colour}
    return GREYS | BASELINES | prompts


def line_styles(lines: Sequence[Line]) -> dict[str, Style]:
    """A style for each label: the first line of a method has the method's own colour, others what is free."""
    known = method_colors()
    first = {line.method: line.label for line in reversed(lines) if line.method in known}
    colors = {label: known[method] for method, label in first.items()}
    bright = [*(color for method, color in known.items() if method not in GREYS), YELLOW]
    free = [color for color in bright if color not in colors.values()]
    others = [line.label for line in lines if line.label not in colors]
    colors |= {label: free[number % len(free)] for number, label in enumerate(others)}
    learning = [line.label for line in lines if line.learns]
    markers = {label: MARKERS[number % len(MARKERS)] for number, label in enumerate(learning)}
    return {line.label: Style(colors[line.label], markers.get(line.label, "*")) for line in lines}
