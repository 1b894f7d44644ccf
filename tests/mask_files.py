"""Folders of images with masks, written for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("wall", "sky", "tree")
SIZE = (10, 8)  # width, height


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def mask(path: Path, values, dtype=np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.asarray(values, dtype=dtype), SIZE[::-1]).copy()).save(path)


def columns(*values: int) -> np.ndarray:
    """`[8, 10]`: equal parts from left to right."""
    return np.repeat(np.array(values), SIZE[0] // len(values))[None].repeat(SIZE[1], 0)


def ade(place: Path, train: int = 3, test: int = 2) -> Path:
    """ADE20K's layout: 0 is no class, 1 to 3 are the classes."""
    for split, count in (("training", train), ("validation", test)):
        for index in range(count):
            picture(place / "images" / split / f"{index}.jpg", seed=10 * len(split) + index)
            mask(place / "annotations" / split / f"{index}.png", columns(0, 1, 2, 2, 3))
    lines = [f"{number}\t0.5\t7\t8\t{name}, {name}s" for number, name in enumerate(CLASSES, start=1)]
    (place / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]), encoding="utf-8")
    return place


def plain(place: Path, count: int = 10, classes=CLASSES) -> Path:
    """Two folders, and a file of names."""
    for index in range(count):
        picture(place / "images" / f"{index:02}.png", seed=index)
        mask(place / "masks" / f"{index:02}.png", columns(0, 0, 1, 2, 255))
    text, name = (
        ("\n".join(classes), "classes.txt") if isinstance(classes, tuple) else (json.dumps(classes), "classes.json")
    )
    (place / name).write_text(text, encoding="utf-8")
    return place
