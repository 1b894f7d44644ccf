"""Files that are there whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a draft to write, which takes the place of `path` at the end; an error removes it and leaves `path` alone.

    Args:
        path: the file; its folder is made if need be. The draft is beside it, with ".draft" behind its name.

    Raises:
        OSError: if the draft cannot be written or put into its place, such as a folder's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
