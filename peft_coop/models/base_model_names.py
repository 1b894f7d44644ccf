"""Names and folders of base models: whether one is on the Hub, and whether two mean the same model."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

# A folder of the Hub's cache, which has the repository's name in it.
CACHED = re.compile(r"(?:^|/)models--([^/]+)(?:/|$)")


def warn_of_another_base(trained_on: str | None, here: str | None) -> None:
    """Warn if an adapter names another base model than the one that it is loaded on.

    Args:
        trained_on: what the adapter names: a repository on the Hub, or a folder; None for nothing.
        here: the same of the model.
    """
    if trained_on and here and not is_same_base(str(trained_on), str(here)):
        warnings.warn(
            f"This adapter was trained on {str(trained_on)!r} and is loaded on {str(here)!r}: unless these have the "
            "same weights, its vectors mean nothing there.",
            stacklevel=2,
        )


def is_same_base(trained_on: str, here: str) -> bool:
    """Whether two names may mean one model: a folder that is not here is known by the last part of its name only."""
    names = [repository_name(name) for name in (trained_on, here)]
    if names[0].lower() == names[1].lower():
        return True
    if all(is_hub_id(name) for name in names):
        return False
    if all(os.path.isdir(name) for name in names):
        names = [os.path.realpath(name) for name in names]
        return names[0] == names[1] or not names_a_folder(trained_on)
    last = [os.path.basename(os.path.realpath(name)) for name in names]
    return last[0].lower() == last[1].lower() or not names_a_folder(trained_on)


def repository_name(name: str) -> str:
    """A name with plain slashes; of a path into the Hub's cache, the name of the repository that it is a copy of."""
    name = name.replace("\\", "/")
    cached = CACHED.search(name)
    return cached[1].replace("--", "/") if cached else name.rstrip("/") or name


def is_hub_id(name: Any) -> bool:
    """Whether a name can be a repository's on the Hub, "user/name", and is no file or folder on this machine."""
    if not isinstance(name, str) or name.count("/") != 1 or os.path.exists(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def names_a_folder(path: str) -> bool:
    """Whether a path says how its folder is called: "." and ".." mean another one in every place."""
    return re.search(r"[^./\\]", path) is not None
