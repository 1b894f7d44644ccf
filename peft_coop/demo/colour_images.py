"""The images of the `colours` task: one to three drawn shapes in a picture, whose colours are what is asked for."""

import numpy as np
from datasets import Dataset, Features, Image, Value
from datasets import Sequence as ListOf
from numpy.random import Generator
from PIL import Image as PILImage

from .drawing import IMAGE_SIZE
from .outlines import shape_mask
from .styles import BACKGROUNDS, COLOURS, STYLES, vary_colour

COLOURS_SEED = 24_000_000  # far from any seed that the pretraining and the other tasks draw with
CLASS_NAMES = list(COLOURS)
SHAPES = sorted(("circle", "square", "triangle", "star", "heart", "cross", "moon", "flower"))
TEMPLATE = "a photo of something {}."
IMAGES = {"train": 320, "val": 160, "test": 400}
MOST = 3
RADII = (8.0, 10.0)  # pixels
STYLE = "photo"


def draw_split(split: str) -> Dataset:
    """Draw "train", "val" or "test": columns `image` and `label`, a list of 0 and 1 for each of `CLASS_NAMES`."""
    seed = [COLOURS_SEED, list(IMAGES).index(split)]
    images, labels = [], []
    for row in range(IMAGES[split]):
        rng = np.random.default_rng([*seed, row])
        colours = [str(each) for each in rng.choice(CLASS_NAMES, rng.integers(1, MOST + 1), replace=False)]
        images.append(PILImage.fromarray(draw_colours(colours, rng)))
        labels.append([float(name in colours) for name in CLASS_NAMES])
    features = Features({"image": Image(), "label": ListOf(Value("float32"))})
    return Dataset.from_dict({"image": images, "label": labels}, features=features, split=split)


def draw_colours(colours: list[str], rng: Generator) -> np.ndarray:
    """Draw a picture of up to four shapes of these colours, each of another kind and in a quarter of its own.

    Returns:
        `[48, 48, 3]`, uint8.
    """
    quarters = rng.permutation(4)[: len(colours)]
    shapes = rng.choice(SHAPES, len(colours), replace=False)
    mask, painted = np.zeros((IMAGE_SIZE, IMAGE_SIZE)), np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3))
    for shape, quarter, colour in zip(shapes, quarters, colours, strict=True):
        middle = IMAGE_SIZE * (0.25 + 0.5 * np.array([quarter % 2, quarter // 2]))
        centre = tuple(middle + rng.uniform(-1.5, 1.5, 2))
        own = shape_mask(
            str(shape), IMAGE_SIZE, rng.uniform(*RADII), centre, rng.uniform(-18, 18), rng.uniform(0.9, 1.1)
        )
        painted = np.where(own[..., None] > mask[..., None], vary_colour(COLOURS[colour], rng), painted)
        mask = np.maximum(mask, own)
    background = vary_colour(BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))], rng)
    drawn = STYLES[STYLE](mask, painted, background, rng)
    return (np.clip(drawn, 0, 1) * 255).round().astype(np.uint8)
