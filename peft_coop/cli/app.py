"""`peft-coop app`: a page to try prompts on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import check_task, load_adapter, load_clip
from .messages import say
from .options import DEMO, add_model, add_quiet

if TYPE_CHECKING:
    from ..app import SharedClassifier

MOST_PORT = 65535


def add_commands(commands: Any) -> None:
    """Add `app`."""
    parser = commands.add_parser(
        "app",
        help="a page to try prompts on, in a browser",
        description="Show a page in the browser: choose a prompt or learn one from a few pictures, classify pictures "
        "beside zero-shot CLIP, change the classes, see the nearest words. Nothing leaves this machine. It needs "
        'pip install "peft-coop[app]".',
    )
    parser.add_argument("--adapter", nargs="+", default=[], help="folders or Hub names of saved prompts to choose from")
    add_model(parser, default=None)
    parser.add_argument(
        "--class-names", nargs="+", metavar="NAME", help="that the page starts with (default: those of the prompt)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=_port, help="to listen at (default: the first free one from 7860 on)")
    parser.add_argument(
        "--space",
        type=Path,
        metavar="DIR",
        help="write a Space of the Hugging Face Hub for the one --adapter into this folder, and show no page",
    )
    add_quiet(parser)
    parser.set_defaults(run=run_app)


def run_app(options: argparse.Namespace) -> None:
    """Show the page, or write a Space.

    Raises:
        ValueError: if Gradio is not installed, an adapter cannot be used, or there is no single one for a Space.
    """
    from ..app import Shelf, serve, start_without_prompt
    from ..app.serving import check_address, check_gradio

    check_gradio()
    if options.space is not None:
        return _write_space(options)
    check_address(options.host, options.port)
    given = [_load(adapter, options) for adapter in options.adapter]
    for classifier, title in zip(given, distinct_titles(options.adapter), strict=True):
        classifier.title = title
    clip = load_clip(given[0].clip.name if given else options.model or DEMO, options)
    if not given:
        given = [start_without_prompt(clip, options.class_names or _known_names(clip.name))]
    say("Ctrl-C ends the page; it can learn prompts from pictures that are dropped on it")
    serve(Shelf(given), clip, options.host, options.port, tell=lambda address: print(f"The page is at {address}"))


def _write_space(options: argparse.Namespace) -> None:
    from ..app import write_space
    from ..models.base_model_names import repository_name

    if len(options.adapter) != 1:
        raise ValueError(f"--space is for one --adapter, got {len(options.adapter)}.")
    classifier = _load(options.adapter[0], options)
    name = classifier.clip.name
    model = name if name == DEMO else repository_name(name)
    for file in write_space(options.space, Path(options.adapter[0]), model, classifier.class_names):
        print(file)


def _load(adapter: str, options: argparse.Namespace) -> SharedClassifier:
    from ..app import SharedClassifier

    model, clip = load_adapter(adapter, options)
    check_task(model, "IMAGE_CLS", adapter)
    return SharedClassifier(Path(adapter).resolve().name, model, clip, class_names=options.class_names)


def distinct_titles(adapters: Sequence[str]) -> list[str]:
    """A title for each adapter: its folder's name, with as many of those above it as tell it from the others.

    Args:
        adapters: folders or names on the Hub.
    """
    parts = [Path(adapter).resolve().parts for adapter in adapters]
    titles = []
    for own in parts:
        same = [other for other in parts if other != own]
        count = next((n for n in range(1, len(own)) if own[-n:] not in {other[-n:] for other in same}), len(own))
        titles.append(Path(*own[-count:]).as_posix())
    return titles


def _known_names(model: str) -> list[str]:
    """Words that the tiny CLIP knows; a visitor of another model knows better."""
    from ..demo import load_task

    return load_task("digits").class_names if model == DEMO else []


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_PORT:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to {MOST_PORT}, got {text!r}")
    return int(text)
