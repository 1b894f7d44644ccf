"""Which methods `peft-coop benchmark` compares: those that `--methods` names and the protocol can have."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .messages import say
from .method_options import make_prompt_learning
from .offered_methods import method_titles
from .options import DEMO

if TYPE_CHECKING:
    from ..data import CompositionData, ImageData
    from ..evaluation import ComparedMethod

BASELINES = (
    "zero-shot",
    "prompt-ensemble",
    "prompt-ensemble-80",
    "linear-probe",
    "image-encoder",
    "text-transform",
    "text-bias",
    "tip-adapter",
    "tip-adapter-f",
    "clip-adapter",
    "gda",
    "layer-norm",
    "two-stage",
    "lora",
)
# Protocols that every method is asked for classes that it was not learned from in.
OF_OTHER_CLASSES = ("cross-dataset", "composition")
WHY_APART = {
    "composition": ": no way is known to learn unseen pairs with them",
    "several-labels-few-shot": ": they learn which one class an image has",
}


def all_keys() -> tuple[str, ...]:
    """The keys of all methods."""
    return (*BASELINES, *method_titles())


def asked_methods(options: argparse.Namespace) -> list[str]:
    """The keys of the methods that `--methods` names, in the order of the help."""
    return [key for key in all_keys() if key in options.methods or "all" in options.methods]


def make_methods(options: argparse.Namespace, data: ImageData | CompositionData) -> list[Any]:
    """The methods that `--methods` names, in the order of the help."""
    from .. import demo
    from ..evaluation import all_baselines
    from ..recipes import LEARNING_RATE

    rate = demo.learning_rate() if options.model == DEMO else LEARNING_RATE
    baselines = all_baselines(
        rate if options.learning_rate is None else options.learning_rate,
        data=data.name,
        num_epochs=options.epochs,
        batch_size=options.batch_size,
        augment=options.augment,
        flip=data.flip and not options.no_flip,
        views=options.views,
        num_workers=options.workers,
    )
    by_key = {method.key: method for method in baselines}
    asked = _that_can_use_views(_in_protocol(options, by_key), options, data, by_key)
    methods = [make_prompt_learning(key, options, data) if key in method_titles() else by_key[key] for key in asked]
    if "all" not in options.methods or options.protocol not in OF_OTHER_CLASSES:
        return methods
    unable = [method.name for method in methods if not method.takes_new_classes]
    if unable:
        say(f"left out {', '.join(unable)}: what they learn is for the classes of {data.name} only")
    return [method for method in methods if method.takes_new_classes]


def _in_protocol(options: argparse.Namespace, baselines: Mapping[str, ComparedMethod]) -> list[str]:
    """The keys of the methods that `--methods` names, without those of `all` that take no part in the protocol."""
    from ..methods import METHODS

    asked = asked_methods(options)
    if "all" not in options.methods:
        return asked
    apart = [
        key
        for key in asked
        if not (
            baselines[key].takes_part_in(options.protocol)
            if key in baselines
            else METHODS[key].takes_part_in(options.protocol)
        )
    ]
    if apart:
        names = ", ".join(baselines[key].name if key in baselines else METHODS[key].title for key in apart)
        say(f"left out {names}{WHY_APART.get(options.protocol, ', which are not made for it')}")
    return [key for key in asked if key not in apart]


def _that_can_use_views(
    asked: Sequence[str],
    options: argparse.Namespace,
    data: ImageData | CompositionData,
    baselines: Mapping[str, ComparedMethod],
) -> list[str]:
    """The keys of the methods that are asked for, without those of `all` that cannot do with `--views`.

    Args:
        asked: the keys.
        options: with those of `add_recipe`.
        data: what is learned from.
        baselines: the baselines by their keys.

    Raises:
        ValueError: if one cannot that was named.
    """
    if not options.views:
        return list(asked)
    without = argparse.Namespace(**{**vars(options), "views": None})
    methods = {key: baselines.get(key) or make_prompt_learning(key, without, data) for key in asked}
    unable = [key for key, method in methods.items() if method.changes_vision]
    why = f"--views {options.views} computes image features once, and {', '.join(unable)} would change the vision tower"
    if unable and "all" not in options.methods:
        raise ValueError(f"{why}: give --augment in its place, or leave out one of them.")
    if unable:
        say(f"left out {', '.join(unable)}: {why}")
    return [key for key in asked if key not in unable]
