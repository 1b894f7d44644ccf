"""Images or videos in folders named after their classes: `CLASS/IMAGE`, or that below `train`, `val` and `test`.

The folders are read here, not by `datasets`: that labels an image by the folder next to it, however deep, and leaves
out links, formats that it does not know, and folders such as `testing` without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..prompts.alike_names import alike
from .image_lists import ImageList
from .images import check_heif, is_image_name
from .splits import SPLIT_NAMES, assign_splits
from .summary import LeftOut
from .video_files import is_video_name


@dataclass(frozen=True)
class Layout:
    """What a folder must look like, for errors.

    Attributes:
        paths: of what is looked for, images for example.
        outer: what the folders of a split are.
        inner: what the folder is that an image lies in.
        item: what is looked for.
        is_item: whether a file is one, by its name.
        of_frames: whether a folder of images is one, too.
    """

    paths: str
    outer: str
    inner: str
    item: str = "image"
    is_item: Callable[[PurePath], bool] = is_image_name
    of_frames: bool = False

    def any_below(self, folder: Path) -> Path | None:
        """A file below a folder that is one of these, or a frame of one."""
        return next((file for file in files_below(folder) if self.is_part(Path(file.name))), None)

    def is_part(self, name: PurePath) -> bool:
        """Whether a file is one, or a frame of one, by its name."""
        return self.is_item(name) or (self.of_frames and is_image_name(name))

    @property
    def none_by_name(self) -> str:
        """Why a file is left out."""
        return f"no {self.item} by their names"

    @property
    def none_within(self) -> str:
        """Why a folder is left out."""
        return f"folders without {self.item}s"


CLASS_LAYOUT = Layout(
    "train/CLASS/IMAGE and test/CLASS/IMAGE, perhaps val/CLASS/IMAGE, or only CLASS/IMAGE", "classes", "class"
)
VIDEO_LAYOUT = Layout(
    "train/CLASS/VIDEO and test/CLASS/VIDEO, perhaps val/CLASS/VIDEO, or only CLASS/VIDEO, where a video is a file or "
    "a folder of frames",
    "classes",
    "class",
    "video",
    is_video_name,
    of_frames=True,
)


@dataclass
class FolderReading:
    """What was found in a folder.

    Attributes:
        listed: classes and images, or videos; "train", "validation" or "test" where the folder has them, only "train"
            otherwise.
        left_out: what was not taken for an image of a class, by the reason.
        notes: what was understood that may not be meant.
    """

    listed: ImageList
    left_out: list[LeftOut]
    notes: list[str]


@dataclass
class Found:
    """Images or videos by class, and everything else by the reason why it is left out."""

    classes: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, *paths: Path) -> None:
        """Note what is not taken, and why."""
        if paths:
            self.others.setdefault(reason, []).extend(map(str, paths))


def read_folder(place: Path, keep_unreadable: bool = False, layout: Layout = CLASS_LAYOUT) -> FolderReading:
    """List the images of a folder, or the videos; none is opened.

    Args:
        place: the folder.
        keep_unreadable: list images in HEIC although nothing here reads them; who reads them is told.
        layout: of `CLASS_LAYOUT` and `VIDEO_LAYOUT`.

    Raises:
        ValueError: if it has none, or may be understood in more than one way; names the file or folder.
    """
    place = place.absolute()
    others = Found()
    folders = split_folders(place, others, layout)
    found = {split: read_classes(folder, layout) for split, folder in folders.items()}
    _check_names(found, folders)
    _check_classes(place, found, folders, layout)
    if not keep_unreadable:
        check_heif(path for one in found.values() for paths in one.classes.values() for path in paths)
    names = sorted({name for one in found.values() for name in one.classes})
    labels = {name: label for label, name in enumerate(names)}
    splits = {split: _in_order(one, labels) for split, one in found.items()}
    left_out = all_left_out([others, *found.values()])
    notes = other_names(folders, layout) if len(folders) > 1 else []
    return FolderReading(ImageList(names, splits), left_out, notes)


def all_left_out(found: Iterable[Found]) -> list[LeftOut]:
    """What was not taken for an image, by the reason."""
    reasons: dict[str, list[str]] = {}
    for one in found:
        for reason, paths in one.others.items():
            reasons.setdefault(reason, []).extend(paths)
    return [LeftOut(reason, tuple(sorted(paths))) for reason, paths in reasons.items()]


def other_names(folders: dict[str, Path], layout: Layout = CLASS_LAYOUT) -> list[str]:
    """A note of each split whose folder is called otherwise than in the layout."""
    return [
        f"{split} {layout.item}s are those in {folder.name!r}"
        for split, folder in folders.items()
        if folder.name not in (split, "val")
    ]


def split_folders(place: Path, others: Found, layout: Layout = CLASS_LAYOUT) -> dict[str, Path]:
    """The folders of the splits, or the place itself as that of training.

    Raises:
        ValueError: if two folders are of one split, or one beside them holds what is looked for.
    """
    entries = visible(place, others)
    folders = [entry for entry in entries if entry.is_dir()]
    assigned = assign_splits((folder.name for folder in folders), f"In {str(place)!r}", f"{layout.item}s")
    if not assigned:
        return {"train": place}
    splits = {place / name for name in assigned.values()}
    beside = [folder for folder in folders if folder not in splits]
    with_items = next((folder for folder in beside if layout.any_below(folder)), None)
    if with_items is not None:
        raise ValueError(
            f"{str(place)!r} has {', '.join(map(repr, assigned.values()))}, which is a name of a split, and beside it "
            f"{with_items.name!r}, which holds {layout.item}s and is none. Are these {layout.outer}? Then put all of "
            f"them into a folder 'train'. Or splits? They are called {_split_names()}."
        )
    others.leave_out(layout.none_within, *beside)
    others.leave_out("beside the folders of the splits", *(entry for entry in entries if entry.is_file()))
    return {split: place / name for split, name in assigned.items()}


def _split_names() -> str:
    return ", ".join(name for names in SPLIT_NAMES.values() for name in names)


def read_classes(place: Path, layout: Layout = CLASS_LAYOUT) -> Found:
    """The classes below a folder, or the objects below that of an attribute, each with its images or videos in order.

    Raises:
        ValueError: if one is not directly in a folder of a class.
    """
    found = Found()
    for entry in visible(place, found):
        if entry.is_dir():
            _read_class(entry, found, layout)
        elif layout.is_item(Path(entry.name)):
            raise ValueError(
                f"{layout.item.capitalize()}s must be in folders named after their {layout.inner}, {str(entry)!r} is "
                f"not. A folder of {layout.item}s is {layout.paths}; {_split_names()} are splits, not {layout.outer}."
            )
        else:
            found.leave_out(layout.none_by_name, entry)
    return found


def _read_class(folder: Path, found: Found, layout: Layout) -> None:
    items: list[str] = []
    for entry in visible(folder, found):
        if entry.is_dir():
            items += _read_frames(entry, found, layout) if layout.of_frames else _refuse_below(entry, found, layout)
        elif layout.is_item(Path(entry.name)):
            items.append(str(entry))
        else:
            found.leave_out(layout.none_by_name, entry)
    if items:
        found.classes[folder.name] = items
    else:
        found.leave_out(layout.none_within, folder)


def _read_frames(folder: Path, found: Found, layout: Layout) -> list[str]:
    """A folder in that of a class, if it holds frames; none of them is listed."""
    entries = visible(folder, found)
    files = [entry for entry in entries if entry.is_file()]
    frames = [entry for entry in files if is_image_name(Path(entry.name))]
    if not frames:
        return _refuse_below(folder, found, layout)
    found.leave_out("no image by their names", *sorted(set(files) - set(frames)))
    for entry in entries:
        if entry.is_dir():
            _refuse_below(entry, found, layout)
    return [str(folder)]


def _refuse_below(below: Path, found: Found, layout: Layout) -> list[str]:
    """Leave out a folder that holds none of what is looked for.

    Raises:
        ValueError: if it does.
    """
    folder, part = below.parent, layout.any_below(below)
    if part is None:
        found.leave_out(layout.none_within, below)
        return []
    hint = ""
    if assign_splits((entry.name for entry in folder.iterdir() if entry.is_dir()), f"In {str(folder)!r}"):
        hint = f" If the data is in {str(folder)!r}, name that folder."
    raise ValueError(
        f"{str(part)!r} is in a folder inside {str(folder)!r}: which of the two is its {layout.inner}? "
        f"{layout.item.capitalize()}s must be {layout.paths}.{hint}"
    )


def visible(folder: Path, found: Found) -> list[Path]:
    """What is in a folder, in order; links are followed, and hidden and broken ones are left out."""
    visible = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            found.leave_out("hidden", entry)
        elif not entry.is_dir() and not entry.is_file():
            found.leave_out("links that lead nowhere, and what is no file", entry)
        else:
            visible.append(entry)
    return visible


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden.

    Links are followed; a folder that they lead back to is looked into once.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in seen else []
        if real not in seen:
            yield from (Path(place) / name for name in sorted(files) if not name.startswith("."))
        seen.add(real)


def _check_names(found: dict[str, Found], folders: dict[str, Path]) -> None:
    check_alike({name: folders[split] / name for split, one in found.items() for name in one.classes}, "class")


def check_alike(places: dict[str, Path], what: str) -> None:
    """Refuse names that read as one.

    Args:
        places: the folder that each name was read from.
        what: is named.

    Raises:
        ValueError: if two differ in case, in blanks and underscores or in encoding only.
    """
    for first, second in alike(sorted(places)):
        raise ValueError(
            f"{str(places[first])!r} and {str(places[second])!r} are two folders of what reads as one {what}: their "
            "names differ in case, in blanks and underscores, or in how letters are encoded. Put them together, "
            "or rename one."
        )


def _check_classes(place: Path, found: dict[str, Found], folders: dict[str, Path], layout: Layout) -> None:
    """Refuse what nothing can be learned or measured from."""
    empty = next((split for split, one in found.items() if not one.classes), None)
    if empty is not None:
        raise ValueError(f"There is no {layout.item} in {str(folders[empty])!r}; looked for {layout.paths}.")
    if "train" in found:
        for split, one in found.items():
            foreign = sorted(set(one.classes) - set(found["train"].classes))
            if foreign:
                raise ValueError(
                    f"{str(folders[split] / foreign[0])!r} is a class without training {layout.item}s: "
                    f"{str(folders['train'])!r} has no folder {foreign[0]!r}{_more(len(foreign) - 1)}. It has "
                    f"{_some(found['train'].classes)}."
                )
    classes = {name for one in found.values() for name in one.classes}
    if len(classes) < 2:
        raise ValueError(
            f"{str(place)!r} has {layout.item}s of a single class, {min(classes)!r}: there must be two or more. Looked "
            f"for {layout.paths}."
        )


def _more(count: int) -> str:
    return f" (nor for {count} more of its classes)" if count else ""


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = sorted(names)
    return ", ".join(map(repr, listed[:most])) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _in_order(found: Found, labels: dict[str, int]) -> list[tuple[str, int]]:
    """By path, as `datasets` has them: the drawn images of a seed stay the same."""
    return sorted((path, labels[name]) for name, paths in found.classes.items() for path in paths)
