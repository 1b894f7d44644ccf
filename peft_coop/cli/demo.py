"""The command line: `python -m peft_coop demo`."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin, pipeline
from transformers.utils import logging

if TYPE_CHECKING:
    from .data import ImageData
    from .evaluation import BaseToNew, FewShotCurve

DEMO_DATA = "demo:digits"
DEMO_NEW_DATA = "demo:shapes"
# Chosen on training images that were not drawn. The papers' is 0.002, for a CLIP of five times this one's logit scale,
# on which the gradients depend.
DEMO_LEARNING_RATE = 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 for bad input."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"peft-coop: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="peft-coop", description="Prompt learning for CLIP.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="learn prompts from a few images per class and compare them with zero-shot CLIP",
        description="Learn CoOp from 1, 4 and 16 images per class, CoOp and CoCoOp on base classes to try on new ones, "
        "save the adapter, load it again, classify a picture and draw the accuracies. Without options it needs no "
        "download: a tiny CLIP and two tasks ship with the package.",
    )
    demo.add_argument("--model", default="demo", help="'demo', or the Hub name or folder of a CLIP (default: demo)")
    demo.add_argument(
        "--data",
        default=DEMO_DATA,
        help=f"demo:digits, demo:shapes, folder:PATH (train/CLASS/IMAGE, test/CLASS/IMAGE) or hub:NAME "
        f"(default: {DEMO_DATA})",
    )
    demo.add_argument(
        "--base-new-data",
        help=f"data whose first half of classes is trained on and whose other half is new (default: {DEMO_NEW_DATA}, "
        "or --data if that is given)",
    )
    demo.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for adapter and plot")
    demo.set_defaults(run=run_demo)
    return parser


def run_demo(options: argparse.Namespace) -> None:
    """Run the demo and print its table.

    Raises:
        ValueError: if the model or the data cannot be loaded.
    """
    from .data import load_data
    from .evaluation import base_to_new, few_shot_curve, plot_few_shot
    from .recipes import LEARNING_RATE

    started = time.monotonic()
    quieten()
    if options.model == "demo":
        torch.set_num_threads(1)  # it is too small to share out: threads that wait for each other cost more
    clip, processor = load_model(options.model)
    new_source = options.base_new_data or (DEMO_NEW_DATA if options.data == DEMO_DATA else options.data)
    data = load_data(options.data)
    rate = DEMO_LEARNING_RATE if options.model == "demo" else LEARNING_RATE
    curve = few_shot_curve(clip, processor, data, say, rate)
    new_data = data if new_source == options.data else load_data(new_source)
    rows = base_to_new(clip, processor, new_data, say, rate)

    print_few_shot(data, curve)
    print_base_to_new(new_data, rows)
    adapter = options.output / "adapter"
    plot = options.output / "few-shot.png"
    curve.model.save_pretrained(adapter)
    plot_few_shot(curve, f"{data.name}: CoOp and zero-shot CLIP", plot)
    size = (adapter / "adapter_model.safetensors").stat().st_size
    loaded = PeftModel.from_pretrained(deepcopy(clip), adapter)
    image, label = data.test[0]["image"], data.class_names[data.test[0]["label"]]
    best = pipeline("image-classification", model=loaded, image_processor=processor.image_processor)(image)[0]
    print(f"\nSaved the 16-shot prompt to {adapter} ({size / 1000:.1f} kB) and loaded it again.")
    print(f"It calls the first test image {best['label']!r} ({best['score']:.0%}); it is {label!r}.")
    print(f"Drew {plot}. All this took {time.monotonic() - started:.0f} s.")


def load_model(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a dual encoder and its processor by Hub name or folder; "demo" is the one inside the package."""
    from .demo import MODEL_PATH

    path = MODEL_PATH if name == "demo" else name
    return AutoModel.from_pretrained(path).eval(), AutoProcessor.from_pretrained(path)


def quieten() -> None:
    """Keep library chatter out of the demo's output; this process is the user's, not an import."""
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"> {text}", file=sys.stderr, flush=True)


def print_few_shot(data: ImageData, curve: FewShotCurve) -> None:
    """Print accuracy over shots."""
    print(f"\n{data.name}: {len(data.class_names)} classes, {len(data.test):,} test images, accuracy in %")
    print(f"  {'zero-shot CLIP':<26}{100 * curve.zero_shot:6.1f}   {data.zero_shot_template}")
    for shots, accuracy in curve.by_shots.items():
        plural = "image" if shots == 1 else "images"
        print(f"  {f'CoOp, {shots} {plural} per class':<26}{100 * accuracy:6.1f}")


def print_base_to_new(data: ImageData, rows: Sequence[BaseToNew]) -> None:
    """Print accuracies on base and new classes."""
    print(f"\n{data.name}: trained on the first half of its {len(data.class_names)} classes, accuracy in %")
    print(f"  {'':<16}{'base':>6}{'new':>8}{'H':>8}")
    for row in rows:
        print(f"  {row.method:<16}{100 * row.base:6.1f}{100 * row.new:8.1f}{100 * row.harmonic_mean:8.1f}")
