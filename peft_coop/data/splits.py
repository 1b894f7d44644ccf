"""What people call the parts of a dataset, and which part is for what."""

from __future__ import annotations

from collections.abc import Iterable

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}


def split_of(name: str) -> str | None:
    """What a folder's or split's name means, in whatever case: "train", "validation", "test", or None."""
    return next((split for split, names in SPLIT_NAMES.items() if name.strip().lower() in names), None)


def assign_splits(names: Iterable[str], where: str, items: str = "images") -> dict[str, str]:
    """Which of these names is which split, that of training first; names that are none are left out.

    Args:
        names: of folders, or of a dataset's splits.
        where: they are, for the error.
        items: what the splits are of, likewise.

    Raises:
        ValueError: if two are of the same kind.
    """
    assigned: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split in assigned:
            raise ValueError(
                f"{where}: both {assigned[split]!r} and {name!r} are names of the {split} {items}. Leave one out, or "
                f"put their {items} together."
            )
        if split is not None:
            assigned[split] = name
    return {split: assigned[split] for split in SPLIT_NAMES if split in assigned}
