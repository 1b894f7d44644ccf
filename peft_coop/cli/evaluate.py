"""`peft-coop evaluate`: an adapter, or zero-shot CLIP, on labelled images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .loading import TEMPLATE_WITH_ADAPTER, load_adapter, load_clip, load_images
from .options import DEMO, add_data, add_model, add_quiet, add_template, percent


def add_commands(commands: Any) -> None:
    """Add `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="measure an adapter, or zero-shot CLIP, on labelled images",
        description="Accuracy, macro-averaged accuracy and expected calibration error on the test images. The classes "
        "are the data's: a unified context classifies into any. Without --adapter it is zero-shot CLIP.",
    )
    parser.add_argument("--adapter", help="folder or Hub name of a saved prompt")
    add_data(parser)
    add_model(parser, default=None)
    parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="default: test")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_template(parser)
    add_quiet(parser)
    parser.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure and print."""
    from ..evaluation import PromptClassifier, ZeroShot, draw_images, scores

    if options.adapter and options.template is not None:
        raise ValueError(TEMPLATE_WITH_ADAPTER)
    data = load_images(options.data, options)
    images = getattr(data, options.split)
    if not len(images):
        raise ValueError(f"{data.name} has no {options.split} images.")
    if options.adapter:
        model, clip = load_adapter(options.adapter, options)
        classifier: Any = PromptClassifier(model, clip)
    else:
        clip = load_clip(DEMO if options.model is None else options.model, options)
        classifier = ZeroShot().fit(clip, draw_images(data, 0, 0), 0, Path())
    result = {
        **scores(classifier.logits(images, data.class_names), images["label"]),
        "class_names": data.class_names,
        "data": options.data,
        "split": options.split,
        "model": clip.name,
        "adapter": options.adapter,
    }
    if options.json:
        print(json.dumps(result))
        return
    what = options.adapter or f"zero-shot {clip.name}, {data.zero_shot_template!r}"
    print(f"{data.name}: {result['num_examples']:,} {options.split} images of {len(data.class_names)} classes, {what}")
    print(f"  accuracy                     {percent(result['accuracy']):>6}%")
    print(f"  macro-averaged accuracy      {percent(result['macro_accuracy']):>6}%")
    print(f"  expected calibration error   {percent(result['ece']):>6}%")
