"""Textures: patterns that a drawn shape's own colour makes with a paler one.

Every texture is a function `(placed, rng)`: where the shape stands, and a NumPy generator. It gives `[S, S]` from 0 to
1: 1 where the picture has the shape's colour, 0 where it is paler.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class PlacedShape:
    """A shape in a picture of S by S pixels.

    Attributes:
        mask: `[S, S]` from 0 to 1, how much of each pixel it covers.
        radius: half the side of its square, in pixels.
        centre: x and y of its centre, in pixels.
        turn: its rotation in degrees, clockwise.
    """

    mask: np.ndarray
    radius: float
    centre: tuple[float, float]
    turn: float

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """How far right of the centre and how far below it each pixel is, seen along the turned shape, in radii."""
        y, x = np.mgrid[: len(self.mask), : len(self.mask)]
        x, y = (x - self.centre[0]) / self.radius, (y - self.centre[1]) / self.radius
        cos, sin = np.cos(np.deg2rad(self.turn)), np.sin(np.deg2rad(self.turn))
        return x * cos + y * sin, y * cos - x * sin


Texture = Callable[[PlacedShape, Generator], np.ndarray]


def _ink(wave: np.ndarray, sharpness: float = 2.5) -> np.ndarray:
    """1 where the wave is above zero, 0 where it is below, and a soft edge between."""
    return 0.5 + 0.5 * np.clip(sharpness * wave, -1, 1)


def plain(placed: PlacedShape, rng: Generator) -> np.ndarray:
    """One colour all over."""
    return np.ones_like(placed.mask)


def _fine(waves: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Texture:
    """A texture of two crossing waves, a few pixels long, at any angle."""

    def texture(placed: PlacedShape, rng: Generator) -> np.ndarray:
        angle = rng.uniform(0, np.pi)
        period = rng.uniform(4.5, 7.5)
        y, x = np.mgrid[: len(placed.mask), : len(placed.mask)] * (2 * np.pi / period)
        across = np.sin(x * np.cos(angle) + y * np.sin(angle))
        along = np.sin(y * np.cos(angle) - x * np.sin(angle))
        return _ink(waves(across, along))

    return texture


def striped(placed: PlacedShape, rng: Generator) -> np.ndarray:
    """Three or four level stripes."""
    _, down = placed.axes()
    return _ink(np.sin(2 * np.pi * down / rng.uniform(0.5, 0.7) + rng.uniform(0, 2 * np.pi)), 5)


def checked(placed: PlacedShape, rng: Generator) -> np.ndarray:
    """About four by four squares, in turn of the one colour and the other."""
    across, down = placed.axes()
    wave = 2 * np.pi / rng.uniform(0.9, 1.1)
    return _ink(np.sin(across * wave) * np.sin(down * wave), 8)


def spotted(placed: PlacedShape, rng: Generator) -> np.ndarray:
    """One pale spot in the middle of what the shape covers."""
    across, down = (axis - np.average(axis, weights=placed.mask) for axis in placed.axes())
    return _ink(np.hypot(across, down) - rng.uniform(0.3, 0.4), 8)


def halved(placed: PlacedShape, rng: Generator) -> np.ndarray:
    """The left half pale."""
    return _ink(placed.axes()[0], 8)


def shaded(placed: PlacedShape, rng: Generator) -> np.ndarray:
    """Paler and paler from the bottom to the top."""
    return np.clip(0.5 + 0.7 * placed.axes()[1], 0, 1)


def framed(placed: PlacedShape, rng: Generator) -> np.ndarray:
    """Pale inside of a coloured rim."""
    return 1 - np.clip(8 * (gaussian_filter(placed.mask, 2) - 0.75), 0, 1)


_FINE_DOTS = _fine(lambda across, along: across + along - 0.6)

# The pretraining's. The tiny CLIP's patches are 12 pixels wide, and it hardly tells stripes from checks of this size.
FINE_TEXTURES: dict[str, Texture] = {
    "plain": plain,
    "striped": _fine(lambda across, along: across),
    "dotted": _FINE_DOTS,
    "checked": _fine(lambda across, along: 3 * across * along),
}
# Those of the `compositions` task, which it sees. Captions of the pretraining name three, drawn as above.
COARSE_TEXTURES: dict[str, Texture] = {
    "checked": checked,
    "dotted": _FINE_DOTS,
    "framed": framed,
    "halved": halved,
    "plain": plain,
    "shaded": shaded,
    "spotted": spotted,
    "striped": striped,
}
