"""Pictures of what is decided by: reliability before and after, and accuracy over coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..reports.panels import SMALL_FONT, add_legend, name_panel, panel_grid
from ..reports.styles import BASELINES, GREYS
from ..scores import reliability
from .decided import Decided, DecidedLabels
from .temperature import calibration_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_BINS = 15
GAP_COLOR, BAR_COLOR = "#d55e00", "#0072b2"
COLORS = (BAR_COLOR, GREYS["zero-shot"], BASELINES["linear-probe"], BASELINES["text-transform"], GAP_COLOR)


def reliability_figure(panels: Mapping[str, Decided | DecidedLabels]) -> Figure:
    """Draw how often answers of a confidence are right: a panel for each name, such as before and after.

    A bar's height is the share of right answers in a bin, its colour is paler the fewer images the bin has, and the red
    piece leads to the mean confidence, where the bar would end if probabilities were what happens. Where images have
    any number of labels, it is how often images have a class of a probability, of all classes together.

    Args:
        panels: images with labels.

    Raises:
        ValueError: if there is no panel, or one has images of one class each and another has several labels.

    Reference: Guo et al. (arXiv:1706.04599), figure 4.
    """
    if not panels:
        raise ValueError("There is nothing to draw: give at least one panel.")
    words = _words(panels)
    figure, axes = panel_grid(len(panels), f"{words.probability} (%)", f"{words.hits} (%)")
    for place, (title, decided) in zip(axes, panels.items(), strict=True):
        _draw_reliability(place, decided, words)
        error = calibration_scores(decided.logits, decided.true)["ece"]
        name_panel(place, f"{title}: ECE {100 * error:.1f}%", False)
        place.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    add_legend(figure, _reliability_keys(words))
    return figure


def coverage_figure(curves: Mapping[str, Decided | DecidedLabels], chosen: Sequence[float | None] = ()) -> Figure:
    """Draw the accuracy of the surest answers over the share of images that they are.

    Args:
        curves: images with labels, by what the legend calls them.
        chosen: of each curve the least probability of an answer, which gets a mark; None for no mark.

    Raises:
        ValueError: if there is no curve, or one is of images with several labels, none of which is held back.
    """
    if not curves:
        raise ValueError("There is nothing to draw: give at least one curve.")
    of_images = {name: decided for name, decided in curves.items() if isinstance(decided, Decided)}
    if len(of_images) < len(curves):
        raise ValueError(
            "Coverage is the share of images that are answered, and images with several labels are not held back as a "
            "whole: draw those of one class each."
        )
    figure, [axes] = panel_grid(1, "coverage: images answered (%)", "accuracy of the answers (%)")
    keys = []
    for number, (name, decided) in enumerate(of_images.items()):
        curve = decided.risk_coverage()
        color = COLORS[number % len(COLORS)]
        label = f"{name}: AURC {100 * curve.aurc:.1f}%"
        [line] = axes.plot(100 * curve.coverage, 100 * curve.accuracy, color=color, linewidth=1.2, label=label)
        keys.append(line)
        if number < len(chosen) and chosen[number] is not None:
            answered = decided.answered(chosen[number])
            point = 100 * answered.mean(), 100 * decided.right[answered].mean() if answered.any() else 100
            axes.plot(*point, "o", color=color, markeredgecolor="black", markersize=5, zorder=3)
    name_panel(axes, "answers from the surest to the least sure", False)
    axes.set_xlim(0, 102)
    axes.set_ylim(top=101)
    add_legend(figure, keys)
    return figure


@dataclass(frozen=True)
class Words:
    """What stands beside bars: the probability, what it is of, and what happens."""

    probability: str
    items: str
    happens: str
    hits: str


ANSWERS = Words("confidence", "images", "right", "right answers")
LABELS = Words("probability of a class", "choices", "yes", "images that have it")


def _words(panels: Mapping[str, Decided | DecidedLabels]) -> Words:
    several = {isinstance(decided, DecidedLabels) for decided in panels.values()}
    if len(several) > 1:
        raise ValueError("Images of one class each and images with several labels cannot be in one picture.")
    return LABELS if several == {True} else ANSWERS


def _draw_reliability(axes: Axes, decided: Decided | DecidedLabels, words: Words) -> None:
    probabilities, right = decided.reliability()
    bins = reliability(probabilities, right, NUM_BINS)
    width = 100 / NUM_BINS
    left = width * np.arange(NUM_BINS)
    strength = 0.25 + 0.75 * bins.images / max(bins.images.max(), 1)
    for start, share, confidence, images, alpha in zip(
        left, 100 * bins.right, 100 * bins.confidence, bins.images, strength, strict=True
    ):
        if images:
            axes.bar(start, share, width, align="edge", color=BAR_COLOR, alpha=alpha, edgecolor="white", linewidth=0.4)
            low, high = sorted((share, confidence))
            axes.bar(start, high - low, width, bottom=low, align="edge", color="none", edgecolor=GAP_COLOR, hatch="///")
    axes.plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle=":")
    axes.text(
        0.04,
        0.96,
        f"{bins.images.sum():,} {words.items}\n{100 * right.mean():.1f}% {words.happens}",
        transform=axes.transAxes,
        va="top",
        fontsize=SMALL_FONT,
    )


def _reliability_keys(words: Words) -> list:
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=BAR_COLOR, label=f"{words.hits}, pale where few"),
        Patch(facecolor="none", edgecolor=GAP_COLOR, hatch="///", label=f"gap to the {words.probability}"),
    ]
