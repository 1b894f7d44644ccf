"""Digits and letters, printed in the fonts that come with matplotlib or written with a pen.

The handwriting is drawn by code too: no scanned digit takes part in the pretraining.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import map_coordinates
from strokes import write_digit

from peft_coop.demo.drawing import IMAGE_SIZE
from peft_coop.demo.styles import BACKGROUNDS, COLOURS, STYLES, cloud, vary_colour

WORK_SIZE = 64  # pixels; glyphs are made at this size and then reduced
DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

FONT_FILES: dict[str, list[str]] = {
    "plain": ["DejaVuSans", "cmss10"],
    "bold": ["DejaVuSans-Bold", "DejaVuSerif-Bold", "STIXGeneralBol", "cmb10", "DejaVuSansMono-Bold"],
    "italic": ["DejaVuSans-Oblique", "DejaVuSerif-Italic", "STIXGeneralItalic", "cmti10", "STIXGeneralBolIta"],
    "serif": ["DejaVuSerif", "STIXGeneral", "cmr10"],
    "typewriter": ["DejaVuSansMono", "cmtt10", "DejaVuSansMono-Oblique"],
}


@dataclass(frozen=True)
class GlyphPicture:
    """What is to be seen: a digit or letter, how it is written, and in which style it is shown."""

    glyph: str
    writing: str  # "pen" or a key of FONT_FILES
    style: str  # "scan" or a key of STYLES
    ink: str = "white"
    background: str = "black"


@lru_cache
def load_font(name: str) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's, large enough for `WORK_SIZE`.

    Raises:
        FileNotFoundError: if it has no such font.
    """
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    if not path.is_file():
        raise FileNotFoundError(f"matplotlib {matplotlib.__version__} has no font {name!r}; 3.11 has all of these.")
    return ImageFont.truetype(str(path), size=WORK_SIZE * 5 // 8)


def print_glyph(glyph: str, writing: str, rng: Generator) -> Image.Image:
    """A glyph in a font, sometimes fattened; greyscale, ink 255 on 0."""
    files = FONT_FILES[writing]
    font = load_font(files[rng.integers(len(files))])
    page = Image.new("L", (WORK_SIZE, WORK_SIZE))
    fattening = int(rng.integers(0, 4))
    middle = (WORK_SIZE / 2, WORK_SIZE / 2)
    ImageDraw.Draw(page).text(middle, glyph, fill=255, font=font, anchor="mm", stroke_width=fattening)
    return page


def warp(page: np.ndarray, strength: float, rng: Generator) -> np.ndarray:
    """Turn, slant, stretch and bend a picture `[S, S]`; strength 1 is about what hands do."""
    size = len(page)
    turn, slant = strength * rng.normal(0, 0.12), strength * rng.normal(0, 0.18)
    stretch = np.exp(strength * rng.normal(0, 0.12))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[1, 0], [slant, stretch]])  # rows: y, x
    grid = np.mgrid[:size, :size].reshape(2, -1) - (size - 1) / 2
    bend = strength * rng.uniform(0, 2.2) * np.stack([cloud(size, 4, rng), cloud(size, 4, rng)])
    source = matrix @ grid + bend.reshape(2, -1) + (size - 1) / 2
    return map_coordinates(page, source, order=1).reshape(size, size)


def crop_to_ink(page: np.ndarray) -> Image.Image:
    """The smallest rectangle that holds the glyph."""
    rows, columns = np.nonzero(page.max(axis=1) > 96)[0], np.nonzero(page.max(axis=0) > 96)[0]
    if len(rows) == 0:
        return Image.fromarray(page.astype(np.uint8))
    cropped = page[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(cropped.astype(np.uint8))


def place(glyph: Image.Image, size: int, height: float, width_scale: float, rng: Generator) -> Image.Image:
    """Put a glyph on an empty square picture, its height a fraction of the side, never past the rim."""
    tall = max(3, round(size * height))
    wide = int(np.clip(round(glyph.width / glyph.height * tall * width_scale), 2, size))
    page = Image.new("L", (size, size))
    free_x, free_y = size - wide, size - tall
    left = round(free_x * (0.5 + rng.uniform(-0.3, 0.3)))
    top = round(free_y * rng.uniform(0, 1))
    page.paste(glyph.resize((wide, tall), Image.Resampling.BILINEAR), (left, top))
    return page


def scan(glyph: Image.Image, rng: Generator) -> np.ndarray:
    """The glyph as an old scanner keeps it: black or white at 32 pixels, counted into 8 to 12, enlarged.

    Returns:
        The mask `[48, 48]` from 0 to 1.
    """
    bitmap = np.asarray(place(glyph, 32, rng.uniform(0.85, 1.0), rng.uniform(0.6, 1.1), rng))
    page = Image.fromarray(((bitmap > rng.uniform(80, 170)) * 255).astype(np.uint8))
    coarse = 8 if rng.random() < 0.6 else int(rng.integers(9, 13))
    counted = page.resize((coarse, coarse), Image.Resampling.BOX)
    enlarged = counted.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(enlarged, dtype=np.float32) / 255


def ink_colour(name: str, rng: Generator) -> np.ndarray:
    """RGB `[3]` of an ink: a colour's name, "white" or "black"."""
    return vary_colour((BACKGROUNDS | COLOURS)[name], rng)


def draw_glyph(picture: GlyphPicture, rng: Generator) -> np.ndarray:
    """Draw a digit or letter; `[48, 48, 3]`, uint8."""
    if picture.writing == "pen":
        page = write_digit(picture.glyph, WORK_SIZE, rng.uniform(0.07, 0.24), rng.uniform(0.01, 0.05), rng)
    else:
        page = print_glyph(picture.glyph, picture.writing, rng)
    strength = 1.2 if picture.writing == "pen" else rng.uniform(0.3, 1.8)
    glyph = crop_to_ink(warp(np.asarray(page, dtype=np.float32), strength, rng))
    ink, background = ink_colour(picture.ink, rng), ink_colour(picture.background, rng)
    if picture.style == "scan":
        mask = scan(glyph, rng)[..., None]
        drawn = mask * ink + (1 - mask) * background
    else:
        page = place(glyph, IMAGE_SIZE, rng.uniform(0.5, 0.95), rng.uniform(0.85, 1.15), rng)
        drawn = STYLES[picture.style](np.asarray(page, dtype=np.float32) / 255, ink, background, rng)
    return (np.clip(drawn, 0, 1) * 255).round().astype(np.uint8)
