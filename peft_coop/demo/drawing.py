"""Draw a coloured shape in a style: the pictures of the `shapes` task and of the pretraining."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .outlines import OUTLINES, shape_mask
from .styles import BACKGROUNDS, COLOURS, STYLES, vary_colour

IMAGE_SIZE = 48  # pixels; what the demo's CLIP reads
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES: dict[str, tuple[float, float]] = {  # radius in pixels, from and to
    "small": (10.0, 13.0),
    "medium": (13.0, 17.0),
    "large": (17.0, 21.0),
}

# Colour and shape of the classes of the `shapes` task: never drawn for pretraining, in any style.
HELD_OUT: tuple[tuple[str, str], ...] = (
    # base classes
    ("red", "circle"),
    ("blue", "star"),
    ("green", "heart"),
    ("yellow", "square"),
    ("pink", "moon"),
    ("orange", "cross"),
    ("purple", "hexagon"),
    ("cyan", "arrow"),
    ("red", "flower"),
    ("green", "triangle"),
    # new classes
    ("blue", "circle"),
    ("orange", "star"),
    ("pink", "heart"),
    ("purple", "square"),
    ("yellow", "moon"),
    ("cyan", "cross"),
    ("red", "ring"),
    ("green", "house"),
    ("orange", "hexagon"),
    ("blue", "flower"),
)


@dataclass(frozen=True)
class ShapePicture:
    """What is to be seen in a picture; position, lighting and noise are left to chance."""

    colour: str
    shape: str
    style: str
    texture: str = "plain"
    size: str = "medium"
    background: str = "grey"


def sample_picture(rng: Generator, styles: dict[str, float], pairs: list[tuple[str, str]]) -> ShapePicture:
    """Choose what to draw.

    Args:
        rng: NumPy generator.
        styles: how often each style is wanted; need not add up to one.
        pairs: the (colour, shape) pairs to choose from.
    """
    weights = np.array(list(styles.values()))
    style = str(rng.choice(list(styles), p=weights / weights.sum()))
    colour, shape = pairs[rng.integers(len(pairs))]
    texture = TEXTURES[rng.integers(1, len(TEXTURES))] if rng.random() < 0.35 else "plain"
    size = str(rng.choice(list(SIZES)))
    return ShapePicture(colour, shape, style, texture, size, str(rng.choice(list(BACKGROUNDS))))


def all_pairs(without: tuple[tuple[str, str], ...] = ()) -> list[tuple[str, str]]:
    """Every (colour, shape), less those in `without`."""
    return [(colour, shape) for colour in COLOURS for shape in OUTLINES if (colour, shape) not in without]


def texture_pattern(texture: str, size: int, rng: Generator) -> np.ndarray:
    """`[size, size]` from 0 to 1: 1 where a textured shape has its colour, 0 where it is paler."""
    if texture == "plain":
        return np.ones((size, size))
    angle = rng.uniform(0, np.pi)
    period = rng.uniform(4.5, 7.5)
    y, x = np.mgrid[:size, :size] * (2 * np.pi / period)
    across = np.sin(x * np.cos(angle) + y * np.sin(angle))
    along = np.sin(y * np.cos(angle) - x * np.sin(angle))
    waves = {"striped": across, "dotted": across + along - 0.6, "checked": 3 * across * along}
    return 0.5 + 0.5 * np.clip(2.5 * waves[texture], -1, 1)


def draw_shape(picture: ShapePicture, rng: Generator) -> np.ndarray:
    """Draw a picture of a shape.

    Args:
        picture: what is to be seen.
        rng: NumPy generator for everything else.

    Returns:
        `[48, 48, 3]`, uint8.

    Raises:
        ValueError: if the shape is not a known one.
    """
    radius = rng.uniform(*SIZES[picture.size])
    room = 0.6 * (IMAGE_SIZE / 2 - radius)
    centre = tuple(IMAGE_SIZE / 2 + rng.uniform(-room, room, 2))
    mask = shape_mask(picture.shape, IMAGE_SIZE, radius, centre, rng.uniform(-18, 18), rng.uniform(0.8, 1.25))
    colour = vary_colour(COLOURS[picture.colour], rng)
    background = vary_colour(BACKGROUNDS[picture.background], rng)
    pattern = texture_pattern(picture.texture, IMAGE_SIZE, rng)[..., None]
    painted = pattern * colour + (1 - pattern) * (0.3 * colour + 0.7)
    drawn = STYLES[picture.style](mask, painted, background, rng)
    return (np.clip(drawn, 0, 1) * 255).round().astype(np.uint8)
