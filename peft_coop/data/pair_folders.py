"""Images in folders that are named after their attributes and objects: `ATTRIBUTE/OBJECT/IMAGE` below each split."""

from __future__ import annotations

from pathlib import Path

from .composition_lists import SPLITS, CompositionList
from .folders import Found, Layout, all_left_out, check_alike, other_names, read_classes, split_folders, visible
from .images import check_heif, is_image_name

PAIR_LAYOUT = Layout(
    "train/ATTRIBUTE/OBJECT/IMAGE and test/ATTRIBUTE/OBJECT/IMAGE, perhaps val/ATTRIBUTE/OBJECT/IMAGE",
    "attributes",
    "object",
)
# The objects of each attribute.
Attributes = dict[str, Found]


def read_pair_folders(place: Path, keep_unreadable: bool = False) -> CompositionList:
    """List the images of a folder; none is opened. The pairs of a split are those that it has images of.

    Args:
        place: the folder.
        keep_unreadable: list images in HEIC although nothing here reads them; who reads them is told.

    Raises:
        ValueError: if training or test have no image, or it may be understood in more than one way.
    """
    place = place.absolute()
    others = Found()
    folders = split_folders(place, others, PAIR_LAYOUT)
    notes = other_names(folders)
    if "test" not in folders and "validation" in folders:
        folders["test"] = folders.pop("validation")
        notes = [f"no test images: those in {folders['test'].name!r} are the test"]
    _check_splits(place, folders)
    found = {split: _read_attributes(folder, others) for split, folder in folders.items()}
    _check_words(found, folders)
    images = {"val" if split == "validation" else split: _images(one) for split, one in found.items()}
    images = {split: images.get(split, []) for split in SPLITS}
    if not keep_unreadable:
        check_heif(path for one in images.values() for path, _ in one)
    pairs = {split: sorted({pair for _, pair in one}) for split, one in images.items()}
    _check_pairs(place, pairs)
    every = [others, *(objects for one in found.values() for objects in one.values())]
    return CompositionList(pairs, images, left_out=all_left_out(every), notes=notes)


def _check_splits(place: Path, folders: dict[str, Path]) -> None:
    missing = [split for split in ("train", "test") if split not in folders or folders[split] == place]
    if missing:
        raise ValueError(
            f"{str(place)!r} has no folder {missing[0]!r}: which pairs are seen in training, and which in the test "
            f"alone, is for you to say. A folder of images is {PAIR_LAYOUT.paths}."
        )


def _read_attributes(folder: Path, others: Found) -> Attributes:
    """The attributes of a split that have images, each with its objects.

    Raises:
        ValueError: if an image is not in a folder of an object inside of one of an attribute.
    """
    attributes: Attributes = {}
    for entry in visible(folder, others):
        if entry.is_dir():
            attributes[entry.name] = objects = read_classes(entry, PAIR_LAYOUT)
            if not objects.classes and not objects.others:
                others.leave_out("folders without images", entry)
        elif is_image_name(Path(entry.name)):
            raise ValueError(
                f"Images must be in folders named after their attribute and object, {str(entry)!r} is not. A "
                f"folder of images is {PAIR_LAYOUT.paths}."
            )
        else:
            others.leave_out("no image by their names", entry)
    return attributes


def _images(attributes: Attributes) -> list[tuple[str, tuple[str, str]]]:
    """The images of a split, in the order of their paths."""
    return sorted(
        (path, (attribute, thing))
        for attribute, objects in attributes.items()
        for thing, paths in objects.classes.items()
        for path in paths
    )


def _check_words(found: dict[str, Attributes], folders: dict[str, Path]) -> None:
    """Refuse two words that are one to a reader, and to a CLIP, which reads all in lower case."""
    with_images = [
        (folders[split] / attribute, attribute, objects.classes)
        for split, one in found.items()
        for attribute, objects in one.items()
        if objects.classes
    ]
    check_alike({attribute: place for place, attribute, _ in with_images}, "attribute")
    check_alike({thing: place / thing for place, _, objects in with_images for thing in objects}, "object")


def _check_pairs(place: Path, pairs: dict[str, list[tuple[str, str]]]) -> None:
    """Refuse what nothing can be learned or measured from."""
    for split in ("train", "test"):
        if not pairs[split]:
            raise ValueError(f"There is no {split} image in {str(place)!r}; looked for {PAIR_LAYOUT.paths}.")
    if len(pairs["train"]) < 2:
        raise ValueError(
            f"{str(place)!r} has training images of a single pair, {pairs['train'][0]}: there must be two or more."
        )
