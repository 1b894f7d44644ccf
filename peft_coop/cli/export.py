"""`peft-coop export`: a saved prompt as something that runs without this library."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .exported_data import measure_for
from .loading import load_adapter
from .mask_options import MASKS, add_masks, refuse_of_masks, windows_of
from .messages import say
from .options import IMAGES, add_data, add_model, add_quiet, check_new
from .video_options import VIDEOS, add_clips

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftModel

    from ..evaluation import FrozenCLIP
    from ..export import ClassMatrixForImageClassification
    from .exported_data import Measure

FORMATS = ("classes", "classifier", "onnx")
PRECISIONS = ("float32", "float16", "int8")
# Options that say how the accuracy, or mIoU, is measured.
OF_MEASURING = ("skip_corrupt", "stride", "flip_test", "multi_scale", "classes", "reduce_labels", "clips")
EXAMPLES = """\
examples:
  peft-coop export --format classes pets pets.safetensors
  peft-coop export --format classifier pets pets-classifier
  peft-coop export --format onnx pets pets-onnx --data folder:my-images
  peft-coop export --format onnx streets streets-onnx --crop-size 512 --data masks:my-streets

The page docs/deployment.md says what each of them is, and what reads it.
"""


def add_commands(commands: Any) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="a saved prompt as something that runs without this library",
        description="Write the classes as a matrix of features (classes), a classifier for transformers (classifier), "
        "or ONNX graphs from pixels to logits (onnx), also of prompts for videos and for masks, and of those that look "
        "at each image. Nothing is written over.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("adapter", help="folder or Hub name of a saved prompt")
    parser.add_argument("output", type=Path, help="the file of classes; else the folder")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    parser.add_argument(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help="of onnx: a graph beside that in float32; may be given several times (default: all)",
    )
    add_data(parser, required=False, text=f"what to print the accuracy, or mIoU, on: {IMAGES}; {VIDEOS}; {MASKS}")
    add_model(parser, default=None)
    add_masks(parser, learns=False)
    add_clips(parser)
    add_quiet(parser)
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> None:
    """Write it, and print what was written.

    Raises:
        ValueError: if something is there already, or an option is of another format or task.
    """
    if options.precision and options.format != "onnx":
        raise ValueError("--precision is for --format onnx.")
    if options.data and options.format == "classes":
        raise ValueError("--data is for --format classifier and onnx: a matrix of classes reads no images.")
    if not options.data:
        refuse_of_measuring(options)
    check_new(options.output)
    model, clip = load_adapter(options.adapter, options)
    if not gives_masks(model):
        refuse_of_masks(options, f"the adapter {options.adapter!r}")
    if options.format == "classes":
        model.export_classes(options.output)
        print(f"Wrote {options.output}: {len(model.class_names)} classes, {size_of(options.output)}.")
        return
    classifier = model.to_classifier() if options.format == "classifier" else None
    measure = measure_for(model, clip, options) if options.data else None
    if classifier is not None:
        write_classifier(classifier, clip, measure, options)
    else:
        write_onnx(model, clip, measure, options)


def refuse_of_measuring(options: argparse.Namespace) -> None:
    """Refuse what says how to measure, where nothing is measured.

    Raises:
        ValueError: names the first that was given.
    """
    for name in OF_MEASURING:
        if getattr(options, name) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')} says how to measure: give --data, too.")


def gives_masks(model: PeftModel) -> bool:
    """Whether an adapter gives each pixel a class."""
    return model.get_base_model().prompt_layer.prompt.task_head.task_type == "SEMANTIC_SEG"


def write_classifier(
    classifier: ClassMatrixForImageClassification,
    clip: FrozenCLIP,
    measure: Measure | None,
    options: argparse.Namespace,
) -> None:
    """Write a classifier for transformers, with its image processor."""
    import torch

    from ..whole_files import folder_written_whole

    with folder_written_whole(options.output) as draft:
        classifier.save_pretrained(draft)
        clip.processor.image_processor.save_pretrained(draft)
    size = size_of(*options.output.glob("*.safetensors"))
    own = classifier.config.num_labels - bool(classifier.config.n_others)
    print(f"Wrote {options.output}: {own} classes, {size}.")

    def run(pixel_values: torch.Tensor, **others: torch.Tensor) -> np.ndarray:
        others = {name: each.to(classifier.device) for name, each in others.items()}
        with torch.no_grad():
            return classifier(pixel_values.to(classifier.device, classifier.dtype), **others).logits.cpu().numpy()

    if measure is not None:
        print(f"{measure.name.capitalize()} on {measure.data}: {measure.told(run)}.")


def write_onnx(model: PeftModel, clip: FrozenCLIP, measure: Measure | None, options: argparse.Namespace) -> None:
    """Write ONNX graphs, and print of each its size, how far its logits are from torch's, and how well it answers."""
    from ..export import OnnxClassifier, export_onnx

    say("tracing the graphs, comparing them with torch: about a minute")
    precisions = options.precision or PRECISIONS
    files = export_onnx(model, image_processor_for(model, clip, options), options.output, precisions)
    print(f"Wrote {options.output}: {len(model.class_names)} classes.")
    for file in files:
        told = [f"{file.path.relative_to(options.output)}", file.precision, size_of(file.path)]
        told.append(f"logits within {file.difference:.1e}")
        if measure is not None:
            told.append(f"{measure.name} {measure.told(OnnxClassifier(file.path))}")
        print("\t".join(told))


def image_processor_for(model: PeftModel, clip: FrozenCLIP, options: argparse.Namespace) -> Any:
    """What prepares images for the graph: of squares that are as large as those of the training, for masks."""
    image_processor = clip.processor.image_processor
    if not gives_masks(model):
        return image_processor
    from ..data import mask_image_processor

    side = windows_of(options, clip, options.adapter).crop_size
    return mask_image_processor(image_processor, {"height": side, "width": side})


def size_of(*paths: Path) -> str:
    """The size of files together, for people: in units of 1,000 bytes."""
    size = float(sum(path.stat().st_size for path in paths))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
