"""What `export` measures what it wrote on: data of the adapter's task, as `evaluate` reads them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .loading import CLASSIFIED, load_images
from .mask_options import MASKS, has_masks, load_mask_images, refuse_of_masks, windows_of
from .options import IMAGES, percent
from .video_options import VIDEOS, num_clips, refuse_of_videos, task_of

if TYPE_CHECKING:
    from peft import PeftModel

    from ..evaluation import FrozenCLIP
    from ..evaluation.exported import Run

SOURCES = {"IMAGE_CLS": IMAGES, "VIDEO_CLS": VIDEOS, "SEMANTIC_SEG": MASKS}


@dataclass(frozen=True)
class Measure:
    """What is printed beside a file.

    Attributes:
        name: of the number.
        data: the name of what it is measured on.
        of: gives the number, a share, of what gives logits of `pixel_values`.
    """

    name: str
    data: str
    of: Callable[[Run], float]

    def told(self, run: Run) -> str:
        """The number in percent."""
        return f"{percent(self.of(run))}%"


def measure_for(model: PeftModel, clip: FrozenCLIP, options: argparse.Namespace) -> Measure:
    """How well something answers as an adapter does, on the `--data`.

    Args:
        model: with the adapter.
        clip: the dual encoder with its processor.
        options: of `export`.

    Raises:
        ValueError: if the data are of another task, have other classes, or have none to measure on.
    """
    task = model.get_base_model().prompt_layer.prompt.task_head.task_type
    of_data = "SEMANTIC_SEG" if has_masks(options.data) else task_of(options.data)
    if of_data != task:
        raise ValueError(
            f"The adapter {options.adapter!r} is for {CLASSIFIED[task]}: --data must be {SOURCES[task]}, got "
            f"{options.data!r}."
        )
    return _masks(model, clip, options) if task == "SEMANTIC_SEG" else _whole(model, clip, options)


def _whole(model: PeftModel, clip: FrozenCLIP, options: argparse.Namespace) -> Measure:
    """The accuracy on images, or on videos."""
    from ..data import has_several_labels
    from ..evaluation.exported import image_accuracy, video_accuracy

    refuse_of_masks(options, options.data)
    refuse_of_videos(options, options.data)
    data = load_images(options.data, options)
    check_classes(model, data.name, data.class_names)
    if not len(data.test):
        raise ValueError(f"{data.name} has no test {data.items}: leave --data out.")
    image_processor = clip.processor.image_processor
    if options.clips and data.items != "videos":
        raise ValueError(f"--clips are drawn of videos, and {data.name} has {data.items}.")
    if data.items == "videos":
        length = model.active_peft_config.num_frames
        return Measure(
            "accuracy",
            data.name,
            lambda run: video_accuracy(run, data.test, image_processor, length, num_clips(options)),
        )
    if has_several_labels(data.test):
        raise ValueError(
            f"{data.name} has images with any number of labels, and the accuracy that is printed is for one each: "
            "leave --data out."
        )
    return Measure("accuracy", data.name, lambda run: image_accuracy(run, data.test, image_processor, clip.batch_size))


def _masks(model: PeftModel, clip: FrozenCLIP, options: argparse.Namespace) -> Measure:
    """The mean intersection over union, of images read in windows."""
    from ..evaluation.exported import RunSegmenter
    from ..evaluation.segmentation import Segmenter, pixel_scores

    data = load_mask_images(options.data, options)
    check_classes(model, data.name, data.class_names)
    if not len(data.test):
        raise ValueError(f"{data.name} has no test images: leave --data out.")
    windows = windows_of(options, clip, options.adapter)

    def mean_iou(run: Run) -> float:
        of_windows: Any = RunSegmenter(run, model.get_base_model(), windows.crop_size)
        segmenter = Segmenter(of_windows, clip, windows, data.class_names)
        return pixel_scores(segmenter, data.test, data.values)["mean_iou"]

    return Measure("mIoU", data.name, mean_iou)


def check_classes(model: PeftModel, name: str, class_names: Sequence[str]) -> None:
    """Check that data have the classes that are exported.

    Raises:
        ValueError: if they have others, or in another order.
    """
    own = list(model.class_names or ())
    if own != list(class_names):
        raise ValueError(
            f"The prompt's classes are {own[:5]} (of {len(own)}), and {name} has {list(class_names[:5])} (of "
            f"{len(class_names)}): accuracy needs the same in the same order. Leave --data out."
        )
