"""`peft-coop interpret`, `convert` and `push`: what can be done with a saved prompt."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .loading import load_adapter, load_clip
from .options import add_device, add_model, add_quiet, check_new
from .scores import read_scores

CONVERT_EXAMPLES = """\
examples:
  peft-coop convert prompt_learner/model.pth.tar-50 --model openai/clip-vit-base-patch16 --output pets
  peft-coop convert pets --to-original --output prompt_learner/model.pth.tar-50
"""


def add_commands(commands: Any) -> None:
    """Add the three."""
    parser = commands.add_parser(
        "interpret",
        help="the nearest words of every learned vector",
        description="For every learned vector the nearest words of the vocabulary by Euclidean distance; * marks whole "
        "words. CoCoOp's vectors are taken without an image's shift.",
    )
    parser.add_argument("--adapter", required=True, help="folder or Hub name of a saved prompt")
    add_model(parser, default=None)
    parser.add_argument("--top-k", type=int, default=3, help="words per vector (default: 3)")
    parser.add_argument("--whole-words", action="store_true", help="leave parts of words out")
    parser.add_argument("--classes", nargs="+", help="of a class-specific context, those to look at (default: all)")
    parser.add_argument("--plot", type=Path, help="also draw them into this PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON object a vector")
    add_quiet(parser)
    parser.set_defaults(run=run_interpret)

    parser = commands.add_parser(
        "convert",
        help="a checkpoint of the original CoOp or CoCoOp code to an adapter, or back",
        description="Turn a checkpoint of the original code into an adapter; its class names are read from it, in "
        "lower case, unless they are given. Or an adapter into such a checkpoint.",
        epilog=CONVERT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="the checkpoint; with --to-original, the adapter")
    parser.add_argument("--to-original", action="store_true", help="from an adapter to the original's format")
    parser.add_argument("--output", type=Path, required=True, help="the adapter's folder; or the checkpoint's file")
    parser.add_argument("--model", help="the CLIP that it was learned with; with --to-original, the adapter says")
    add_device(parser)
    parser.add_argument("--class-names", nargs="+", help="the classes, as a human writes them")
    parser.add_argument("--data", help="or where to take them from, such as coop:oxford_pets@DATA")
    parser.add_argument(
        "--position", choices=("end", "middle", "front"), help="where the class name stood in training (default: end)"
    )
    add_quiet(parser)
    parser.set_defaults(run=run_convert)

    parser = commands.add_parser(
        "push",
        help="put a saved prompt on the Hugging Face Hub, with a model card",
        description="Put a saved prompt on the Hub with a model card. Log in before, with `hf auth login`.",
    )
    parser.add_argument("--adapter", required=True, help="folder of a saved prompt")
    parser.add_argument("--repo", required=True, help="such as me/pets-coop")
    parser.add_argument("--private", action="store_true", help="only for you")
    add_model(parser, default=None)
    add_quiet(parser)
    parser.set_defaults(run=run_push)


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


def run_convert(options: argparse.Namespace) -> None:
    """Convert to an adapter, or back."""
    from ..data import load_data
    from ..hub import convert_original, export_original

    if options.to_original:
        if options.class_names or options.data or options.position:
            raise ValueError(
                "--class-names, --data and --position are for the other direction: an adapter knows its own."
            )
        check_new(options.output)
        model, _ = load_adapter(options.source, options)
        export_original(model, options.output)
        print(f"Wrote {options.output}, a checkpoint of the original's format.")
        return
    names = options.class_names
    if options.data and names:
        raise ValueError("Give --class-names or --data, not both.")
    if options.data:
        names = load_data(options.data).class_names
    if not options.model:
        raise ValueError("Give --model, the CLIP that the checkpoint was learned with.")
    if options.output.exists() and not (options.output.is_dir() and not any(options.output.iterdir())):
        raise ValueError(f"{options.output} is there already: give another name, or remove it.")
    if names is not None:
        _check_count(names, options)
    clip = load_clip(options.model, options)
    position = options.position or "end"
    convert_original(options.source, clip.model, options.output, class_names=names, class_token_position=position)
    print(f"Wrote {options.output}, an adapter for {clip.name}.")


def _check_count(names: Sequence[str], options: argparse.Namespace) -> None:
    """Refuse fewer or more names than the checkpoint has classes.

    Raises:
        ValueError: if so; a file that keeps no class is for any.
    """
    from ..hub import read_original

    suffix = read_original(options.source).token_suffix
    if suffix is not None and len(suffix) != len(names):
        raise ValueError(
            f"{options.source} was learned with {len(suffix)} classes, got {len(names)} names: give all of them, in "
            "their order. For other classes convert it, and name these to `predict --class-names`."
        )


def run_push(options: argparse.Namespace) -> None:
    """Push the adapter and its card."""
    model, _ = load_adapter(options.adapter, options)
    place = model.push_to_hub(options.repo, private=options.private, **read_scores(options.adapter))
    print(f"Pushed to {place}.")
