"""Outlines of the shapes that the demo knows, and their masks.

An outline is an `(N, 2)` array of x, y points in the square from -1 to 1, y pointing down.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 3


def _polar(radius: float | Callable[[np.ndarray], np.ndarray], n_points: int = 72) -> np.ndarray:
    """Points around the centre, from the top; `radius` is a number or a function of the angle."""
    angle = np.linspace(0, 2 * np.pi, n_points, endpoint=False)
    radii = radius(angle) if callable(radius) else np.full(n_points, radius)
    return np.stack([radii * np.sin(angle), -radii * np.cos(angle)], axis=1)


def _star(n_tips: int, inner: float) -> np.ndarray:
    points = _polar(1.0, 2 * n_tips)
    points[1::2] *= inner
    return points


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -(y + 2.5) / 15], axis=1)


def _crescent() -> np.ndarray:
    """A disc less a smaller disc shifted to the right; the two circles meet at the tips."""
    tip = np.deg2rad(50)
    outer_angle = np.linspace(tip, 2 * np.pi - tip, 48)
    outer = np.stack([np.cos(outer_angle), np.sin(outer_angle)], axis=1)
    centre = 0.42
    radius = np.hypot(np.cos(tip) - centre, np.sin(tip))
    inner_tip = np.arctan2(np.sin(tip), np.cos(tip) - centre)
    inner_angle = np.linspace(2 * np.pi - inner_tip, inner_tip, 48)
    inner = np.stack([centre + radius * np.cos(inner_angle), radius * np.sin(inner_angle)], axis=1)
    return np.concatenate([outer, inner]) + np.array([0.2, 0.0])


def _mirrored(right_half: list[tuple[float, float]]) -> np.ndarray:
    """An outline that is its own mirror image, from the points of its right half, top to bottom."""
    return np.array(right_half + [(-x, y) for x, y in reversed(right_half)])


_SQUARE = np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])

# The first outline of a shape is filled, any further one is cut out of it.
OUTLINES: dict[str, list[np.ndarray]] = {
    "circle": [_polar(0.95)],
    "square": [_SQUARE],
    "triangle": [np.array([(0, -0.95), (0.98, 0.8), (-0.98, 0.8)])],
    "star": [_star(5, 0.42)],
    "heart": [_heart()],
    "cross": [_mirrored([(0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1)])],
    "ring": [_polar(0.97), _polar(0.55)],
    "moon": [_crescent()],
    "hexagon": [_polar(0.97, 6)],
    "flower": [_polar(lambda angle: 0.5 + 0.47 * np.abs(np.cos(2.5 * angle)))],
    "arrow": [_mirrored([(0, -1), (0.85, 0), (0.3, 0), (0.3, 1)])],
    "house": [_mirrored([(0, -1), (0.95, -0.1), (0.7, -0.1), (0.7, 0.95)])],
}


def shape_mask(
    shape: str, size: int, radius: float, centre: tuple[float, float], turn: float, stretch: float
) -> np.ndarray:
    """How much of each pixel a shape covers.

    Args:
        shape: a key of `OUTLINES`.
        size: side of the square picture, in pixels.
        radius: half the side of the shape's square, in pixels.
        centre: x and y of its centre, in pixels.
        turn: rotation in degrees, clockwise.
        stretch: width over height.

    Returns:
        `[size, size]`, float32 from 0 to 1.

    Raises:
        ValueError: if `shape` is not a known one.
    """
    if shape not in OUTLINES:
        raise ValueError(f"`shape` must be one of {sorted(OUTLINES)}, got {shape!r}.")
    canvas = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    scale = radius * np.array([np.sqrt(stretch), 1 / np.sqrt(stretch)])
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    rotation = np.array([[cos, sin], [-sin, cos]])
    for i, outline in enumerate(OUTLINES[shape]):
        points = ((outline * scale) @ rotation + centre) * SUPERSAMPLING
        pen.polygon([tuple(point) for point in points], fill=0 if i else 255)
    small = canvas.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255
