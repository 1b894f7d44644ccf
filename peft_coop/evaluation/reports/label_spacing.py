"""Texts in pictures that must not touch their neighbours: known only once a picture is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation, Text
    from matplotlib.transforms import Bbox

# Points.
TINY_FONT = 6
LABEL_GAP = 3
# What two texts on one line keep between them, as a share of their height.
AIR = 0.25


def label_value(axes: Axes, position: float, height: float, text: str) -> None:
    """Write a number above what is drawn; `separate_labels` gives it its final place."""
    above = (0, LABEL_GAP)
    axes.annotate(text, (position, height), above, textcoords="offset points", ha="center", fontsize=TINY_FONT)


def separate_labels(figure: Figure) -> None:
    """Turn all numbers above bars upright where two of them touch, and leave room for them below the titles."""
    figure.draw_without_rendering()
    if any(touch(axes.texts) for axes in figure.axes):
        for axes in figure.axes:
            for label in axes.texts:
                label.set_rotation(90)
        figure.draw_without_rendering()
    for axes in figure.axes:
        _make_room(axes)


def thin_ticks(figure: Figure) -> None:
    """Leave out names of ticks that would touch the one to their right: the largest number stays."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        kept: list[Text] = []
        names: list[str] = []
        for tick in reversed(axes.get_xticklabels()):
            is_free = not touch([*kept[-1:], tick])
            names.append(tick.get_text() if is_free else "")
            kept += [tick] if is_free else []
        axes.set_xticks(axes.get_xticks(), names[::-1])


def touch(texts: Sequence[Text]) -> bool:
    """Whether two neighbours among some drawn texts touch, or nearly do."""
    boxes = sorted((text.get_window_extent() for text in texts if text.get_text()), key=lambda box: box.x0)
    return any(
        left.x1 + AIR * min(text_height(left), text_height(right)) > right.x0
        and left.y0 < right.y1
        and right.y0 < left.y1
        for left, right in pairwise(boxes)
    )


def text_height(box: Bbox) -> float:
    """The font's height of a text's box, upright or not."""
    return min(box.width, box.height)


def _make_room(axes: Axes) -> None:
    """Raise the vertical axis's end so far that no number reaches over it."""
    labels = [cast("Annotation", text) for text in axes.texts]
    if not labels:
        return
    low, high = axes.get_ylim()
    pixels = axes.get_window_extent().height
    gap = LABEL_GAP * axes.figure.dpi / 72
    # A number that starts at `height` ends at the top if the axis goes on for as many pixels as the number has.
    needed = [
        low + (label.xy[1] - low) / (1 - min(0.9, (label.get_window_extent().height + 2 * gap) / pixels))
        for label in labels
    ]
    axes.set_ylim(low, max(high, *needed))
    # A tick above 100% would look as if there were such values.
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(100, axes.get_ylim()[1])])
