"""`peft-coop export`: a saved prompt as something that runs without this library."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import stage
from .loading import load_adapter, load_images
from .messages import say
from .options import IMAGES, add_data, add_model, add_quiet, check_new, percent

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..data import ImageData
    from ..evaluation import FrozenCLIP
    from ..export import ClassMatrixForImageClassification

FORMATS = ("classes", "classifier", "onnx")
PRECISIONS = ("float32", "float16", "int8")
BATCH_SIZE = 32
EXAMPLES = """\
examples:
  peft-coop export --format classes pets pets.safetensors
  peft-coop export --format classifier pets pets-classifier
  peft-coop export --format onnx pets pets-onnx --data folder:my-images

The page docs/deployment.md says what each of them is, and what reads it.
"""


def add_commands(commands: Any) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="a saved prompt as something that runs without this library",
        description="Write the classes as a matrix of features (classes), a classifier for transformers (classifier), "
        "or ONNX graphs from pixels to logits (onnx). Nothing is written over.",
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
    add_data(parser, required=False, text=f"what to print the accuracy on: {IMAGES}")
    add_model(parser, default=None)
    add_quiet(parser)
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> None:
    """Write it, and print what was written.

    Raises:
        ValueError: if something is there already, or an option is of another format.
    """
    if options.precision and options.format != "onnx":
        raise ValueError("--precision is for --format onnx.")
    if options.data and options.format == "classes":
        raise ValueError("--data is for --format classifier and onnx: a matrix of classes reads no images.")
    check_new(options.output)
    data = load_images(options.data, options) if options.data else None
    model, clip = load_adapter(options.adapter, options)
    if options.format == "classes":
        model.export_classes(options.output)
        print(f"Wrote {options.output}: {len(model.class_names)} classes, {size_of(options.output)}.")
        return
    classifier = model.to_classifier()
    if data is not None:
        check_classes(classifier, data)
    write = write_classifier if options.format == "classifier" else write_onnx
    write(classifier, clip, data, options)


def write_classifier(
    classifier: ClassMatrixForImageClassification,
    clip: FrozenCLIP,
    data: ImageData | None,
    options: argparse.Namespace,
) -> None:
    """Write a classifier for transformers, with its image processor."""
    import torch

    from ..whole_files import folder_written_whole

    with folder_written_whole(options.output) as draft:
        classifier.save_pretrained(draft)
        clip.processor.image_processor.save_pretrained(draft)
    size = size_of(options.output / "model.safetensors")
    print(f"Wrote {options.output}: {classifier.config.num_labels} classes, {size}.")

    def run(pixel_values: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return classifier(pixel_values.to(classifier.device)).logits.cpu().numpy()

    if data is not None:
        print(f"Accuracy on {data.name}: {percent(accuracy(run, clip, data))}%.")


def write_onnx(
    classifier: ClassMatrixForImageClassification,
    clip: FrozenCLIP,
    data: ImageData | None,
    options: argparse.Namespace,
) -> None:
    """Write ONNX graphs, and print of each its size, how far its logits are from torch's, and its accuracy."""
    from ..export import OnnxClassifier, export_onnx

    say("tracing the graphs, comparing them with torch: about a minute")
    precisions = options.precision or PRECISIONS
    files = export_onnx(classifier, clip.processor.image_processor, options.output, precisions)
    print(f"Wrote {options.output}: {classifier.config.num_labels} classes.")
    for file in files:
        told = [f"{file.path.relative_to(options.output)}", file.precision, size_of(file.path)]
        told.append(f"logits within {file.difference:.1e}")
        if data is not None:
            told.append(f"accuracy {percent(accuracy(OnnxClassifier(file.path), clip, data))}%")
        print("\t".join(told))


def check_classes(classifier: ClassMatrixForImageClassification, data: ImageData) -> None:
    """Check that images have the classes that are exported.

    Raises:
        ValueError: if they have others, there are no test images, or these have any number of classes.
    """
    from ..data import has_several_labels

    labels = [classifier.config.id2label[index] for index in range(classifier.config.num_labels)]
    own = labels[:-1] if classifier.config.n_others else labels
    if own != list(data.class_names):
        raise ValueError(
            f"The prompt's classes are {own[:5]} (of {len(own)}), and {data.name} has {data.class_names[:5]} (of "
            f"{len(data.class_names)}): accuracy needs the same in the same order. Leave --data out."
        )
    if not len(data.test):
        raise ValueError(f"{data.name} has no test images: leave --data out.")
    if has_several_labels(data.test):
        raise ValueError(
            f"{data.name} has images with any number of labels, and the accuracy that is printed is for one each: "
            "leave --data out."
        )


def accuracy(run: Callable[[torch.Tensor], np.ndarray], clip: FrozenCLIP, data: ImageData) -> float:
    """The share of test images whose class has the highest logit.

    Args:
        run: gives logits `[B, C]` of `pixel_values` `[B, 3, H, W]`.
        clip: has the image processor.
        data: has the images.
    """
    from ..data.images import ImageRows
    from ..data.preparation import prepare_images

    rows, labels, right = ImageRows(data.test), data.test["label"], 0
    with stage("classifying", len(rows), "image") as progress:
        for start in range(0, len(rows), BATCH_SIZE):
            indices = range(start, min(start + BATCH_SIZE, len(rows)))
            best = run(prepare_images([rows[index] for index in indices], clip.processor.image_processor)).argmax(-1)
            right += sum(int(found) == labels[index] for found, index in zip(best, indices, strict=True))
            progress.update(len(indices))
    return right / len(rows)


def size_of(path: Path) -> str:
    """A file's size, for people: in units of 1,000 bytes."""
    size = float(path.stat().st_size)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
