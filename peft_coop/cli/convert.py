"""`peft-coop convert`: checkpoints of the original code to adapters, and back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .loading import load_adapter, load_clip
from .offered_methods import method_titles
from .options import add_device, add_quiet, check_new

EXAMPLES = """\
examples:
  peft-coop convert prompt_learner/model.pth.tar-50 --model openai/clip-vit-base-patch16 --output pets
  peft-coop convert pets --to-original --output prompt_learner/model.pth.tar-50
"""


def add_commands(commands: Any) -> None:
    """Add `convert`."""
    parser = commands.add_parser(
        "convert",
        help="a checkpoint of the original code to an adapter, or back",
        description="Turn a checkpoint of the original code into an adapter; its class names are read from it, in "
        "lower case, unless they are given. Or an adapter into such a checkpoint.",
        epilog=EXAMPLES,
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
    parser.add_argument(
        "--method", choices=tuple(method_titles()), help="whose code wrote it (default: the file tells)"
    )
    parser.add_argument("--class-template", help="the fixed text behind the vectors, {} for the name (default: '{}.')")
    parser.add_argument(
        "--template",
        help="the hand-written prompt, {} for the name, where vectors are made of it (default: as the file tells)",
    )
    add_quiet(parser)
    parser.set_defaults(run=run_convert)


def run_convert(options: argparse.Namespace) -> None:
    """Convert to an adapter, or back."""
    from ..data import load_data
    from ..hub import convert_original, export_original

    if options.to_original:
        of_other = (options.class_names, options.data, options.position, options.method)
        if any((*of_other, options.class_template, options.template)):
            raise ValueError(
                "--class-names, --data, --position, --method, --class-template and --template are for the other "
                "direction: an adapter knows its own."
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
    given = {"method": options.method, "class_template": options.class_template, "zero_shot_template": options.template}
    given = {name: value for name, value in given.items() if value is not None}
    convert_original(
        options.source, clip.model, options.output, class_names=names, class_token_position=position, **given
    )
    print(f"Wrote {options.output}, an adapter for {clip.name}.")


def _check_count(names: Sequence[str], options: argparse.Namespace) -> None:
    """Refuse fewer or more names than the checkpoint has classes.

    Raises:
        ValueError: if so; a file that keeps no class is for any.
    """
    from ..hub.original import classes_in_original

    count = classes_in_original(options.source, options.method)
    if count is not None and count != len(names):
        raise ValueError(
            f"{options.source} was learned with {count} classes, got {len(names)} names: give all of them, in "
            "their order. For other classes convert it, and name these to `predict --class-names`."
        )
