"""The three ways in which the original's datasets say which image is of which class."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from .image_lists import ImageList
from .original_pickles import PREPROCESSED, Item, OriginalLists

SPLITS = ("train", "val", "test")
# Where to get a file that is missing.
INSTRUCTIONS = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"


def read_split_file(folder: Path, images: Path, file_name: str) -> ImageList:
    """Read a JSON file of entries `[path, label, class name]` under "train", "val" and "test".

    Args:
        folder: of the dataset.
        images: what the paths start from.
        file_name: of the JSON file, in `folder`.

    Raises:
        FileNotFoundError: if the file, the images' folder or the first image of a split is missing.
        ValueError: if the file does not fit; names the entry.
    """
    path = existing(folder / file_name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(content, dict) or any(not isinstance(content.get(split), list) for split in SPLITS):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must hold lists under {', '.join(SPLITS)}, found {found}.")
    names: dict[int, str] = {}
    splits: dict[str, list[tuple[str, int]]] = {}
    for split in SPLITS:
        splits[split] = []
        for number, entry in enumerate(content[split]):
            image, label, name = _checked_entry(path, split, number, entry)
            if names.setdefault(label, name) != name:
                raise ValueError(
                    f"{path}: entry {number} of {split!r} calls label {label} {name!r}, an entry before it "
                    f"{names[label]!r}."
                )
            splits[split].append((str(images / image), label))
    absent = [label for label in range(len(names)) if label not in names]
    if absent:
        raise ValueError(f"{path}: the labels must be 0 … {len(names) - 1} without gaps, {absent[0]} is missing.")
    return _checked(path, images, ImageList([names[label] for label in range(len(names))], splits))


def _checked_entry(path: Path, split: str, number: int, entry: object) -> tuple[str, int, str]:
    if isinstance(entry, list) and len(entry) == 3:
        image, label, name = entry
        right = isinstance(image, str) and isinstance(name, str) and isinstance(label, int)
        if right and not isinstance(label, bool) and label >= 0 and image and name.strip():
            return image, label, name
    raise ValueError(f"{path}: entry {number} of {split!r} must be [path, label, class name], got {entry!r}.")


def read_variant_files(folder: Path, images: Path) -> ImageList:
    """Read FGVC Aircraft's own text files: `variants.txt` and one of images for each split.

    Args:
        folder: of the dataset.
        images: where the images are.

    Raises:
        FileNotFoundError: if a file, the images' folder or the first image of a split is missing.
        ValueError: if a line does not fit.
    """
    names = [name for _, name in _lines(folder / "variants.txt")]
    labels = {name: label for label, name in enumerate(names)}
    splits: dict[str, list[tuple[str, int]]] = {}
    for split in SPLITS:
        path = folder / f"images_variant_{split}.txt"
        splits[split] = []
        for number, line in _lines(path):
            image, _, name = line.partition(" ")
            if name not in labels:
                raise ValueError(f"{path}, line {number}: {name!r} is no variant of {folder / 'variants.txt'}.")
            splits[split].append((str(images / f"{image}.jpg"), labels[name]))
    return _checked(folder / "images_variant_*.txt", images, ImageList(names, splits))


def read_imagenet(folder: Path, images: Path) -> ImageList:
    """Read ImageNet's folders `train` and `val`, of one folder per class; the labels follow the sorted folders.

    The validation images are the test, and none are left for validation: the original tests on them too. The images
    are sorted, or in the order of the original's `preprocessed.pkl`, if that is there.

    Args:
        folder: of the dataset, with `classnames.txt`.
        images: with `train` and `val`.

    Raises:
        FileNotFoundError: if a file or folder is missing.
        ValueError: if a folder has no class name, the two splits have other folders, or `preprocessed.pkl` cannot be
            read or lists other images.
    """
    train, test = (existing(images / split) for split in ("train", "val"))
    folders = _subfolders(train)
    if _subfolders(test) != folders:
        differing = sorted(set(folders) ^ set(_subfolders(test)))
        raise ValueError(f"{train} and {test} must have the same class folders, only one has {differing[0]!r}.")
    names = _names_of_folders(folder, folders)
    splits = {"train": _images_of_folders(train, folders), "val": [], "test": _images_of_folders(test, folders)}
    kept = OriginalLists(folder, images).preprocessed()
    if kept is not None:
        splits = {split: _in_order(entries, kept.get(split, []), folder) for split, entries in splits.items()}
    return ImageList(names, splits)


def _in_order(entries: list[tuple[str, int]], items: list[Item], folder: Path) -> list[tuple[str, int]]:
    """Images in the order of a list of the original's."""
    ordered = [(item.path, item.label) for item in items]
    if entries and sorted(ordered) != sorted(entries):
        differing = min(set(ordered) ^ set(entries), default=ordered[0])
        only = "here" if differing in entries else "in the list"
        raise ValueError(
            f"{folder / PREPROCESSED} lists other images, or some twice: {differing[0]} of class {differing[1]} is "
            f"only {only}. Remove the list if it is of other images."
        )
    return ordered if entries else []


def read_imagenet_variant(folder: Path, images: Path) -> ImageList:
    """Read test images in one folder per class; the labels follow the sorted folders.

    Args:
        folder: of the dataset, with `classnames.txt`.
        images: with the class folders, those of 200 classes in ImageNet-A and -R.

    Raises:
        FileNotFoundError: if a file or folder is missing.
        ValueError: if a folder has no class name.
    """
    folders = _subfolders(existing(images))
    names = _names_of_folders(folder, folders)
    return ImageList(names, {"train": [], "val": [], "test": _images_of_folders(images, folders)})


def read_imagenet_v2(folder: Path, images: Path) -> ImageList:
    """Read ImageNetV2's test images, whose folders are the labels: "0", "1" … in the order of `classnames.txt`.

    Args:
        folder: of the dataset, with `classnames.txt`.
        images: with the numbered folders.

    Raises:
        FileNotFoundError: if a file or folder is missing.
    """
    names = list(_class_names(folder).values())
    folders = [str(label) for label in range(len(names))]
    return ImageList(names, {"train": [], "val": [], "test": _images_of_folders(existing(images), folders)})


def existing(path: Path, instructions: str = INSTRUCTIONS) -> Path:
    """The path, if it exists.

    Args:
        path: the file or folder.
        instructions: where it is said how the folder must look.

    Raises:
        FileNotFoundError: if it does not.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. {instructions} tells how the folder must look.")
    return path


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, numbered from 1."""
    for number, line in enumerate(existing(path).read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _class_names(folder: Path) -> dict[str, str]:
    """Class names by folder, from lines such as "n01440764 tench"."""
    path = folder / "classnames.txt"
    names = {}
    for number, line in _lines(path):
        class_folder, _, name = line.partition(" ")
        if not name.strip():
            raise ValueError(f"{path}, line {number}: there must be a folder and a class name, got {line!r}.")
        names[class_folder] = name.strip()
    return names


def _names_of_folders(folder: Path, folders: list[str]) -> list[str]:
    names = _class_names(folder)
    unknown = [name for name in folders if name not in names]
    if unknown:
        raise ValueError(f"{folder / 'classnames.txt'} has no name for the class folder {unknown[0]!r}.")
    return [names[name] for name in folders]


def _subfolders(place: Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images_of_folders(place: Path, folders: list[str]) -> list[tuple[str, int]]:
    """All visible files; sorted, where the original takes them as the file system gives them."""
    images = [
        (os.path.join(place, folder, name), label)
        for label, folder in enumerate(folders)
        for name in sorted(os.listdir(existing(place / folder)))
        if not name.startswith(".")
    ]
    if not images:
        raise ValueError(f"{place} has no images in class folders.")
    return images


def _checked(source: Path, images: Path, listed: ImageList) -> ImageList:
    """Refuse a list without images to train or test on, or whose images are elsewhere."""
    existing(images)
    for split, entries in listed.splits.items():
        if entries:
            existing(Path(entries[0][0]))
        elif split != "val":
            raise ValueError(f"{source} has no images in {split!r}.")
    return listed
