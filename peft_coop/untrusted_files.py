"""Files written with pickle that come from somewhere else, read without running anything that they may contain."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def load_pickle(path: Path, known: Mapping[tuple[str, str], Any]) -> Any:
    """Read a pickle of plain data.

    Args:
        path: the file.
        known: what takes the place of a class, by its module and name; any other class or function is refused.

    Raises:
        OSError: if there is no such file.
        ValueError: if it holds another class or function, which it names, or is no pickle.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, known).load()
    except OSError:
        raise
    except _Refused as error:
        raise ValueError(_refusal(path, str(error))) from error
    except Exception as error:  # what is no pickle, or a damaged one, can raise nearly anything
        raise ValueError(f"{path} cannot be read: it is no pickle, or damaged ({error}).") from error


def load_torch_file(path: Path, stand_ins: Sequence[Any] = ()) -> Any:
    """Read what `torch.save` has written, in its format of today or in the older one: tensors and plain data.

    Args:
        path: the file.
        stand_ins: classes that take the place of those of their module and name.

    Raises:
        OSError: if there is no such file.
        ValueError: if it holds another class or function, which it names, or was not written by `torch.save`.
    """
    import torch

    try:
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file of another kind can make torch raise nearly anything
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(_refusal(path, refused.group(1))) from error
        raise ValueError(f"{path} cannot be read: it was not written by `torch.save`, or is damaged.") from error


def _refusal(path: Path, name: str) -> str:
    return f"{path} cannot be read: it contains {name}, and loading that could run code that came with the file."


class _Refused(Exception):
    """A class or function that is not known."""


class _Reader(pickle.Unpickler):
    """An unpickler that knows some classes."""

    def __init__(self, file: Any, known: Mapping[tuple[str, str], Any]):
        super().__init__(file)
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        """What takes the place of a class, and nothing else."""
        if (module, name) not in self._known:
            raise _Refused(f"{module}.{name}")
        return self._known[module, name]
