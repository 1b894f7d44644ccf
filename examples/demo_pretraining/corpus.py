"""The pictures of the pretraining: what is drawn, how often, and the drawing on several processes."""

from multiprocessing import Pool

import numpy as np
from glyphs import DIGITS, FONT_FILES, LETTERS, GlyphPicture, draw_glyph
from numpy.random import Generator
from tqdm import tqdm

from peft_coop.demo.drawing import HELD_OUT, IMAGE_SIZE, ShapePicture, all_pairs, draw_shape, sample_picture

# Relative numbers. Night is rare, since it is the style of the `shapes` task.
SHAPE_STYLES = {
    "photo": 30, "icon": 20, "drawing": 15, "painting": 10, "neon": 10, "chalk": 8, "pixels": 6, "night": 1,
}  # fmt: skip
GLYPH_STYLES = {
    "scan": 40, "photo": 10, "icon": 14, "drawing": 9, "painting": 5, "neon": 6, "chalk": 8, "pixels": 8,
}  # fmt: skip
KINDS = {"shape": 70, "digit": 22, "letter": 8}
INKS = [("white", "black")] * 6 + [("black", "white")] * 3 + [
    ("red", "white"), ("blue", "white"), ("green", "beige"), ("yellow", "dark blue"), ("orange", "black"),
    ("white", "grey"), ("black", "grey"), ("white", "dark blue"), ("pink", "black"), ("cyan", "brown"),
]  # fmt: skip
TRAINED_PAIRS = all_pairs(without=HELD_OUT)
PICTURES_PER_CHUNK = 1000

Picture = ShapePicture | GlyphPicture


def weighted_choice(parts: dict[str, float], rng: Generator) -> str:
    """One of the keys, as often as its value says; the values need not add up to one."""
    weights = np.cumsum(list(parts.values()))
    return list(parts)[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]


def sample_glyph(glyphs: str, rng: Generator) -> GlyphPicture:
    """Choose a digit or letter and how to show it; letters are never written by pen."""
    glyph = glyphs[rng.integers(len(glyphs))]
    by_pen = glyph.isdigit() and rng.random() < 0.6
    writing = "pen" if by_pen else list(FONT_FILES)[rng.integers(len(FONT_FILES))]
    return GlyphPicture(glyph, writing, weighted_choice(GLYPH_STYLES, rng), *INKS[rng.integers(len(INKS))])


def choose_picture(rng: Generator) -> Picture:
    """What the next picture shows."""
    kind = weighted_choice(KINDS, rng)
    if kind == "shape":
        return sample_picture(rng, SHAPE_STYLES, TRAINED_PAIRS)
    return sample_glyph(DIGITS if kind == "digit" else LETTERS, rng)


def draw_one(seed: int, index: int) -> tuple[Picture, np.ndarray]:
    """Picture number `index`: what it shows and its pixels, the same in whichever process."""
    rng = np.random.default_rng([seed, index])
    picture = choose_picture(rng)
    return picture, (draw_shape if isinstance(picture, ShapePicture) else draw_glyph)(picture, rng)


def _draw_chunk(job: tuple[int, int, int]) -> tuple[list[Picture], np.ndarray]:
    seed, start, stop = job
    drawn = [draw_one(seed, index) for index in range(start, stop)]
    return [picture for picture, _ in drawn], np.stack([pixels for _, pixels in drawn])


def draw_corpus(n_pictures: int, seed: int, n_processes: int) -> tuple[list[Picture], np.ndarray]:
    """Draw the pretraining pictures.

    Returns:
        What each picture shows, and the pictures `[N, 48, 48, 3]`, uint8. Both depend on `seed` only,
        not on the number of processes.
    """
    starts = range(0, n_pictures, PICTURES_PER_CHUNK)
    jobs = [(seed, start, min(start + PICTURES_PER_CHUNK, n_pictures)) for start in starts]
    pictures: list[Picture] = []
    pixels = np.empty((n_pictures, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    with Pool(n_processes) as pool:
        for names, chunk in tqdm(pool.imap(_draw_chunk, jobs), total=len(jobs), desc="drawing"):
            pixels[len(pictures) : len(pictures) + len(names)] = chunk
            pictures += names
    return pictures, pixels
