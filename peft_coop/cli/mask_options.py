"""Images with masks on the command line: their options, and what these make of models and methods."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import check_task, load_adapter, load_clip, tell_summary
from .method_options import fields_given, recipe_of
from .options import DEMO, whole_number

if TYPE_CHECKING:
    from ..data import MaskData
    from ..evaluation import FrozenCLIP
    from ..evaluation.segmentation import PromptSegmentation, Segmenter, Windows

MASKS = "masks:PATH or demo:scenes"
BASELINES = ("dense-zero-shot", "dense-head")
PROTOCOL = "segmentation"
DEMO_CROP_SIZE = 96  # pixels; the size of the demo's scenes
# Options that are of images with one class each.
OF_WHOLE_IMAGES = ("augment", "views")
# Those that mean something for pixels only.
OF_PIXELS = ("crop_size", "stride", "flip_test", "multi_scale", "classes", "reduce_labels", "num_images", "score_maps")
# The options below that change what is learned.
OF_TRAINING = ("crop_size", "num_images", "classes", "reduce_labels")


def has_masks(source: str) -> bool:
    """Whether a `--data` argument is of images with a class for each pixel."""
    return source.startswith("masks:") or source == "demo:scenes"


def add_masks(parser: argparse.ArgumentParser, learns: bool = True, reads_data: bool = True) -> None:
    """The options of images with masks."""
    group = parser.add_argument_group("images with masks")
    group.add_argument(
        "--crop-size",
        type=whole_number,
        metavar="PIXELS",
        help="side of the parts of images that are read, a multiple of the patches' (default: the adapter's; 640, or "
        "96 with the demo's CLIP)",
    )
    group.add_argument(
        "--stride", type=whole_number, metavar="PIXELS", help="from one part to the next (default: two thirds of it)"
    )
    group.add_argument("--flip-test", action="store_true", help="also read images mirrored, and average")
    group.add_argument("--multi-scale", action="store_true", help="also read images at five other sizes, and average")
    if reads_data:
        group.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes (default: in the folder)")
        group.add_argument(
            "--reduce-labels",
            action=argparse.BooleanOptionalAction,
            help="0 is no class in the masks, and classes count from 1 (default: as the file of the classes says)",
        )
    if learns:
        group.add_argument(
            "--num-images", type=whole_number, metavar="N", help="training images, drawn by the seed (default: all)"
        )


def load_mask_images(source: str, options: argparse.Namespace) -> MaskData:
    """The images and masks of a `--data` argument; what was read is told.

    Raises:
        ValueError: if it has none.
    """
    from ..data import load_masks

    if not has_masks(source):
        raise ValueError(f"Images with masks are {MASKS}, got {source!r}.")
    reading = {"classes": options.classes, "reduce_labels": options.reduce_labels}
    data = load_masks(source, skip_corrupt=options.skip_corrupt, **reading)
    tell_summary(data)
    return data


def windows_of(options: argparse.Namespace, clip: FrozenCLIP, adapter: str | None = None) -> Windows:
    """How images are read.

    Args:
        options: with those of `add_masks`.
        clip: the model.
        adapter: whose size is taken where none is given; None: the default of the model.

    Raises:
        ValueError: if the size does not fit the patches of the model.
    """
    from ..evaluation.segmentation import CROP_SIZE, SCALES, Windows
    from ..towers import patch_size

    side = patch_size(clip.model)
    size = options.crop_size or (saved_size(adapter) if adapter else None)
    if size is None:
        size = DEMO_CROP_SIZE if clip.name == DEMO else CROP_SIZE // side * side
    if size % side or size < 2 * side:
        raise ValueError(
            f"--crop-size must be a multiple of the patches' {side} pixels, {2 * side} or more, got {size}."
        )
    return Windows(size, options.stride, SCALES if options.multi_scale else (1.0,), options.flip_test)


def saved_size(adapter: str) -> int | None:
    """The size that an adapter was trained with, by the image processor beside it; None where there is none."""
    from transformers import SegformerImageProcessorPil

    try:
        size = SegformerImageProcessorPil.from_pretrained(adapter).size
    except OSError:
        return None
    return size["height"]


def check_method(key: str) -> None:
    """Check that a prompt method classifies pixels.

    Raises:
        ValueError: if it does not; names those that do.
    """
    from ..evaluation.segmentation import segmentation_methods
    from ..methods import METHODS

    able = [method.key for method in segmentation_methods()]
    if key not in able:
        raise ValueError(
            f"{METHODS[key].title} gives an image one class, and these images have one for each pixel: give --method "
            f"{' or '.join(able)}."
        )


def check_learns_from_images(key: str, source: str) -> None:
    """Check that a prompt method needs no masks.

    Raises:
        ValueError: if it classifies pixels.
    """
    from ..methods import METHODS

    if METHODS[key].prompt.task_head.task_type == "SEMANTIC_SEG":
        raise ValueError(f"{METHODS[key].title} gives each pixel a class: --data must be {MASKS}, got {source!r}.")


def prompt_segmentation(key: str, options: argparse.Namespace, data: MaskData, windows: Windows) -> PromptSegmentation:
    """The method that the options describe.

    Args:
        key: of the method.
        options: with those of `add_context`, `add_set`, `add_recipe` and `add_masks`.
        data: what is learned from.
        windows: how images are read.
    """
    from ..evaluation.experiment_tracking import check_report_to
    from ..evaluation.segmentation import PromptSegmentation

    return PromptSegmentation(
        key,
        fields_of(options),
        recipe_of(of_protocol(options)),
        data.name,
        flip=data.flip and not options.no_flip,
        num_workers=options.workers,
        report_to=check_report_to(options.report_to),
        protocol=PROTOCOL,
        windows=windows,
    )


def of_protocol(options: argparse.Namespace) -> argparse.Namespace:
    """The options, of segmentation: its learning rate with the demo's CLIP is another one."""
    return argparse.Namespace(**{**vars(options), "protocol": PROTOCOL})


def fields_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the method: with the demo's CLIP, what they leave open is of its size."""
    from .. import demo

    of_demo = demo.PROTOCOL_FIELDS[PROTOCOL] if options.model == DEMO else {}
    return {**of_demo, **fields_given(options)}


def segmentation_baselines(options: argparse.Namespace, data: MaskData, windows: Windows) -> dict[str, Any]:
    """What prompts are compared with, by key; the head without text is of the size that the prompt's has."""
    from ..evaluation.segmentation import DenseZeroShot, PlainHead

    fields = fields_of(options)
    named = {"head_channels": "channels", "train_vision": "train_vision"}
    head = PlainHead(
        windows,
        recipe=recipe_of(of_protocol(options)),
        flip=data.flip and not options.no_flip,
        num_workers=options.workers,
        **{name: fields[each] for each, name in named.items() if each in fields},
    )
    return {each.key: each for each in (DenseZeroShot(windows), head)}


def load_segmenter(options: argparse.Namespace, class_names: Sequence[str] | None, template: str) -> Segmenter:
    """A saved adapter, or CLIP patch by patch.

    Args:
        options: with `adapter` and `model`.
        class_names: of the classes; None: the adapter's own.
        template: the prompt without an adapter.

    Raises:
        ValueError: if the adapter classifies no pixels, or has other classes.
    """
    from ..evaluation.segmentation import PromptSegmenter
    from ..evaluation.segmentation.prompt_segmentation import zero_shot_model

    if not options.adapter:
        clip = load_clip(DEMO if options.model is None else options.model, options)
        names = list(class_names or [])
        return PromptSegmenter(zero_shot_model(clip, names, template), clip, windows_of(options, clip), names)
    model, clip = load_adapter(options.adapter, options)
    check_task(model, "SEMANTIC_SEG", options.adapter)
    if class_names is not None and list(class_names) != list(model.class_names):
        model.set_classes(list(class_names))  # says what it cannot have
    return PromptSegmenter(model, clip, windows_of(options, clip, options.adapter), model.class_names)


def refuse(options: argparse.Namespace, names: tuple[str, ...]) -> None:
    """Refuse options that mean nothing where each pixel has a class.

    Raises:
        ValueError: names the first that was given.
    """
    for name in names:
        if getattr(options, name, None) not in (None, False):
            raise ValueError(
                f"--{name.replace('_', '-')} is for images with one class each, and these have one for each pixel."
            )


def refuse_of_masks(options: argparse.Namespace, what: str) -> None:
    """Refuse options that mean something for pixels only.

    Args:
        options: with those of `add_masks`.
        what: there is instead, such as a `--data` argument.

    Raises:
        ValueError: names the first that was given.
    """
    for name in OF_PIXELS:
        if getattr(options, name, None) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')} is for images with masks ({MASKS}), and not for {what}.")
