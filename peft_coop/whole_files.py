"""Files that are there whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a draft to write, which takes the place of `path` at the end; an error removes it and leaves `path` alone.

    Args:
        path: the file; its folder is made if need be. The draft is beside it, with ".draft" behind its name.

    Raises:
        IsADirectoryError: if the path is a folder.
        OSError: if the draft cannot be written or put into its place.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: give the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `path` at the end; an error removes it.

    Args:
        path: a new folder, or an empty one. The draft is beside it, with "." before its name.

    Raises:
        FileExistsError: if there is something in the folder, it is a file, or where the process is.
        OSError: if the draft cannot be made or put into its place.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is there already: give another name, or remove it.")
    if path.exists() and path.samefile(Path.cwd()):  # who stands in it would stand in what is removed
        raise FileExistsError(f"{str(path)!r} is the folder that this process is in: give the name of a new one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o777 & ~_mask())  # as of any other folder: a temporary one is its owner's alone
        draft.replace(path)  # also over an empty one
    except BaseException:
        shutil.rmtree(draft)
        raise


def _mask() -> int:
    """The permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
