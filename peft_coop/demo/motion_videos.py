"""The videos of the `motion` task: drawn shapes that move, grow or shrink, played forwards or backwards."""

import io
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from numpy.random import Generator
from PIL import Image as PILImage

from .drawing import IMAGE_SIZE
from .outlines import shape_mask
from .styles import BACKGROUNDS, COLOURS, blend, vary_colour

MOTION_SEED = 22_000_000  # far from any seed that the pretraining and the other tasks draw with
THINGS = (("red", "circle"), ("blue", "star"), ("green", "heart"), ("yellow", "square"))
# The two of a pair are the same frames in the other order.
MOTIONS = (("right", "left"), ("down", "up"), ("larger", "smaller"))
# Which pairs of motions each shape has in the first half of the classes; the other pairs are in the second half.
FIRST_HALF = {"circle": (0, 1), "star": (0, 2), "heart": (1,), "square": (2,)}
VIDEOS_PER_CLASS = {"train": 16, "test": 8}
NUM_FRAMES = (17, 24)  # of a video, from and to
EDGE = 1.0  # pixels that stay free beside a shape
NOISE = 0.02


@dataclass(frozen=True)
class Move:
    """A shape and what it does.

    Attributes:
        colour: a key of `COLOURS`.
        shape: a key of `OUTLINES`.
        pair: of `MOTIONS`.
        backwards: whether it is the second motion of the pair.
    """

    colour: str
    shape: str
    pair: int
    backwards: bool

    @property
    def class_name(self) -> str:
        """Such as "red circle right"."""
        return f"{self.colour} {self.shape} {MOTIONS[self.pair][self.backwards]}"


def all_moves() -> list[Move]:
    """One for each class: first those of `FIRST_HALF`, then the others."""
    every = [Move(*thing, pair, way) for thing in THINGS for pair in range(len(MOTIONS)) for way in (False, True)]
    return sorted(every, key=lambda move: move.pair not in FIRST_HALF[move.shape])


def draw_split(split: str) -> Dataset:
    """Draw "train" or "test": columns `video` and `label`, class by class."""
    moves, seed = all_moves(), [MOTION_SEED, list(VIDEOS_PER_CLASS).index(split)]
    labels = [label for label in range(len(moves)) for _ in range(VIDEOS_PER_CLASS[split])]
    videos = [
        [_encoded(frame) for frame in draw_video(moves[label], np.random.default_rng([*seed, row]))]
        for row, label in enumerate(labels)
    ]
    video = {"path": Value("string"), "frames": Sequence(Value("binary"))}
    features = Features({"video": video, "label": ClassLabel(names=[move.class_name for move in moves])})
    columns = {"video": [{"path": None, "frames": frames} for frames in videos], "label": labels}
    return Dataset.from_dict(columns, features=features, split=split)


def draw_video(move: Move, rng: Generator) -> list[np.ndarray]:
    """Draw a shape before any background, which moves evenly.

    Args:
        move: what it does.
        rng: NumPy generator for everything else.

    Returns:
        17 to 24 frames, each `[48, 48, 3]`, uint8.
    """
    count = int(rng.integers(NUM_FRAMES[0], NUM_FRAMES[1] + 1))
    colour = vary_colour(COLOURS[move.colour], rng)
    background = vary_colour(BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))], rng)
    turn, stretch = rng.uniform(-18, 18), rng.uniform(0.85, 1.2)
    frames = []
    for *centre, radius in _way(move.pair, count, rng):
        mask = shape_mask(move.shape, IMAGE_SIZE, radius, (centre[0], centre[1]), turn, stretch)
        picture = blend(mask, colour, background) + rng.normal(0, NOISE, (IMAGE_SIZE, IMAGE_SIZE, 3))
        frames.append((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
    return frames[::-1] if move.backwards else frames


def _way(pair: int, count: int, rng: Generator) -> np.ndarray:
    """Centre and radius in every frame, `[count, 3]`, in pixels, of the first motion of a pair."""
    if MOTIONS[pair][0] == "larger":
        centre = [np.full(count, IMAGE_SIZE / 2 + rng.uniform(-2, 2)) for _ in "xy"]
        return np.stack([*centre, np.linspace(rng.uniform(5, 7), rng.uniform(17, 21), count)], axis=1)
    radius = rng.uniform(8, 11)
    room = IMAGE_SIZE - 2 * (radius + EDGE)
    ends = radius + EDGE + room * np.array([rng.uniform(0, 0.15), 1 - rng.uniform(0, 0.15)])
    along, across = np.linspace(ends[0], ends[1], count), np.full(count, IMAGE_SIZE * rng.uniform(0.35, 0.65))
    centre = [along, across] if MOTIONS[pair][0] == "right" else [across, along]
    return np.stack([*centre, np.full(count, radius)], axis=1)


def _encoded(frame: np.ndarray) -> bytes:
    """A frame as an image file."""
    file = io.BytesIO()
    PILImage.fromarray(frame).save(file, "BMP")  # a tenth of the time of PNG
    return file.getvalue()
