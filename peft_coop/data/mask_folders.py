"""Images and masks in two folders beside each other, such as `images/training` and `annotations/training`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .class_lists import is_class_file
from .folders import Found, all_left_out, files_below, other_names, visible
from .images import check_heif, is_image_name
from .splits import assign_splits
from .summary import SHOWN_FILES, LeftOut, some

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("annotations", "annotation", "masks", "mask", "labels")
LAYOUT = (
    "images/training/IMAGE with annotations/training/MASK and images/validation/IMAGE with annotations/validation/MASK "
    "(ADE20K's), train/images/IMAGE with train/masks/MASK, or images/IMAGE with masks/MASK; a mask is called as its "
    "image, but for the suffix"
)


@dataclass(frozen=True)
class PairOfFolders:
    """Where a split has its images, and where their masks."""

    images: Path
    masks: Path


@dataclass
class MaskReading:
    """What was found in a folder.

    Attributes:
        splits: by name, "train", "validation" or "test", each a list of (image, mask) in the order of the images; only
            "train" where the folder has no splits.
        left_out: what was not taken, by the reason.
        notes: what was understood that may not be meant.
    """

    splits: dict[str, list[tuple[str, str]]]
    left_out: list[LeftOut]
    notes: list[str]


def read_mask_folder(place: Path, keep_unreadable: bool = False) -> MaskReading:
    """List images with their masks; none is opened.

    Args:
        place: the folder.
        keep_unreadable: list images in HEIC although nothing here reads them; who reads them is told.

    Raises:
        ValueError: if it has no image with a mask, or may be understood in more than one way; names the file or folder.
    """
    place = place.absolute()
    others = Found()
    folders = _folders(place, others)
    splits = {split: _pairs(pair, others) for split, pair in folders.items()}
    empty = next((split for split, pairs in splits.items() if not pairs), None)
    if empty is not None:
        left_out = "".join(f" {each}." for each in all_left_out([others]))
        raise ValueError(
            f"There is no image with a mask in {str(folders[empty].images)!r}; looked for {LAYOUT}.{left_out}"
        )
    if not keep_unreadable:
        check_heif(image for pairs in splits.values() for image, _ in pairs)
    named = {split: pair.images for split, pair in folders.items()}
    if any(folder.name in IMAGE_FOLDERS for folder in named.values()):
        named = {split: folder.parent for split, folder in named.items()}
    return MaskReading(splits, all_left_out([others]), other_names(named) if len(named) > 1 else [])


def _folders(place: Path, others: Found) -> dict[str, PairOfFolders]:
    """The folders of each split.

    Raises:
        ValueError: if the folder is laid out otherwise.
    """
    entries = visible(place, others)
    own = _pair_in(place, entries)
    assigned = assign_splits((entry.name for entry in entries if entry.is_dir()), f"In {str(place)!r}")
    if own is not None and assigned:
        raise ValueError(
            f"{str(place)!r} has {own.images.name!r} and, beside it, {next(iter(assigned.values()))!r}, which is a "
            f"name of a split: which of them has the images? Looked for {LAYOUT}."
        )
    if own is not None:
        used = {own.images, own.masks}
        folders = _splits_of(own, others)
    else:
        used = {place / name for name in assigned.values()}
        folders = {split: _pair_of_split(place / name, others) for split, name in assigned.items()}
    if not folders:
        raise ValueError(f"{str(place)!r} has no folders of images and masks; looked for {LAYOUT}.")
    _leave_out_others(entries, used, others)
    return folders


def _leave_out_others(entries: Iterable[Path], used: set[Path], others: Found) -> None:
    beside = [entry for entry in entries if entry not in used and not is_class_file(entry)]
    others.leave_out("beside the folders of images and masks", *beside)


def _pair_in(place: Path, entries: Sequence[Path]) -> PairOfFolders | None:
    """The folders of images and of masks among these; None where there are none of either.

    Raises:
        ValueError: if there are two of a kind, or only one of the two kinds.
    """
    found: list[list[Path]] = [
        [entry for entry in entries if entry.is_dir() and entry.name.lower() in names]
        for names in (IMAGE_FOLDERS, MASK_FOLDERS)
    ]
    if not any(found):
        return None
    for folders, names, what in zip(found, (IMAGE_FOLDERS, MASK_FOLDERS), ("images", "masks"), strict=True):
        if len(folders) != 1:
            has = f"has {' and '.join(repr(each.name) for each in folders)}" if folders else "has none"
            raise ValueError(
                f"{str(place)!r} must have one folder of {what}, called {', '.join(names[:-1])} or {names[-1]}: it "
                f"{has}."
            )
    return PairOfFolders(found[0][0], found[1][0])


def _pair_of_split(folder: Path, others: Found) -> PairOfFolders:
    entries = visible(folder, others)
    pair = _pair_in(folder, entries)
    if pair is None:
        raise ValueError(f"The split {str(folder)!r} has no folders of images and masks; looked for {LAYOUT}.")
    _leave_out_others(entries, {pair.images, pair.masks}, others)
    return pair


def _splits_of(pair: PairOfFolders, others: Found) -> dict[str, PairOfFolders]:
    """The splits within the two folders; the folders themselves as training where they have none.

    Raises:
        ValueError: if one has a split that the other has not, or images beside its splits.
    """
    assigned, beside = [], []
    for folder in (pair.images, pair.masks):
        entries = visible(folder, others)
        names = assign_splits((entry.name for entry in entries if entry.is_dir()), f"In {str(folder)!r}")
        assigned.append(names)
        beside.append([entry for entry in entries if entry.name not in names.values()])
    if assigned[0].keys() != assigned[1].keys():
        raise ValueError(
            f"{str(pair.images)!r} has the splits {sorted(assigned[0])}, {str(pair.masks)!r} has "
            f"{sorted(assigned[1])}: images and masks must be in folders of the same splits."
        )
    if not assigned[0]:
        return {"train": pair}
    for folder, entries in zip((pair.images, pair.masks), beside, strict=True):
        with_images = next((entry for entry in entries if _has_image(entry)), None)
        if with_images is not None:
            raise ValueError(
                f"{str(folder)!r} has folders of splits, and beside them {with_images.name!r}: of which split is that?"
            )
        others.leave_out("beside the folders of the splits", *entries)
    return {
        split: PairOfFolders(pair.images / name, pair.masks / assigned[1][split]) for split, name in assigned[0].items()
    }


def _has_image(entry: Path) -> bool:
    files = files_below(entry) if entry.is_dir() else [entry]
    return any(is_image_name(Path(file.name)) for file in files)


def _pairs(folders: PairOfFolders, others: Found) -> list[tuple[str, str]]:
    """The images of a split that have a mask, each with it, in the order of their paths."""
    images, masks = (_by_name(folder, others) for folder in (folders.images, folders.masks))
    others.leave_out("images without a mask", *(path for name, path in images.items() if name not in masks))
    others.leave_out("masks without an image", *(path for name, path in masks.items() if name not in images))
    return sorted((str(path), str(masks[name])) for name, path in images.items() if name in masks)


def _by_name(folder: Path, others: Found) -> dict[str, Path]:
    """The images below a folder, by their path in it without the suffix.

    Raises:
        ValueError: if two have one name.
    """
    found: dict[str, Path] = {}
    for file in files_below(folder):
        if not is_image_name(Path(file.name)):
            others.leave_out("no image by their names", file)
            continue
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            pair = some([found[name].name, file.name], SHOWN_FILES)
            raise ValueError(f"{str(folder)!r} has two images of one name, {pair}: which one belongs to {name!r}?")
        found[name] = file
    return found
