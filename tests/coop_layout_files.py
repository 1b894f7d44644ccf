"""Folders laid out as the original implementation wants them, with a few small images."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Picture

# For each dataset with a split file: its folder, the images' folder, the file's title, where an image of a class
# lies, and four class names as the file has them.
SPLIT_FILES = {
    "caltech101": (
        "caltech-101", "101_ObjectCategories", "Caltech101", "{name}/image_{number:04}.jpg",
        ["face", "leopard", "motorbike", "accordion"],
    ),
    "oxford_pets": (
        "oxford_pets", "images", "OxfordPets", "{name}_{number}.jpg",
        ["abyssinian", "american_bulldog", "basset_hound", "beagle"],
    ),
    "stanford_cars": (
        "stanford_cars", "", "StanfordCars", "cars_{half}/{label}{number:05}.jpg",
        ["2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2012 Acura TL Sedan", "2008 Acura TL Type-S"],
    ),
    "oxford_flowers": (
        "oxford_flowers", "jpg", "OxfordFlowers", "image_{label}{number:04}.jpg",
        ["pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea"],
    ),
    "food101": (
        "food-101", "images", "Food101", "{name}/{number}.jpg",
        ["apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio"],
    ),
    "sun397": (
        "sun397", "SUN397", "SUN397", "{name}/sun_{number}.jpg",
        ["abbey", "airplane_cabin", "airport_terminal", "outdoor apartment_building"],
    ),
    "dtd": (
        "dtd", "images", "DescribableTextures", "{name}/{name}_{number:04}.jpg",
        ["banded", "blotchy", "braided", "bubbly"],
    ),
    "eurosat": (
        "eurosat", "2750", "EuroSAT", "{name}/{name}_{number}.jpg",
        ["Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road"],
    ),
    "ucf101": (
        "ucf101", "UCF-101-midframes", "UCF101", "{name}/v_{name}_g{number:02}_c01.jpg",
        ["Apply_Eye_Makeup", "Apply_Lipstick", "Archery", "Baby_Crawling"],
    ),
}  # fmt: skip
# For each variant of ImageNet: its folder, the images' folder, and which classes it has.
IMAGENET_VARIANTS = {
    "imagenetv2": ("imagenetv2", "imagenetv2-matched-frequency-format-val", slice(None)),
    "imagenet_sketch": ("imagenet-sketch", "images", slice(None)),
    "imagenet_a": ("imagenet-adversarial", "imagenet-a", slice(1, None)),
    "imagenet_r": ("imagenet-rendition", "imagenet-r", slice(1, None)),
}
NAMES = ("imagenet", "fgvc_aircraft", *SPLIT_FILES, *IMAGENET_VARIANTS)
IMAGENET_CLASSES = ["tench", "great white shark", "missile", "kite (bird of prey)"]
AIRCRAFT_CLASSES = ["707-320", "A300B4", "Boeing 717", "F/A-18"]
COUNTS = {"train": 4, "val": 2, "test": 3}

Draw = Callable[[int, str, int], Picture.Image]


@dataclass(frozen=True)
class CoopFiles:
    """What was written.

    Attributes:
        source: for `load_data` and `--data`.
        folder: of the dataset.
        images: the folder of its images.
        class_names: in the order of the labels.
        labels: of every image, in order, by split.
    """

    source: str
    folder: Path
    images: Path
    class_names: list[str]
    labels: dict[str, list[int]]


def draw_colour(label: int, split: str, number: int) -> Picture.Image:
    """A plain picture: the label's colour, a little different in each."""
    hue = (60 * label + 7 * number + 3 * ("train", "val", "test").index(split)) % 360
    return Picture.new("HSV", (20, 24), (hue * 255 // 360, 220, 200)).convert("RGB")


def make_coop_layout(
    root: Path, name: str, class_names: Sequence[str] | None = None, draw: Draw = draw_colour, **counts: int
) -> CoopFiles:
    """Write a dataset as the original's DATASETS.md describes it.

    Args:
        root: of all datasets, `$DATA` in the original.
        name: one of `NAMES`.
        class_names: four of the real ones by default. Of ImageNet-A and -R, as of `classnames.txt`; the first class
            then has no images there.
        draw: gives the picture for a label, a split and a number.
        counts: images per class in "train", "val" and "test", if not 4, 2 and 3.
    """
    counts = {**COUNTS, **counts}
    if name == "imagenet":
        return _write_imagenet(root, list(class_names or IMAGENET_CLASSES), draw, counts)
    if name in IMAGENET_VARIANTS:
        return _write_variant(root, name, list(class_names or IMAGENET_CLASSES), draw, counts["test"])
    if name == "fgvc_aircraft":
        return _write_aircraft(root, list(class_names or AIRCRAFT_CLASSES), draw, counts)
    return _write_split_file(root, name, list(class_names or SPLIT_FILES[name][-1]), draw, counts)


def wnid(label: int) -> str:
    """A folder name as ImageNet's, sorted as the labels."""
    return f"n{1440764 + 1000 * label:08}"


def _save(picture: Picture.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _write_split_file(root: Path, name: str, class_names: list[str], draw: Draw, counts: dict) -> CoopFiles:
    place, images, title, pattern, _ = SPLIT_FILES[name]
    folder = root / place
    entries: dict[str, list] = {split: [] for split in counts}
    start = 1
    for split, count in counts.items():
        for label, class_name in enumerate(class_names):
            for number in range(start, start + count):
                spelling = class_name.replace(" ", "_").replace("/", "_")
                half = "test" if split == "test" else "train"
                path = pattern.format(name=spelling, number=number, label=label, half=half)
                _save(draw(label, split, number), folder / images / path)
                entries[split].append([path, label, class_name])
        start += count
    (folder / f"split_zhou_{title}.json").write_text(json.dumps(entries), encoding="utf-8")
    labels = {split: [label for _, label, _ in listed] for split, listed in entries.items()}
    return CoopFiles(f"coop:{name}@{root}", folder, folder / images, class_names, labels)


def _write_aircraft(root: Path, class_names: list[str], draw: Draw, counts: dict) -> CoopFiles:
    folder = root / "fgvc_aircraft"
    labels = {}
    number = 34309
    for split, count in counts.items():
        labels[split] = [label for _ in range(count) for label in range(len(class_names))]
        lines = []
        for label in labels[split]:
            _save(draw(label, split, number), folder / "images" / f"{number:07}.jpg")
            lines.append(f"{number:07} {class_names[label]}\n")
            number += 1
        (folder / f"images_variant_{split}.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "variants.txt").write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
    return CoopFiles(f"coop:fgvc_aircraft@{root}", folder, folder / "images", class_names, labels)


def _write_class_names(folder: Path, class_names: list[str]) -> None:
    lines = [f"{wnid(label)} {name}\n" for label, name in enumerate(class_names)]
    (folder / "classnames.txt").write_text("".join(lines), encoding="utf-8")


def _write_imagenet(root: Path, class_names: list[str], draw: Draw, counts: dict) -> CoopFiles:
    folder = root / "imagenet"
    for split, place in (("train", "train"), ("test", "val")):
        for label in range(len(class_names)):
            for number in range(counts[split]):
                path = folder / "images" / place / wnid(label) / f"{wnid(label)}_{number}.JPEG"
                _save(draw(label, split, number), path)
    _write_class_names(folder, class_names)
    labels = {split: [n for n in range(len(class_names)) for _ in range(counts[split])] for split in ("train", "test")}
    return CoopFiles(f"coop:imagenet@{root}", folder, folder / "images", class_names, {**labels, "val": []})


def _write_variant(root: Path, name: str, class_names: list[str], draw: Draw, count: int) -> CoopFiles:
    place, images, part = IMAGENET_VARIANTS[name]
    folder = root / place
    present = list(range(len(class_names)))[part]
    for label in present:
        class_folder = str(label) if name == "imagenetv2" else wnid(label)
        for number in range(count):
            _save(draw(label, "test", number), folder / images / class_folder / f"{number}.jpg")
    (folder / images).mkdir(parents=True, exist_ok=True)
    (folder / images / "README.txt").write_text("Not a class.", encoding="utf-8")
    _write_class_names(folder, class_names)
    labels = [label for label in range(len(present)) for _ in range(count)]
    names = [class_names[label] for label in present]
    return CoopFiles(f"coop:{name}@{root}", folder, folder / images, names, {"train": [], "val": [], "test": labels})
