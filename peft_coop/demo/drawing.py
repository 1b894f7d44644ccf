"""Draw a coloured shape in a style: the pictures of the `shapes` and `compositions` tasks, and of the pretraining."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .outlines import OUTLINES, shape_mask
from .styles import BACKGROUNDS, COLOURS, STYLES, vary_colour
from .textures import FINE_TEXTURES, PlacedShape, Texture

IMAGE_SIZE = 48  # pixels; what the demo's CLIP reads
TEXTURES = tuple(FINE_TEXTURES)
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


def draw_shape(picture: ShapePicture, rng: Generator, textures: Mapping[str, Texture] = FINE_TEXTURES) -> np.ndarray:
    """Draw a picture of a shape.

    Args:
        picture: what is to be seen.
        rng: NumPy generator for everything else.
        textures: how each texture is drawn.

    Returns:
        `[48, 48, 3]`, uint8.

    Raises:
        ValueError: if the shape is not a known one.
    """
    radius = rng.uniform(*SIZES[picture.size])
    room = 0.6 * (IMAGE_SIZE / 2 - radius)
    centre = tuple(IMAGE_SIZE / 2 + rng.uniform(-room, room, 2))
    turn, stretch = rng.uniform(-18, 18), rng.uniform(0.8, 1.25)
    mask = shape_mask(picture.shape, IMAGE_SIZE, radius, centre, turn, stretch)
    colour = vary_colour(COLOURS[picture.colour], rng)
    background = vary_colour(BACKGROUNDS[picture.background], rng)
    pattern = textures[picture.texture](PlacedShape(mask, radius, centre, turn), rng)[..., None]
    painted = pattern * colour + (1 - pattern) * (0.3 * colour + 0.7)
    drawn = STYLES[picture.style](mask, painted, background, rng)
    return (np.clip(drawn, 0, 1) * 255).round().astype(np.uint8)
