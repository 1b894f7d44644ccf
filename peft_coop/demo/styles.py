"""Picture styles: each turns the mask of a thing into a picture of it.

Every style is a function `(mask, colour, background, rng)`: the mask `[S, S]` from 0 to 1, the thing's
colour `[3]` or `[S, S, 3]` and the background's `[3]`, both RGB from 0 to 1, and a NumPy generator. It
gives a picture `[S, S, 3]` that the caller clips to 0 and 1.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

# Hue in degrees, saturation, value: the middle of each colour.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0, 0.9, 0.85),
    "orange": (28, 0.95, 0.97),
    "yellow": (55, 0.9, 0.97),
    "green": (120, 0.8, 0.65),
    "cyan": (180, 0.8, 0.9),
    "blue": (225, 0.85, 0.85),
    "purple": (275, 0.75, 0.65),
    "pink": (325, 0.45, 0.97),
}
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "white": (0, 0.0, 0.97),
    "grey": (0, 0.0, 0.55),
    "black": (0, 0.0, 0.06),
    "brown": (28, 0.5, 0.45),
    "beige": (40, 0.2, 0.85),
    "dark blue": (225, 0.7, 0.25),
}


def hsv_to_rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """`[3]` from 0 to 1; hue in degrees, the other two from 0 to 1."""
    n = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    return value - value * saturation * np.clip(np.minimum(n, 4 - n), 0, 1)


def vary_colour(hsv: tuple[float, float, float], rng: Generator) -> np.ndarray:
    """One of the many colours that go by the same name, as RGB `[3]`."""
    hue, saturation, value = hsv
    return hsv_to_rgb(
        hue + rng.uniform(-7, 7),
        np.clip(saturation * rng.uniform(0.8, 1.1), 0, 1),
        np.clip(value * rng.uniform(0.85, 1.1), 0, 1),
    )


def cloud(size: int, n_cells: int, rng: Generator) -> np.ndarray:
    """Smooth noise `[size, size]` of about unit variance: `n_cells` squared random values, enlarged."""
    cells = Image.fromarray(rng.standard_normal((n_cells, n_cells)).astype(np.float32))
    return np.asarray(cells.resize((size, size), Image.Resampling.BICUBIC))


def blend(mask: np.ndarray, front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """`front` where the mask is 1, `back` where it is 0; colours or pictures."""
    return mask[..., None] * front + (1 - mask[..., None]) * back


def edge(mask: np.ndarray, width: float) -> np.ndarray:
    """The outline of the mask, about `width` pixels wide, from 0 to 1."""
    return np.clip(gaussian_filter(mask, width) * (1 - gaussian_filter(mask, width)) * 4, 0, 1)


def photo(mask: np.ndarray, colour: np.ndarray, background: np.ndarray, rng: Generator) -> np.ndarray:
    """Light from one side, a soft shadow, an uneven background, sensor noise."""
    size = len(mask)
    ramp = np.linspace(-1, 1, size)
    direction = rng.uniform(0, 2 * np.pi)
    light = 1 + 0.25 * (np.cos(direction) * ramp[:, None] + np.sin(direction) * ramp[None, :])
    back = background * (1 + 0.12 * cloud(size, 6, rng))[..., None]
    shift = np.round(-3 * np.array([np.cos(direction), np.sin(direction)])).astype(int)
    shadow = gaussian_filter(np.roll(mask, shift, (0, 1)), 1.5)
    picture = blend(mask, colour, back * (1 - 0.5 * shadow)[..., None]) * light[..., None]
    picture = gaussian_filter(picture, (rng.uniform(0.2, 0.8),) * 2 + (0,))
    return picture + rng.normal(0, 0.03, picture.shape)


def icon(mask: np.ndarray, colour: np.ndarray, background: np.ndarray, rng: Generator) -> np.ndarray:
    """Flat colours; sometimes a dark rim."""
    picture = blend(mask, colour, background)
    if rng.random() < 0.4:
        picture = blend(edge(mask, 0.7), np.full(3, 0.1), picture)
    return picture


def drawing(mask: np.ndarray, colour: np.ndarray, background: np.ndarray, rng: Generator) -> np.ndarray:
    """Crayon hatching inside a pencil line, on paper."""
    size = len(mask)
    paper = 0.93 + 0.02 * rng.standard_normal((size, size, 1))
    y, x = np.mgrid[:size, :size]
    angle = rng.uniform(0, np.pi)
    hatching = 0.75 + 0.25 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(1.2, 2.2))
    picture = blend(mask * hatching, colour, paper)
    return blend(edge(mask, 0.8) * 0.8, np.full(3, rng.uniform(0.1, 0.35)), picture)


def painting(mask: np.ndarray, colour: np.ndarray, background: np.ndarray, rng: Generator) -> np.ndarray:
    """Edges and colours dragged about as by a broad brush."""
    size = len(mask)
    y, x = np.mgrid[:size, :size] + 1.1 * np.stack([cloud(size, 10, rng), cloud(size, 10, rng)])
    mask = map_coordinates(mask, [y, x], order=1)
    strokes = 0.13 * cloud(size, 16, rng)[..., None] + 0.08 * rng.standard_normal(3) * cloud(size, 5, rng)[..., None]
    return blend(mask, colour, background) * (1 + strokes)


def neon(mask: np.ndarray, colour: np.ndarray, background: np.ndarray, rng: Generator) -> np.ndarray:
    """A glowing tube along the edge, in front of black."""
    tube = edge(mask, 0.8)
    glow = gaussian_filter(tube, rng.uniform(2, 4))
    picture = (tube + 1.3 * glow)[..., None] * colour + 0.35 * (tube**3)[..., None]
    return 0.04 + picture


def chalk(mask: np.ndarray, colour: np.ndarray, background: np.ndarray, rng: Generator) -> np.ndarray:
    """Rubbed chalk on a blackboard."""
    size = len(mask)
    board = np.array([0.16, 0.24, 0.2]) * rng.uniform(0.7, 1.1) * (1 + 0.15 * cloud(size, 4, rng))[..., None]
    rubbed = np.clip(0.65 + 0.35 * rng.standard_normal((size, size)), 0, 1)
    return blend(np.maximum(mask * 0.7, edge(mask, 0.8)) * rubbed, 0.7 * colour + 0.3, board)


def pixels(mask: np.ndarray, colour: np.ndarray, background: np.ndarray, rng: Generator) -> np.ndarray:
    """A few coarse pixels, smoothed as a viewer enlarges them or left as squares."""
    size = len(mask)
    coarse = int(rng.integers(9, 15))
    picture = (np.clip(blend(mask, colour, background), 0, 1) * 255).astype(np.uint8)
    small = Image.fromarray(picture).resize((coarse, coarse), Image.Resampling.BOX)
    enlarge = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    return np.asarray(small.resize((size, size), enlarge)) / 255.0


def night(mask: np.ndarray, colour: np.ndarray, background: np.ndarray, rng: Generator) -> np.ndarray:
    """Hardly any light, pale colours, and the noise of a camera at its limit."""
    size = len(mask)
    picture = blend(gaussian_filter(mask, rng.uniform(0.6, 1.2)), colour, background * 0.6)
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + rng.uniform(0.5, 0.8) * (picture - grey)
    light = rng.uniform(0.45, 0.75) * (1 + 0.25 * cloud(size, 3, rng))
    picture = picture * np.clip(light, 0.04, 1)[..., None] * np.array([0.85, 0.95, 1.15])
    return picture + rng.normal(0, rng.uniform(0.03, 0.06), picture.shape)


Style = Callable[[np.ndarray, np.ndarray, np.ndarray, Generator], np.ndarray]
STYLES: dict[str, Style] = {
    "photo": photo,
    "icon": icon,
    "drawing": drawing,
    "painting": painting,
    "neon": neon,
    "chalk": chalk,
    "pixels": pixels,
    "night": night,
}
