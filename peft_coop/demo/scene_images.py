"""The `scenes` task: pictures of several drawn shapes before a background, and the class of each of their pixels."""

import numpy as np
from datasets import Dataset, Features, Image
from numpy.random import Generator
from PIL import Image as PILImage
from scipy.ndimage import gaussian_filter

from .drawing import HELD_OUT
from .outlines import shape_mask
from .styles import BACKGROUNDS, COLOURS, blend, cloud, edge, vary_colour

SCENES_SEED = 22_000_000  # far from any seed that the pretraining and the other tasks draw with
SCENE_SIZE = 96  # pixels; twice what the tiny CLIP reads
SCENES = {"train": 48, "test": 120}
GROUNDS = ("grey", "brown", "dark blue")
# The first ten of the `shapes` task: the pretraining has drawn none of these pairs of a colour and a shape.
THINGS = HELD_OUT[:10]
SCENE_CLASSES = [*(f"{ground} background" for ground in GROUNDS), *(f"{colour} {shape}" for colour, shape in THINGS)]
OBJECTS_IN_SCENE = (2, 5)  # from and to
RADIUS = (13.0, 21.0)  # pixels, from and to
TRIES = 40
# The outermost pixels of a thing are neither it nor what is behind it.
INSIDE, OUTSIDE = 0.75, 0.25


def draw_scenes(split: str) -> Dataset:
    """Draw "train" or "test": columns `image` and `mask`, whose values are 0 for no class, and 1 + the class."""
    seed = [SCENES_SEED, list(SCENES).index(split)]
    drawn = [draw_scene(np.random.default_rng([*seed, row])) for row in range(SCENES[split])]
    columns = {"image": [PILImage.fromarray(image) for image, _ in drawn]}
    columns["mask"] = [PILImage.fromarray(mask) for _, mask in drawn]
    return Dataset.from_dict(columns, features=Features({"image": Image(), "mask": Image()}), split=split)


def draw_scene(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene: some things, hardly hiding each other, in light from one side.

    Args:
        rng: NumPy generator.

    Returns:
        The picture `[96, 96, 3]` and its mask `[96, 96]`, both uint8. In the mask 0 is the rim of a thing, which is of
        no class, and 1 + k is class k of `SCENE_CLASSES`.
    """
    ground = int(rng.integers(len(GROUNDS)))
    picture = vary_colour(BACKGROUNDS[GROUNDS[ground]], rng) * (1 + 0.12 * cloud(SCENE_SIZE, 8, rng))[..., None]
    values = np.full((SCENE_SIZE, SCENE_SIZE), 1 + ground, dtype=np.uint8)
    direction = rng.uniform(0, 2 * np.pi)
    for thing, covered in _place_things(rng):
        colour = vary_colour(COLOURS[THINGS[thing][0]], rng)
        picture = blend(covered, colour, picture * (1 - 0.5 * _shadow(covered, direction))[..., None])
        if rng.random() < 0.4:
            picture = blend(edge(covered, 0.7), np.full(3, 0.1), picture)
        values[covered > OUTSIDE] = 0
        values[covered > INSIDE] = 1 + len(GROUNDS) + thing
    ramp = np.linspace(-1, 1, SCENE_SIZE)
    light = 1 + 0.25 * (np.cos(direction) * ramp[:, None] + np.sin(direction) * ramp[None, :])
    picture = gaussian_filter(picture * light[..., None], (rng.uniform(0.2, 0.8),) * 2 + (0,))
    picture = picture + rng.normal(0, 0.02, picture.shape)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8), values


def _place_things(rng: Generator) -> list[tuple[int, np.ndarray]]:
    """Some things, each with how much of each pixel it covers; those that find no room are left out."""
    placed: list[tuple[int, np.ndarray]] = []
    taken = np.zeros((SCENE_SIZE, SCENE_SIZE))
    wanted = rng.integers(OBJECTS_IN_SCENE[0], OBJECTS_IN_SCENE[1] + 1)
    for _ in range(TRIES):
        if len(placed) == wanted:
            break
        thing, radius = int(rng.integers(len(THINGS))), rng.uniform(*RADIUS)
        x, y = rng.uniform(0.6 * radius, SCENE_SIZE - 0.6 * radius, 2)
        turn, stretch = rng.uniform(-18, 18), rng.uniform(0.8, 1.25)
        covered = shape_mask(THINGS[thing][1], SCENE_SIZE, radius, (x, y), turn, stretch)
        if (taken * covered).sum() < 0.05 * covered.sum():
            taken = np.maximum(taken, covered)
            placed.append((thing, covered))
    return placed


def _shadow(covered: np.ndarray, direction: float) -> np.ndarray:
    shift = np.round(-3 * np.array([np.cos(direction), np.sin(direction)])).astype(int)
    return gaussian_filter(np.roll(covered, shift, (0, 1)), 1.5)
