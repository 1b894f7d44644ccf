"""Output folders that hold other files too: only what was written there before is written anew."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

# What was written, with the hashes of the contents, in the folder itself.
WRITTEN = ".written-by-peft-coop.json"


def check_own(folder: Path, names: Iterable[str]) -> None:
    """Refuse files that are in the way, unless they are as they were written there before.

    Args:
        folder: need not exist.
        names: of files, from the folder.

    Raises:
        ValueError: names a file that someone else has written, or changed.
    """
    written = _written(folder)
    for name in names:
        path = folder / name
        if path.exists() and (name not in written or not path.is_file() or _hash(path) != written[name]):
            raise ValueError(
                f"{path} is there already, and not as it was written by an earlier command: give another folder, or "
                "remove it."
            )


def put(draft: Path, folder: Path) -> list[Path]:
    """Copy all files of a folder into another, and write down that they are ours.

    Args:
        draft: with the new files.
        folder: made if need be.

    Returns:
        The files in `folder`, in the order of their names.

    Raises:
        ValueError: if a file is in the way that someone else has written, or changed; then nothing is copied.
    """
    names = sorted(path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file())
    check_own(folder, names)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(draft / name, folder / name)
    written = {**_written(folder), **{name: _hash(folder / name) for name in names}}
    (folder / WRITTEN).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return [folder / name for name in names]


def _written(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / WRITTEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # then everything there counts as someone else's
    return found if isinstance(found, dict) else {}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
