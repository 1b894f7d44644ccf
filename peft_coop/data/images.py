"""Images read one by one, so that an unreadable one can be named or left out."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.Image import Image as Picture

from ..progress import stage

if TYPE_CHECKING:
    from datasets import Dataset

# So many unreadable images are named in the warning.
NAMED_IMAGES = 3
# Pillow recognises these, but decodes none of their pictures.
UNDECODED_FORMATS = ("MPEG",)
# What iPhones take: Pillow reads it with pillow-heif.
HEIF_SUFFIXES = (".heic", ".heif", ".heics", ".heifs", ".hif")
# The number of the EXIF tag, and what it says of pictures that lie on their side.
ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)
GET_HEIF = 'HEIC needs the package pillow-heif: pip install "peft-coop[heic]"'


class UnreadableImageError(ValueError):
    """An image whose file is missing, is no image, or is damaged."""


class ImageRows:
    """The images of a dataset by row, in RGB, read when they are asked for.

    Args:
        dataset: with a column of the type `datasets.Image`.
        image_column: its name.

    Raises:
        ValueError: if there is no such column, or it holds no images; from indexing, an `UnreadableImageError`.
    """

    def __init__(self, dataset: Dataset, image_column: str = "image"):
        check_columns(dataset, image_column)
        self._rows = undecoded(dataset, image_column).select_columns([image_column])
        self._column = image_column

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Picture:
        return read_image(self._rows[index][self._column], index, self._rows.split)

    def name(self, index: int) -> str:
        """The image's file, or its row where it comes from no file of its own."""
        return image_name(self._rows[index][self._column], index, self._rows.split)

    def size(self, index: int) -> tuple[tuple[int, int], bool]:
        """Width and height as `read_image` gives them, and whether EXIF data turn or mirror it; nothing is decoded.

        Raises:
            UnreadableImageError: if the file is missing or is no image.
        """
        stored = self._rows[index][self._column]
        with naming_what_is_unreadable(stored, index, self._rows.split), opened(stored) as image:
            orientation = image.getexif().get(ORIENTATION, 1)
            return (image.size[::-1] if orientation in LYING else image.size), orientation != 1

    def check(self, index: int) -> None:
        """Read an image."""
        self[index]


def check_columns(dataset: Dataset, image_column: str, *others: str) -> None:
    """Refuse a dataset without these columns, or whose images are none.

    Raises:
        ValueError: if a column is missing, or `image_column` is not of the type `datasets.Image`.
    """
    from datasets import Image as ImageType

    missing = [column for column in (image_column, *others) if column not in dataset.column_names]
    if missing:
        raise ValueError(f"The dataset has no column {missing[0]!r}, only {dataset.column_names}.")
    if not isinstance(dataset.features[image_column], ImageType):
        raise ValueError(
            f"The column {image_column!r} must be of the type datasets.Image, got {dataset.features[image_column]!r}."
        )


def undecoded(dataset: Dataset, image_column: str) -> Dataset:
    """The dataset with paths and bytes in place of images, whatever its format."""
    from datasets import Image as ImageType

    return dataset.with_format(None).cast_column(image_column, ImageType(decode=False))


def image_name(stored: dict[str, Any], index: int, split: str | None) -> str:
    """What to call an image: its file, or its row, where only a part of a larger file holds it."""
    path = stored["path"]
    if path is not None and (os.path.isabs(path) or "://" in path or os.path.exists(path)):
        return path
    row = f"row {index} of {split or 'the dataset'}"
    return row if path is None else f"{row} ({path})"


def read_image(stored: dict[str, Any], index: int = 0, split: str | None = None) -> Picture:
    """Decode an image in RGB: turned as its EXIF data say, and 16 bits scaled to 8.

    Args:
        stored: `path` and `bytes`, as a dataset keeps them; one of them may be None.
        index: of its row, for the error.
        split: of the dataset, for the error.

    Raises:
        UnreadableImageError: if the file is missing, is no image, or is damaged.
    """
    with naming_what_is_unreadable(stored, index, split), opened(stored) as image:
        image.load()
        return in_rgb(ImageOps.exif_transpose(image))


@contextmanager
def naming_what_is_unreadable(
    stored: dict[str, Any], index: int = 0, split: str | None = None, what: str = "image"
) -> Iterator[None]:
    """Turn everything that is raised on the way into an `UnreadableImageError` that names the file.

    Args:
        stored: `path` and `bytes`, as a dataset keeps them.
        index: of its row, for the error.
        split: of the dataset, for the error.
        what: is read.
    """
    can_read_heif()
    try:
        yield
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # its own text names a buffer in memory
            heif = str(stored["path"] or "").lower().endswith(HEIF_SUFFIXES) and not can_read_heif()
            reason = f"{GET_HEIF}." if heif else "Pillow knows no such image format."
        name = image_name(stored, index, split)
        raise UnreadableImageError(f"The {what} {name} cannot be read: {reason}") from error


@contextmanager
def opened(stored: dict[str, Any]) -> Iterator[Picture]:
    """An image file as Pillow opens it, or one at an address as `datasets` decodes it; closed at the end.

    Args:
        stored: `path` and `bytes`, as a dataset keeps them; one of them may be None.
    """
    path, content = stored["path"], stored["bytes"]
    if content is None and path is not None and "://" in path:
        from datasets import Image as ImageType

        yield ImageType().decode_example({"path": path, "bytes": None})
        return
    # Read here, so that no file stays open when Pillow gives up in the middle.
    with Image.open(io.BytesIO(Path(str(path)).read_bytes() if content is None else content)) as image:
        yield image


def in_rgb(image: Picture) -> Picture:
    """An image in RGB, those of 16 bits or of floats scaled to bytes.

    Raises:
        ValueError: if floats are neither from 0 to 1 nor from 0 to 255.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow would clip at 255
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        image = _in_bytes(np.asarray(image))
    return image.convert("RGB")


def _in_bytes(values: np.ndarray) -> Picture:
    """A picture of floats, from 0 to 1 or from 0 to 255: Pillow would cut them off as the latter.

    Raises:
        ValueError: if they are of another range.
    """
    lowest, highest = values.min(), values.max()
    if not 0 <= lowest <= highest <= 255:  # also where one is no number
        raise ValueError(f"its values must be from 0 to 1 or from 0 to 255, they are from {lowest:g} to {highest:g}.")
    return Image.fromarray(np.rint(values * (255 if highest <= 1 else 1)).astype(np.uint8))


def is_image_name(path: PurePath) -> bool:
    """Whether a file is an image by its name: a suffix that Pillow reads, and neither file nor folder hidden.

    HEIC counts, whether pillow-heif is installed or not: who reads the image without it is told.
    """
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() in _image_suffixes()


@cache
def can_read_heif() -> bool:
    """Teach Pillow HEIC, where pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def check_heif(paths: Iterable[str]) -> None:
    """Refuse images in HEIC where pillow-heif is not installed.

    Raises:
        ValueError: if there are such; names the first.
    """
    unread = [path for path in paths if path.lower().endswith(HEIF_SUFFIXES)]
    if unread and not can_read_heif():
        raise ValueError(f"Images in HEIC: {len(unread):,}, such as {unread[0]!r}. {GET_HEIF}.")


@cache
def _image_suffixes() -> frozenset[str]:
    kinds = Image.registered_extensions()
    known = {suffix for suffix, kind in kinds.items() if kind in Image.OPEN and not _is_undecoded(kind)}
    return frozenset({*known, *HEIF_SUFFIXES})


def _is_undecoded(kind: str) -> bool:
    """Whether Pillow only recognises the format: HDF5 and others need a plugin."""
    factory = Image.OPEN[kind][0]
    is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    return is_stub or kind in UNDECODED_FORMATS


class Rows(Protocol):
    """What is read row by row and may turn out to be unreadable."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call one."""
        ...

    def check(self, index: int) -> None:
        """Read one, to raise an `UnreadableImageError`."""
        ...


def leave_out_unreadable(
    parts: Sequence[Dataset], rows_of: Callable[[Dataset], Rows] = ImageRows, items: str = "images"
) -> tuple[list[Dataset], list[str]]:
    """Decode every image, or video, once, and keep those that can be read.

    Args:
        parts: datasets with a column `image`, or `video`.
        rows_of: reads a part; more than its images, if more must be readable.
        items: what they are.

    Returns:
        The datasets without the unreadable ones, and the names of these. A warning counts them.
    """
    kept, skipped = [], []
    total = sum(len(part) for part in parts)
    with stage(f"checking {items}", total, items.removesuffix("s")) as progress:
        for part in parts:
            rows, readable = rows_of(part), []
            for index in range(len(part)):
                if _can_be_read(rows, index):
                    readable.append(index)
                else:
                    skipped.append(rows.name(index))
                progress.update()
            kept.append(part.select(readable) if len(readable) < len(part) else part)
    warn_left_out(skipped, total, "cannot be read", items)
    return kept, skipped


def warn_left_out(skipped: Sequence[str], total: int, why: str, items: str = "images") -> None:
    """A warning that counts images, or videos, that are not there, where some are not.

    Args:
        skipped: their names.
        total: how many images there were with them.
        why: such as "cannot be read".
        items: what they are.
    """
    if skipped:
        more = ", …" if len(skipped) > NAMED_IMAGES else ""
        warnings.warn(
            f"Left out {len(skipped)} of {total} {items} that {why}: {', '.join(skipped[:NAMED_IMAGES])}{more}",
            stacklevel=4,
        )


def _can_be_read(rows: Rows, index: int) -> bool:
    try:
        rows.check(index)
    except UnreadableImageError:
        return False
    return True
