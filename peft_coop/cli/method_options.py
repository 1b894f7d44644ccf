"""What options make of a prompt method: its settings and its recipe; and which of them change nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from .messages import say
from .offered_methods import method_titles
from .options import DEMO
from .video_options import num_clips, reads_videos

if TYPE_CHECKING:
    from ..data import CompositionData, ImageData
    from ..evaluation import PromptLearning

PROMPT_OPTIONS = (
    *("n_ctx", "ctx_init", "position", "class_specific", "set"),
    *("lengths", "starts", "positions", "contexts", "report_to"),
)
IN_STEPS = ("epochs", "batch_size")
OF_VIEWS = ("views", "no_flip", "workers")
TRAINING_OPTIONS = (*IN_STEPS, "learning_rate", "augment", *OF_VIEWS)
# Those that change something for a baseline; for prompt methods all do.
HEEDED = {
    "image-encoder": (*IN_STEPS, "augment", "no_flip"),
    "text-transform": (*IN_STEPS, "learning_rate", *OF_VIEWS),
    "text-bias": (*IN_STEPS, "learning_rate", *OF_VIEWS),
    "tip-adapter": OF_VIEWS,
    "tip-adapter-f": (*IN_STEPS, *OF_VIEWS),
    "clip-adapter": (*IN_STEPS, "learning_rate", *OF_VIEWS),
    "gda": OF_VIEWS,
    **dict.fromkeys(("layer-norm", "two-stage", "lora"), (*IN_STEPS, "augment", "no_flip")),
}
# Values of options that were not given, or say what holds anyway.
UNSET: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys((*PROMPT_OPTIONS, *TRAINING_OPTIONS), (None, False, 0)),
    "position": (None, "end"),
    "set": (None, []),
    "lengths": (None, [16]),
    "starts": (None, []),
    "report_to": (None, []),
    "positions": (None, ["end"]),
    "contexts": (None, ["unified"]),
}
# Fields of configs that options give.
WITH_OPTIONS = {
    "n_ctx": "--n-ctx",
    "ctx_init": "--ctx-init",
    "class_token_position": "--position",
    "class_specific_context": "--class-specific",
}
# Options of `ablation`, and the field that each has values of.
OF_GRID = {
    "lengths": "n_ctx",
    "starts": "ctx_init",
    "positions": "class_token_position",
    "contexts": "class_specific_context",
}
PYTHON_WORDS = {"True": True, "False": False, "None": None}


def recipe_of(options: argparse.Namespace, key: str = "", protocol: str | None = None) -> dict[str, Any]:
    """What the options change in a recipe; what they leave open is, on the demo's CLIP, that one's for the method.

    Args:
        options: the options.
        key: of the method.
        protocol: whose learning rate the demo's CLIP has; None: that of the options.
    """
    from .. import demo

    changes: dict[str, Any] = {"num_epochs": options.epochs, "batch_size": options.batch_size}
    changes["learning_rate"] = options.learning_rate
    if options.model == DEMO and options.learning_rate is None:
        changes["learning_rate"] = demo.learning_rate(key, protocol or getattr(options, "protocol", None) or "")
    return {name: value for name, value in changes.items() if value is not None}


def fields_given(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a method's config that the options give; what they leave open is the papers'.

    Raises:
        ValueError: if what `--set` has is no setting with its value, is given twice, or has an option of its own.
    """
    fields: dict[str, Any] = {}
    if options.position != "end":
        fields["class_token_position"] = options.position
    if options.class_specific:
        fields["class_specific_context"] = True
    if options.n_ctx is not None or options.ctx_init is not None:
        fields.update(n_ctx=options.n_ctx, ctx_init=options.ctx_init)
    for text in options.set or ():
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"--set takes a setting and its value as NAME=VALUE, got {text!r}.")
        if name in WITH_OPTIONS:
            raise ValueError(f"--set {name} has an option of its own: {WITH_OPTIONS[name]}.")
        if name in fields:
            raise ValueError(f"--set gives {name!r} twice.")
        fields[name] = read_value(value)
    return fields


def read_value(text: str) -> Any:
    """A value of `--set`: JSON, or True, False or None as Python writes them, and otherwise a text."""
    try:
        return PYTHON_WORDS[text] if text in PYTHON_WORDS else json.loads(text)
    except ValueError:
        return text


def check_fields_given(options: argparse.Namespace, methods: Collection[str]) -> None:
    """Check that a method that is run has the settings that the options give, and tell of those that have them not.

    Args:
        options: with those of `add_context` and `add_set`, or of `ablation`.
        methods: the keys of the methods that are run.

    Raises:
        ValueError: if none has a setting; it names what `--set` can give.
    """
    from ..evaluation.prompt_learning import own_fields

    own = {key: own_fields(key) for key in methods if key in method_titles()}
    given = [(WITH_OPTIONS.get(name, f"--set {name}"), name) for name in fields_given(options)]
    given += [(f"--{option}", name) for option, name in OF_GRID.items() if is_given(options, option)]
    for option, name in given if own else ():
        without = [key for key, names in own.items() if name not in names]
        if len(without) == len(own):
            accepted = {key: [each for each in names if each not in WITH_OPTIONS] for key, names in own.items()}
            told = "; ".join(f"{', '.join(names) or 'nothing'} for {key}" for key, names in accepted.items())
            raise ValueError(f"{option} is no setting of {', '.join(own)}. --set can give {told}.")
        if without:
            say(f"{option} has no effect for {', '.join(without)}, which have no such setting")


def make_prompt_learning(key: str, options: argparse.Namespace, data: ImageData | CompositionData) -> PromptLearning:
    """The method that the options describe.

    Args:
        key: of the method.
        options: with those of `add_context`, `add_set` and `add_recipe`.
        data: what is learned from.

    Raises:
        ValueError: if they contradict each other.
    """
    from ..data import has_several_labels
    from ..evaluation import PromptLearning
    from ..evaluation.experiment_tracking import check_report_to
    from ..evaluation.prompt_learning import own_fields

    own = own_fields(key)
    fields = {name: value for name, value in fields_given(options).items() if name in own}
    flip = data.flip and not options.no_flip
    of_videos: dict[str, Any] = {"num_clips": num_clips(options)} if reads_videos(key) else {}
    return PromptLearning(
        key,
        fields,
        recipe_of(options, key, "several labels" if has_several_labels(data.train) else None),
        data.name,
        augment=options.augment,
        views=options.views,
        flip=flip,
        num_workers=options.workers,
        report_to=check_report_to(options.report_to),
        **of_videos,
    )


def tell_unused(options: argparse.Namespace, methods: Collection[str]) -> None:
    """Say which of the given options change nothing.

    Args:
        options: with those of `add_recipe` and `add_set`.
        methods: the keys of the methods that are run.

    Raises:
        ValueError: as `check_fields_given`; if `--views` and `--augment` are both given.
    """
    if options.augment and options.views:
        raise ValueError(
            f"--augment draws pixels in every epoch, --views {options.views} computes features once: give one of them."
        )
    check_fields_given(options, methods)
    of_augmenting, augmented = ("no_flip", "workers"), options.augment or options.views
    if not augmented:
        idle = ("no_flip",) if _reads_pixels(options, methods) else of_augmenting
        _say_unused(options, idle, "without --augment or --views")
    if set(methods) & method_titles().keys():
        return
    _say_unused(options, PROMPT_OPTIONS, f"for {', '.join(methods)}, which learn no prompt")
    heeded = {name for key in methods for name in HEEDED.get(key, ())}
    checked = (name for name in TRAINING_OPTIONS if augmented or name not in of_augmenting)
    unheeded = [name for name in checked if name not in heeded]
    _say_unused(options, unheeded, f"for {', '.join(methods)}, which have no use for it")


def _reads_pixels(options: argparse.Namespace, methods: Collection[str]) -> bool:
    """Whether one of the methods prompts the vision tower."""
    from ..evaluation.prompt_learning import own_fields
    from ..methods import METHODS

    given = fields_given(options)
    return any(
        METHODS[key].config(**{name: given[name] for name in own_fields(key) if name in given}).changes_vision
        for key in methods
        if key in METHODS
    )


def is_given(options: argparse.Namespace, name: str) -> bool:
    """Whether an option was given that says something else than what holds anyway."""
    return getattr(options, name, None) not in UNSET[name]


def _say_unused(options: argparse.Namespace, names: Iterable[str], why: str) -> None:
    for name in names:
        if is_given(options, name):
            say(f"--{name.replace('_', '-')} has no effect {why}")
