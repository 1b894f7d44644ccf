"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

DEMO = "demo"
DTYPES = ("float32", "bfloat16", "float16")


def add_model(parser: argparse.ArgumentParser, default: str | None = DEMO) -> None:
    """`--model`."""
    told = f"default: {default}" if default else "default: the one that the adapter was learned for"
    parser.add_argument("--model", default=default, help=f"Hub name or folder of a CLIP, or 'demo' ({told})")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where and how the model runs."""
    group = parser.add_argument_group("the model's place")
    group.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: the GPU if there is one)")
    group.add_argument(
        "--dtype", choices=DTYPES, help="of the weights (default: as they were saved; prompts learn best in float32)"
    )
    group.add_argument(
        "--eval-batch-size",
        type=whole_number,
        metavar="N",
        help="images that go through the model at once where nothing is trained (default: 64)",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """`--quiet`."""
    parser.add_argument("--quiet", action="store_true", help="print results and errors only: no progress, no notes")


def add_template(parser: argparse.ArgumentParser) -> None:
    """`--template`."""
    parser.add_argument(
        "--template", help="the zero-shot prompt, such as 'a photo of a {}, a type of pet.' (default: the data's own)"
    )


def add_other_names(parser: argparse.ArgumentParser) -> None:
    """`--other-names`."""
    parser.add_argument(
        "--other-names",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="NAMES",
        help="names of what is none of the classes, with commas between; their probability is that of 'other'",
    )


def check_new(path: Path) -> Path:
    """A file that is to be written.

    Raises:
        ValueError: if there is something of this name: nothing is written over.
    """
    if path.exists():
        raise ValueError(f"{path} is there already: give another name, or remove it.")
    return path


def whole_number(text: str) -> int:
    """A whole number of 1 or more, as a type of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, got {text!r}")
    return int(text)


IMAGES = "folder:PATH, hub:NAME, coop:NAME@DATA, demo:digits or demo:shapes"
COMPOSITIONS = "pairs:PATH, czsl:NAME@DATA or demo:compositions"


def add_data(parser: argparse.ArgumentParser, several: bool = False, text: str = IMAGES, required: bool = True) -> None:
    """`--data`, and `--skip-corrupt`."""
    if several:
        parser.add_argument("--data", nargs="+", required=True, help=f"{text}; several are run one after the other")
    else:
        parser.add_argument("--data", required=required, help=text)
    parser.add_argument("--skip-corrupt", action="store_true", help="leave images out that cannot be read")


def add_context(parser: argparse.ArgumentParser) -> None:
    """The prompt's fields."""
    group = parser.add_argument_group("prompt")
    group.add_argument("--n-ctx", type=int, help="context vectors (default: the paper's for the protocol)")
    group.add_argument("--ctx-init", help="words that the vectors start from, as many as their tokens")
    group.add_argument(
        "--position", default="end", choices=("end", "middle", "front"), help="where the class name stands"
    )
    group.add_argument("--class-specific", action="store_true", help="a context of its own for every class")


def add_set(parser: argparse.ArgumentParser) -> None:
    """`--set`."""
    parser.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="a setting of the method that has no option of its own, as NAME=VALUE; may be given several times",
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The training's settings; what is not given is the papers'."""
    group = parser.add_argument_group("training (default: the papers' settings)")
    group.add_argument(
        "--epochs",
        type=int,
        help="passes over the images (default: the paper's for the shots)",
    )
    group.add_argument("--batch-size", type=int, help="images per step (default: the paper's)")
    group.add_argument(
        "--learning-rate",
        type=float,
        help="where the cosine starts (default: the paper's, 0.002 for most; with the demo's CLIP 0.02, and what "
        "was better for some; the fine-tuned image encoder, what tunes both towers and Tip-Adapter-F have their own)",
    )
    group.add_argument(
        "--augment", action="store_true", help="random crops and flips, as in the papers, instead of fixed features"
    )
    group.add_argument(
        "--views",
        type=whole_number,
        metavar="N",
        help="features of N random crops and flips of each image, computed once; every epoch has another one",
    )
    group.add_argument("--no-flip", action="store_true", help="with --augment or --views: never mirror an image")
    group.add_argument(
        "--report-to",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what the Trainer reports the loss of every epoch to: tensorboard, wandb and what else it knows",
    )
    group.add_argument(
        "--workers",
        type=int,
        default=0,
        help="with --augment or --views, and for prompts in the vision tower: processes that load images",
    )


def percent(fraction: float) -> str:
    """A fraction as a number of percent."""
    return f"{100 * fraction:.1f}"
