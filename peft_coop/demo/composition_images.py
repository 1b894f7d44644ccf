"""The images of the `compositions` task: drawn shapes with a texture, some pairs of the two never shown in training."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from .drawing import ShapePicture, draw_shape
from .styles import BACKGROUNDS, COLOURS
from .textures import COARSE_TEXTURES

COMPOSITIONS_SEED = 21_000_000  # far from any seed that the pretraining and the other tasks draw with
ATTRIBUTES = sorted(COARSE_TEXTURES)
OBJECTS = sorted(("circle", "square", "triangle", "star", "heart", "cross", "moon", "flower", "arrow", "house"))
IMAGES_PER_PAIR = {"train": 16, "val": 10, "test": 20}

Pair = tuple[str, str]


def held_out_in(attribute: str, each: str) -> str | None:
    """The split that alone shows a pair beside those of training, "val" or "test"; None for a pair of training.

    Of each attribute's ten pairs six are trained, two are for validation and two for the test; of each object's eight
    pairs four to six are trained.
    """
    place = (OBJECTS.index(each) + 3 * ATTRIBUTES.index(attribute)) % len(OBJECTS)
    return None if place < 6 else "val" if place < 8 else "test"


def pairs_of(split: str) -> list[Pair]:
    """The pairs that "train", "val" or "test" has images of: those of training, and its own."""
    pairs = [(attribute, each) for attribute in ATTRIBUTES for each in OBJECTS]
    return [pair for pair in pairs if held_out_in(*pair) in (None, split)]


def draw_split(split: str) -> Dataset:
    """Draw "train", "val" or "test": columns `image`, `attribute` and `object`, pair by pair."""
    pairs = [pair for pair in pairs_of(split) for _ in range(IMAGES_PER_PAIR[split])]
    seed = [COMPOSITIONS_SEED, list(IMAGES_PER_PAIR).index(split)]
    columns = {
        "image": [_draw(pair, np.random.default_rng([*seed, row])) for row, pair in enumerate(pairs)],
        "attribute": [attribute for attribute, _ in pairs],
        "object": [each for _, each in pairs],
    }
    words = {"attribute": ClassLabel(names=ATTRIBUTES), "object": ClassLabel(names=OBJECTS)}
    return Dataset.from_dict(columns, features=Features({"image": Image(), **words}), split=split)


def _draw(pair: Pair, rng: np.random.Generator) -> PILImage.Image:
    """A large shape with a texture, in any colour before any background."""
    attribute, each = pair
    colour, background = str(rng.choice(list(COLOURS))), str(rng.choice(list(BACKGROUNDS)))
    picture = ShapePicture(colour, each, "photo", attribute, "large", background)
    return PILImage.fromarray(draw_shape(picture, rng, COARSE_TEXTURES))
