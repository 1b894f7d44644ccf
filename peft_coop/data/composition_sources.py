"""Where images of compositions come from: one argument for folders, the papers' datasets and the demo's task."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..demo import load_composition_task
from .composition_data import CompositionData
from .composition_lists import make_data
from .czsl_layout import load_czsl
from .images import leave_out_unreadable
from .pair_folders import read_pair_folders


def load_compositions(source: str, skip_corrupt: bool = False) -> CompositionData:
    """Load images of pairs of an attribute and an object.

    What was read, left out and understood is in the result's `summary`; docs/data.md has the rules. Images that a
    dataset lists and that are not there are left out, with a warning that counts them.

    Args:
        source: one of

            - `demo:compositions`, textures of drawn shapes;
            - `pairs:PATH`, with `train/ATTRIBUTE/OBJECT/IMAGE` and `test/ATTRIBUTE/OBJECT/IMAGE`, perhaps
              `val/ATTRIBUTE/OBJECT/IMAGE`;
            - `czsl:NAME@DATA`, such as `czsl:mit-states@DATA`, `czsl:ut-zappos@DATA` or `czsl:cgqa@DATA`: a dataset in
              a folder DATA, laid out as the original implementation of CSP wants it.
        skip_corrupt: read every image now, and leave out those that cannot be read, with a warning that counts them.

    Raises:
        ValueError: if the source is of no such kind, does not exist, has no images to train or to test on, or may be
            understood in more than one way; if a file does not fit, or could run code.
        FileNotFoundError: if a file that the layout needs is missing.
    """
    kind, _, place = source.partition(":")
    if kind == "demo":
        data = CompositionData(**vars(load_composition_task(place)))
    elif kind == "czsl":
        name, _, root = place.partition("@")
        if not name or not root:
            raise ValueError(f"Name dataset and folder as in czsl:mit-states@DATA, got {source!r}.")
        data = load_czsl(name, root)
    elif kind == "pairs" and place:
        data = _of_folder(source, place, skip_corrupt)
    else:
        raise ValueError(
            f"Images of compositions are one of demo:compositions, pairs:PATH and czsl:NAME@DATA, got {source!r}."
        )
    if not skip_corrupt:
        return data
    (train, val, test), skipped = leave_out_unreadable([data.train, data.val, data.test])
    return replace(data, train=train, val=val, test=test, skipped=(*data.skipped, *skipped))


def _of_folder(source: str, place: str, skip_corrupt: bool) -> CompositionData:
    place = os.path.expanduser(place)
    if not os.path.isdir(place):
        raise ValueError(f"There is no folder {place!r} (from {source!r}).")
    try:
        listed = read_pair_folders(Path(place), keep_unreadable=skip_corrupt)
    except ValueError as error:
        raise ValueError(f"{source!r} cannot be read: {error}") from error
    return make_data(os.path.basename(os.path.abspath(place)), listed)
