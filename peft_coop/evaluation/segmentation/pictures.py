"""Pictures of classified pixels: masks in colour, over the image, with a legend; and score maps."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Steps of the hue, so that classes beside each other in the list differ most; brightness changes, too.
GOLDEN = 0.618034
SHADES = ((0.85, 0.95), (0.55, 0.8), (0.95, 0.6))
NONE = (255, 255, 255)
OPACITY = 0.55
LEGEND_FONT = 14  # pixels
# Panels in a row of a picture of score maps, and the most that it has.
PANELS_IN_ROW = 4
MOST_PANELS = 24
PANEL = 1.7  # inches


def class_colours(num_classes: int) -> np.ndarray:
    """A colour for each class, the same for the same number of its place: `[K, 3]`, uint8."""
    colours = []
    for index in range(num_classes):
        saturation, value = SHADES[index % len(SHADES)]
        colours.append(colorsys.hsv_to_rgb(index * GOLDEN % 1, saturation, value))
    return (255 * np.array(colours).reshape(-1, 3)).round().astype(np.uint8)


def coloured(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Classes `[H, W]` as colours `[H, W, 3]`, uint8; white where there is none."""
    colours = np.vstack([class_colours(num_classes), NONE]).astype(np.uint8)
    return colours[np.where((labels >= 0) & (labels < num_classes), labels, num_classes)]


def mask_picture(labels: np.ndarray, num_classes: int) -> Picture:
    """Classes `[H, W]` as a picture whose values are their numbers: with colours up to 256 classes, else of 16 bits.

    Programs show the colours, and `MaskValues` reads the numbers again.
    """
    if num_classes > 256:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8)).convert("P")
    palette = np.full((256, 3), NONE, dtype=np.uint8)
    palette[:num_classes] = class_colours(num_classes)
    picture.putpalette(palette.ravel().tolist())
    picture.putdata(labels.astype(np.uint8).ravel().tolist())
    return picture


def overlay(image: Picture, labels: np.ndarray, class_names: Sequence[str]) -> Picture:
    """An image with its classes in colour over it, and a legend of those that it has below.

    Args:
        image: in RGB, H by W.
        labels: `[H, W]`.
        class_names: in the order of the labels.
    """
    colours = coloured(labels, len(class_names)).astype(np.float64)
    mixed = (1 - OPACITY) * np.asarray(image) + OPACITY * colours
    found, counts = np.unique(labels[(labels >= 0) & (labels < len(class_names))], return_counts=True)
    shown = [(int(found[place]), counts[place] / labels.size) for place in counts.argsort()[::-1]]
    legend = _legend(shown, class_names, max(image.width, 160))
    whole = Image.new("RGB", (max(image.width, legend.width), image.height + legend.height), "white")
    whole.paste(Image.fromarray(mixed.round().astype(np.uint8)), (0, 0))
    whole.paste(legend, (0, image.height))
    return whole


def _legend(shown: Sequence[tuple[int, float]], class_names: Sequence[str], width: int) -> Picture:
    """Names and shares of classes, each beside its colour, in lines that fit the width."""
    font = ImageFont.load_default(LEGEND_FONT)
    colours, line = class_colours(len(class_names)), LEGEND_FONT + 6
    texts = [f"{class_names[label]} {f'{100 * share:.0f}' if share >= 0.005 else '<1'}%" for label, share in shown]
    places, x, y = [], 0, 0
    for text in texts:
        taken = LEGEND_FONT + 18 + int(font.getlength(text))
        if x and x + taken > width:
            x, y = 0, y + line
        places.append((x, y))
        x += taken
    widest = max(
        [width, *(x + LEGEND_FONT + 18 + int(font.getlength(t)) for (x, _), t in zip(places, texts, strict=True))]
    )
    legend = Image.new("RGB", (widest, y + line + 4), "white")
    pen = ImageDraw.Draw(legend)
    for (label, _), text, (x, y) in zip(shown, texts, places, strict=True):
        pen.rectangle((x + 4, y + 4, x + 4 + LEGEND_FONT, y + 4 + LEGEND_FONT), fill=tuple(colours[label].tolist()))
        pen.text((x + LEGEND_FONT + 10, y + 3), text, font=font, fill="black")
    return legend


def score_map_figure(
    image: Picture,
    prediction: np.ndarray,
    maps: np.ndarray,
    class_names: Sequence[str],
    truth: np.ndarray | None = None,
) -> Figure:
    """Draw an image, its classes, and how close each of its places is to each class: a panel for each.

    Of many classes those are shown that the image has or is taken to have, up to 24. All score maps have one scale.

    Args:
        image: in RGB, H by W.
        prediction: `[H, W]`, the predicted classes.
        maps: `[K, h, w]`, cosines.
        class_names: of the K classes.
        truth: `[H, W]`, the true classes, where they are known.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _shown_classes(prediction, truth, len(class_names))
    first = {"image": np.asarray(image), "truth": truth, "prediction": prediction}
    panels = {name: each for name, each in first.items() if each is not None}
    rows = -(-(len(panels) + len(shown)) // PANELS_IN_ROW)
    figure = Figure(figsize=(PANEL * PANELS_IN_ROW + 0.6, (PANEL + 0.25) * rows), layout="constrained")
    FigureCanvasAgg(figure)
    places = list(figure.subplots(rows, PANELS_IN_ROW, squeeze=False).ravel())
    for place in places:
        place.set_axis_off()
    for place, (name, each) in zip(places, panels.items(), strict=False):
        _name(place, name, None)
        place.imshow(each if each.ndim == 3 else coloured(each, len(class_names)))
    colours, of_classes = class_colours(len(class_names)) / 255, places[len(panels) : len(panels) + len(shown)]
    drawn = None
    for place, label in zip(of_classes, shown, strict=True):
        _name(place, class_names[label], tuple(colours[label]))
        drawn = place.imshow(maps[label], vmin=maps.min(), vmax=maps.max(), cmap="viridis")
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=places, shrink=0.5, label="cosine of place and class")
        bar.ax.tick_params(labelsize=7)
    return figure


def _shown_classes(prediction: np.ndarray, truth: np.ndarray | None, num_classes: int) -> list[int]:
    if num_classes <= MOST_PANELS:
        return list(range(num_classes))
    labels = prediction.ravel() if truth is None else np.concatenate([truth.ravel(), prediction.ravel()])
    counts = np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)
    most = (-counts).argsort(kind="stable")[:MOST_PANELS]
    return sorted(int(label) for label in most if counts[label])


def _name(place: Axes, name: str, colour: tuple[float, ...] | None) -> None:
    """Write a panel's name above it; a class's with its colour before it."""
    place.set_title(name, fontsize=8, parse_math=False)
    if colour is not None:
        from matplotlib.patches import Rectangle

        square = Rectangle((0, 1.02), 0.07, 0.07, transform=place.transAxes, color=colour, clip_on=False)
        place.add_patch(square)
