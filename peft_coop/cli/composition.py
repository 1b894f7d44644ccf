"""What `peft-coop benchmark composition` is asked for beside the other protocols' options."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..data import CompositionData

WORLDS = {"closed": ("closed",), "open": ("open",), "both": ("closed", "open")}


def add_composition(parser: argparse.ArgumentParser) -> None:
    """The options of compositions."""
    parser.add_argument(
        "--shots", type=whole_number, metavar="N", help="images of each training pair (default: all, as in the paper)"
    )
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--world",
        choices=tuple(WORLDS),
        default="closed",
        help="whether the answer is one of the pairs of training and test, or any attribute with any object "
        "(default: closed)",
    )
    group.add_argument(
        "--word-vectors",
        type=Path,
        metavar="FILE",
        help="vectors of words as GloVe has them, a word and its numbers in a line: the open world is measured once "
        "more without unseen pairs that are hardly feasible",
    )
    group.add_argument(
        "--word-names",
        type=Path,
        metavar="FILE",
        help='other words to look up there, as JSON: {"Faux.Leather": "fake_leather"}',
    )
    group.add_argument(
        "--feasibility-threshold",
        type=float,
        metavar="X",
        help="the lowest feasibility that stays (default: the best on the validation images)",
    )
    group.add_argument(
        "--reference-quirks", action="store_true", help="the numbers of the original's evaluator, with its quirks"
    )


def check_composition(options: argparse.Namespace) -> dict[str, Any]:
    """What the options make of the protocol's arguments.

    Raises:
        ValueError: if they contradict each other.
    """
    if options.word_vectors is None:
        for name in ("word_names", "feasibility_threshold"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} needs --word-vectors.")
    elif options.world == "closed":
        raise ValueError("--word-vectors are for the open world: give --world open or --world both.")
    return {
        "worlds": WORLDS[options.world],
        "num_shots": options.shots,
        "threshold": options.feasibility_threshold,
        "reference_quirks": options.reference_quirks,
    }


def word_vectors(options: argparse.Namespace, data: CompositionData) -> tuple[NDArray, NDArray] | None:
    """The vectors of the attributes and of the objects; None where none are asked for.

    Raises:
        ValueError: if a file is none, or has not all words.
    """
    from ..czsl import read_word_vectors

    if options.word_vectors is None:
        return None
    names = _names(options.word_names)
    attributes, objects = ([names.get(word, word) for word in words] for words in (data.attributes, data.objects))
    vectors = read_word_vectors(options.word_vectors, [*attributes, *objects])
    return vectors[: len(attributes)], vectors[len(attributes) :]


def _names(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{path} must hold an object of words and what to look up for them, got {names!r}.")
    return names
