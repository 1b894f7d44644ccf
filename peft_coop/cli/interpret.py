"""`peft-coop interpret`: the nearest words of a saved prompt."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .loading import load_adapter
from .options import add_model, add_quiet, check_new


def add_commands(commands: Any) -> None:
    """Add `interpret`."""
    parser = commands.add_parser(
        "interpret",
        help="the nearest words of every learned vector",
        description="For every learned vector the nearest words of the vocabulary by Euclidean distance; * marks whole "
        "words. Vectors that each image shifts are taken without it.",
    )
    parser.add_argument("--adapter", required=True, help="folder or Hub name of a saved prompt")
    add_model(parser, default=None)
    parser.add_argument("--top-k", type=int, default=3, help="words per vector (default: 3)")
    parser.add_argument("--whole-words", action="store_true", help="leave parts of words out")
    parser.add_argument(
        "--classes",
        nargs="+",
        help="of a class-specific context, those to look at; of learned words, these (default: all)",
    )
    parser.add_argument("--plot", type=Path, help="also draw them into this PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON object a vector")
    add_quiet(parser)
    parser.set_defaults(run=run_interpret)


def run_interpret(options: argparse.Namespace) -> None:
    """Print the nearest words."""
    from ..evaluation import format_words, nearest_words, plot_words

    if options.plot:
        check_new(options.plot)
    model, _ = load_adapter(options.adapter, options)
    words = nearest_words(model, options.top_k, options.whole_words, options.classes)
    if options.plot:
        plot_words(words, options.plot)
    if options.json:
        print("\n".join(json.dumps(asdict(one)) for one in words))
    else:
        print(format_words(words))
