"""`peft-coop evaluate` and `peft-coop predict`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import DEMO, add_data, add_model, load_adapter, load_clip, load_images, percent

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel
    from PIL.Image import Image as Picture

    from ..evaluation import FrozenCLIP

BATCH_SIZE = 32


def add_commands(commands: Any) -> None:
    """Add `evaluate` and `predict`."""
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
    parser.set_defaults(run=run_evaluate)

    parser = commands.add_parser(
        "predict",
        help="classify image files",
        description="Classify image files, and those in folders. An image that cannot be read is told and left out; "
        "the exit code is 2 then.",
    )
    parser.add_argument("images", nargs="+", type=Path, help="image files, and folders of them")
    parser.add_argument("--adapter", help="folder or Hub name of a saved prompt")
    parser.add_argument("--class-names", nargs="+", help="other classes than the adapter's; needed without --adapter")
    add_model(parser, default=None)
    parser.add_argument("--top-k", type=int, default=1, help="labels per image (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.set_defaults(run=run_predict)


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure and print."""
    from ..evaluation import PromptClassifier, ZeroShot, draw_images, scores

    data = load_images(options.data, options)
    images = getattr(data, options.split)
    if not len(images):
        raise ValueError(f"{data.name} has no {options.split} images.")
    if options.adapter:
        model, clip = load_adapter(options.adapter, options.model)
        classifier: Any = PromptClassifier(model, clip)
    else:
        clip = load_clip(options.model or DEMO)
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


def run_predict(options: argparse.Namespace) -> int:
    """Classify and print; 2 if an image could not be read."""
    files = list(_files(options.images))
    if options.top_k < 1:
        raise ValueError(f"--top-k must be 1 or more, got {options.top_k}.")
    model, clip = _classifier(options)
    unread = 0
    for start in range(0, len(files), BATCH_SIZE):
        batch = files[start : start + BATCH_SIZE]
        read = [(path, image) for path in batch if (image := _open(path)) is not None]
        unread += len(batch) - len(read)
        if read:
            probabilities = _probabilities(model, clip, [image for _, image in read])
            _print_batch([path for path, _ in read], probabilities, model.class_names, options)
    return 2 if unread else 0


def _classifier(options: argparse.Namespace) -> tuple[PeftModel, FrozenCLIP]:
    from peft import get_peft_model

    from ..configs import CoOpConfig

    if options.adapter:
        model, clip = load_adapter(options.adapter, options.model)
        if options.class_names:
            model.set_classes(options.class_names)
        return model, clip
    if not options.class_names:
        raise ValueError("Give --adapter, or --class-names for zero-shot CLIP.")
    clip = load_clip(options.model or DEMO)
    model = get_peft_model(clip.model, CoOpConfig(class_names=options.class_names)).eval()
    model.base_model.disable_adapter_layers()
    return model, clip


def _files(paths: list[Path]) -> Iterator[Path]:
    """The given files, and the images in the given folders, in order.

    Raises:
        ValueError: if one does not exist, or a folder holds no image.
    """
    from ..data.images import is_image_name

    for path in paths:
        if not path.exists():
            raise ValueError(f"There is no file or folder {str(path)!r}.")
        if not path.is_dir():
            yield path
            continue
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and is_image_name(file.relative_to(path))]
        if not found:
            raise ValueError(f"The folder {str(path)!r} holds no image.")
        yield from found


def _open(path: Path) -> Picture | None:
    from ..data.images import read_image

    try:
        return read_image({"path": str(path.absolute()), "bytes": None})
    except ValueError as error:
        print(f"peft-coop: {error}", file=sys.stderr)
        return None


def _probabilities(model: PeftModel, clip: FrozenCLIP, images: list[Picture]) -> np.ndarray:
    """`[N, C]` of N images.

    Raises:
        ValueError: if one is not finite.
    """
    import numpy as np
    import torch

    from ..data.preparation import prepare_images

    pixel_values = prepare_images(images, clip.processor.image_processor)
    with torch.no_grad():
        logits = model(pixel_values=pixel_values.to(clip.device)).logits
    probabilities = logits.float().softmax(-1).cpu().numpy()
    if not np.isfinite(probabilities).all():
        raise ValueError(
            f"The model's probabilities are not all finite (such as {probabilities[~np.isfinite(probabilities)][0]}): "
            "the adapter or CLIP has weights that are no numbers."
        )
    return probabilities


def _print_batch(files: list[Path], probabilities: np.ndarray, names: list[str], options: argparse.Namespace) -> None:
    import numpy as np

    for file, row in zip(files, probabilities, strict=True):
        best = [(names[index], float(row[index])) for index in np.argsort(-row)[: options.top_k]]
        if options.json:
            result: dict[str, Any] = {"file": str(file), "label": best[0][0], "probability": best[0][1]}
            if options.top_k > 1:
                result["top"] = [{"label": label, "probability": probability} for label, probability in best]
            print(json.dumps(result), flush=True)
        else:
            labels = "\t".join(f"{label} {percent(probability)}%" for label, probability in best)
            print(f"{file}\t{labels}", flush=True)
