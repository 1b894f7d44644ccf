"""`peft-coop train`: learn a prompt and save it as an adapter."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import stage
from .loading import load_clip, load_images, tell_shots
from .mask_options import MASKS, add_masks, check_learns_from_images, has_masks, refuse_of_masks
from .method_options import make_prompt_learning, tell_unused
from .offered_methods import default_method, method_titles
from .options import (
    IMAGES,
    add_context,
    add_data,
    add_model,
    add_quiet,
    add_recipe,
    add_set,
    add_template,
    percent,
    whole_number,
)
from .saved_scores import DRAWN, dataset_name, write_scores
from .training_folder import TrainingFolder
from .video_options import (
    VIDEOS,
    add_clips,
    check_learns_from,
    default_method_for,
    has_videos,
    protocol_of,
    refuse_of_videos,
)

if TYPE_CHECKING:
    from ..data import ImageData
    from ..evaluation import Classifier, FrozenCLIP, LabelledImages

EXAMPLES = """\
examples:
  peft-coop train --data demo:digits --output my-prompt
  peft-coop train --data folder:my-images --model openai/clip-vit-base-patch16 --shots 16 --output my-prompt
  peft-coop train --method {method} --data hub:timm/oxford-iiit-pet --model openai/clip-vit-base-patch16 --output pets
"""
DEFAULT_SHOTS = 16
# What a training that goes on must have in common with the one that was stopped.
SAME = (
    *("data", "model", "method", "shots", "seed", "n_ctx", "ctx_init", "position", "class_specific", "set"),
    *("epochs", "batch_size", "learning_rate", "augment", "views", "no_flip", "dtype", "template"),
)


def add_commands(commands: Any) -> None:
    """Add `train`."""
    parser = commands.add_parser(
        "train",
        help="learn a prompt from labelled images and save it as an adapter",
        description="Learn a prompt from a few images per class, save it as a PEFT adapter, and compare it with "
        "zero-shot CLIP on the test images. The same command goes on after an interruption.",
        epilog=EXAMPLES.format(method=tuple(method_titles())[-1]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data(parser, text=f"{IMAGES}; {MASKS}; {VIDEOS}")
    add_model(parser)
    add_template(parser)
    parser.add_argument(
        "--method",
        choices=tuple(method_titles()),
        metavar="METHOD",
        help=f"of {', '.join(method_titles())} (default: {default_method()}, and with videos or masks what reads them)",
    )
    parser.add_argument(
        "--shots",
        type=_shots,
        default=argparse.SUPPRESS,
        help=f"images per class, or 'all' (default: {DEFAULT_SHOTS}); with masks, --num-images",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the drawn images and of the training (default: 1)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_context(parser)
    add_set(parser)
    add_recipe(parser)
    add_masks(parser)
    add_clips(parser)
    add_quiet(parser)
    parser.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> None:
    """Train, measure and save.

    Raises:
        ValueError: if the output folder holds something else, or the data has no training images.
    """
    refuse_of_videos(options, options.data)
    if has_masks(options.data):
        from .segment import train_masks

        return train_masks(options, SAME, DEFAULT_SHOTS)
    options.shots = getattr(options, "shots", DEFAULT_SHOTS)
    options.method = options.method or default_method_for(options.data)
    check_learns_from_images(options.method, options.data)
    refuse_of_masks(options, options.data)
    check_learns_from(options.method, options.data)
    if has_videos(options.data):
        options.protocol = protocol_of("few-shot", [options.data])
    from ..evaluation import ZeroShot, how_drawn

    TrainingFolder(options.output, {}).check()  # before anybody waits for the images
    data = load_images(options.data, options)
    tell_shots(data, options.shots)
    tell_unused(options, [options.method])
    method = make_prompt_learning(options.method, options, data)
    clip = load_clip(options.model, options)
    images = _draw(data, options)
    folder = TrainingFolder(options.output, _settings(options, clip, images))
    with folder, stage(f"{method.name} on {data.name}", 1) as progress:
        progress.doing(f"{len(images.train):,} {data.items}")
        method = replace(method, log_dir=folder.work / "logs")
        classifier = method.fit(clip, images, options.seed, folder.work)
        zero_shot = ZeroShot().fit(clip, images, options.seed, folder.work)
        learned, before = (measured(one, data) for one in (classifier, zero_shot))
        metric = "accuracy" if "accuracy" in learned else "mean_average_precision"
        result = {
            "num_train": len(images.train),
            **learned,
            "class_names": data.class_names,
            f"zero_shot_{metric}": before[metric],
            "summary": data.summary.as_dict(),
            DRAWN: how_drawn(data, options.shots, options.seed),
        }
        classifier.save(folder.adapter)
        write_scores(classifier.model, folder.adapter, result, dataset_name(options.data, data))
        progress.update()
        folder.deliver()
    if options.json:
        print(json.dumps({"adapter": str(options.output), **result}))
        return
    print(f"{data.name}: {len(data.class_names)} classes, {len(images.train):,} training {data.items}, {method.name}")
    told = metric.replace("_", " ")
    print(f"{told} on {result['num_examples']:,} test {data.items}: {percent(result[metric])}%")
    print(f"zero-shot CLIP ({data.zero_shot_template!r}): {percent(before[metric])}%")
    what = data.items.removesuffix("s").upper()
    print(f"Saved the prompt to {options.output}. Try: peft-coop predict --adapter {options.output} {what}")


def measured(classifier: Classifier, data: ImageData) -> dict[str, Any]:
    """The scores of the test images: those of one class each, or of several labels."""
    from ..data import has_several_labels, label_values
    from ..evaluation import scores, several_scores

    logits, labels = classifier.logits(data.test, data.class_names), label_values(data.test)
    return several_scores(logits, labels, data.class_names) if has_several_labels(data.test) else scores(logits, labels)


def _shots(text: str) -> int | None:
    return None if text == "all" else whole_number(text)


def _draw(data: ImageData, options: argparse.Namespace) -> LabelledImages:
    from ..evaluation import LabelledImages, draw_images

    if options.shots is None:
        return LabelledImages(data.class_names, data.zero_shot_template, data.train, data.val, data.name)
    return draw_images(data, options.shots, options.seed)


def _settings(options: argparse.Namespace, clip: FrozenCLIP, images: LabelledImages) -> dict[str, Any]:
    """What is trained, so that only the same training goes on in this folder."""
    from ..data import images_fingerprint
    from ..evaluation import clip_fingerprint

    return {
        **{name: getattr(options, name) for name in SAME},
        "images": images_fingerprint(images.train, images.class_names),
        "weights": clip_fingerprint(clip),
    }
