"""Folders that one process at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


class BusyError(RuntimeError):
    """Another process works in the folder."""


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder; the lock of one that was killed is free.

    Args:
        folder: made if need be; its file `.lock` stays there.
        wait: until it is free.

    Raises:
        BusyError: if another process has the lock, and `wait` is not set.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise BusyError(f"Another process works in {folder}.") from None
    try:
        yield
    finally:
        lock.release()
