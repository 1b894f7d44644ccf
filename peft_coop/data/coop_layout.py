"""The datasets of the papers, on disk as the original implementation wants them.

Folder and file names, and the zero-shot templates, are those of the repository KaiyangZhou/CoOp (`DATASETS.md`,
`datasets/` and `trainers/zsclip.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .coop_readers import (
    existing,
    read_imagenet,
    read_imagenet_v2,
    read_imagenet_variant,
    read_split_file,
    read_variant_files,
)
from .image_data import DEFAULT_TEMPLATE, ImageData
from .image_lists import ImageList, make_dataset
from .original_pickles import PREPROCESSED, SPLIT_FEWSHOT, OriginalLists


@dataclass(frozen=True)
class CoopLayout:
    """Where a dataset lies and how it is read.

    Attributes:
        folder: in the folder of all datasets.
        images: the images' folder in it; "" where the split file's paths start from `folder` itself.
        read: gives paths and labels for the two folders.
        template: the zero-shot prompt.
    """

    folder: str
    images: str
    read: Callable[[Path, Path], ImageList]
    template: str = DEFAULT_TEMPLATE


def _split_file(title: str) -> Callable[[Path, Path], ImageList]:
    return partial(read_split_file, file_name=f"split_zhou_{title}.json")


COOP_LAYOUTS = {
    "imagenet": CoopLayout("imagenet", "images", read_imagenet),
    "caltech101": CoopLayout("caltech-101", "101_ObjectCategories", _split_file("Caltech101")),
    "oxford_pets": CoopLayout("oxford_pets", "images", _split_file("OxfordPets"), "a photo of a {}, a type of pet."),
    "stanford_cars": CoopLayout("stanford_cars", "", _split_file("StanfordCars")),
    "oxford_flowers": CoopLayout(
        "oxford_flowers", "jpg", _split_file("OxfordFlowers"), "a photo of a {}, a type of flower."
    ),
    "food101": CoopLayout("food-101", "images", _split_file("Food101"), "a photo of {}, a type of food."),
    "fgvc_aircraft": CoopLayout("fgvc_aircraft", "images", read_variant_files, "a photo of a {}, a type of aircraft."),
    "sun397": CoopLayout("sun397", "SUN397", _split_file("SUN397")),
    "dtd": CoopLayout("dtd", "images", _split_file("DescribableTextures"), "{} texture."),
    "eurosat": CoopLayout("eurosat", "2750", _split_file("EuroSAT"), "a centered satellite photo of {}."),
    "ucf101": CoopLayout("ucf101", "UCF-101-midframes", _split_file("UCF101"), "a photo of a person doing {}."),
    "imagenetv2": CoopLayout("imagenetv2", "imagenetv2-matched-frequency-format-val", read_imagenet_v2),
    "imagenet_sketch": CoopLayout("imagenet-sketch", "images", read_imagenet_variant),
    "imagenet_a": CoopLayout("imagenet-adversarial", "imagenet-a", read_imagenet_variant),
    "imagenet_r": CoopLayout("imagenet-rendition", "imagenet-r", read_imagenet_variant),
}
"""The papers' datasets by the names that `coop:NAME@DATA` has: their folders, who reads them, their prompts."""


def load_coop(name: str, root: str) -> ImageData:
    """List a dataset's images; none is read before it is used.

    Args:
        name: a key of `COOP_LAYOUTS`.
        root: the folder of all datasets, `$DATA` in the original.

    Raises:
        ValueError: if there is no such dataset, or its files do not fit.
        FileNotFoundError: if a file or folder is missing.
    """
    if name not in COOP_LAYOUTS:
        raise ValueError(f"The dataset must be one of {', '.join(COOP_LAYOUTS)}, got {name!r}.")
    layout = COOP_LAYOUTS[name]
    # Absolute, as the images are read later, perhaps from elsewhere.
    folder = existing(Path(root).expanduser().absolute() / layout.folder)
    listed = layout.read(folder, folder / layout.images)
    parts = {split: make_dataset(listed, split) for split in listed.splits}
    lists = OriginalLists(folder, folder / layout.images)
    notes = _notes(name, lists) if listed.splits["train"] else ()
    return ImageData(name, listed.class_names, layout.template, **parts, notes=notes, original_lists=lists)


def _notes(name: str, lists: OriginalLists) -> tuple[str, ...]:
    """Where the few images of a draw come from."""
    draws = lists.draws()
    kept = [f"the few images of a draw are those that {SPLIT_FEWSHOT} has for it ({', '.join(draws)})"] if draws else []
    if name == "imagenet" and not (lists.folder / PREPROCESSED).exists():
        others = "of other draws" if draws else "of a draw"
        kept.append(
            f"the few images {others} are not those of the original, which lists ImageNet's as its file system does: "
            f"they are with its {PREPROCESSED} or {SPLIT_FEWSHOT} in {lists.folder.name}"
        )
    return tuple(kept)
