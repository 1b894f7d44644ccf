"""`peft-coop predict`: classify image files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import stage
from .loading import TEMPLATE_WITH_ADAPTER, checked_template, load_adapter, load_clip
from .messages import say
from .options import DEMO, add_model, add_quiet, add_template, percent, whole_number

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel
    from PIL.Image import Image as Picture

    from ..evaluation import FrozenCLIP

BATCH_SIZE = 32


def add_commands(commands: Any) -> None:
    """Add `predict`."""
    parser = commands.add_parser(
        "predict",
        help="classify image files",
        description="Classify image files, and those in folders. An image that cannot be read is told, and its line of "
        "--json has an `error`; the exit code is 2 then.",
    )
    parser.add_argument("images", nargs="*", type=Path, help="image files, and folders of them")
    parser.add_argument("--adapter", help="folder or Hub name of a saved prompt")
    parser.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="other classes than the adapter's; needed without --adapter. Ends at the next option, or at --",
    )
    add_template(parser)
    add_model(parser, default=None)
    parser.add_argument("--top-k", type=whole_number, default=1, help="labels per image (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_quiet(parser)
    parser.set_defaults(run=run_predict)


def run_predict(options: argparse.Namespace) -> int:
    """Classify and print; 2 if an image could not be read."""
    files = list(_files(_images(options)))
    model, clip = _classifier(options)
    size = options.eval_batch_size or BATCH_SIZE
    unread = 0
    with stage("classifying", len(files), "image", shown=len(files) > size) as progress:
        for start in range(0, len(files), size):
            batch = [(path, _open(path)) for path in files[start : start + size]]
            pictures = [image for _, image in batch if not isinstance(image, str)]
            rows = iter(_probabilities(model, clip, pictures) if pictures else ())
            for path, image in batch:
                if isinstance(image, str):
                    unread += 1
                    line = json.dumps({"file": str(path), "error": image}) if options.json else None
                else:
                    line = _line(path, next(rows), model.class_names, options)
                if line is not None:
                    progress.write(line)
            progress.update(len(batch))
    return 2 if unread else 0


def _images(options: argparse.Namespace) -> list[Path]:
    """What to classify: also the image files that --class-names has taken along, as it takes all that follows it.

    Raises:
        ValueError: if there is nothing to classify, or an image stands between class names.
    """
    names: list[str] = options.class_names or []
    while names and _is_image(names[-1]):
        options.images.append(Path(names.pop()))
    between = next((name for name in names if _is_image(name)), None)
    if between is not None:
        raise ValueError(f"--class-names takes all that follows it, also the image {between!r}: put the images first.")
    if not options.images:
        folders = [name for name in names if Path(name).is_dir()]
        hint = f"; --class-names has taken {folders[-1]!r}: put what to classify first, or behind --" if folders else ""
        raise ValueError(f"Name image files, or folders of them{hint}.")
    return options.images


def _is_image(name: str) -> bool:
    from ..data.images import is_image_name

    return is_image_name(Path(name)) and Path(name).is_file()


def _classifier(options: argparse.Namespace) -> tuple[PeftModel, FrozenCLIP]:
    from peft import get_peft_model

    from ..methods import DEFAULT_METHOD, METHODS

    if options.adapter:
        if options.template is not None:
            raise ValueError(TEMPLATE_WITH_ADAPTER)
        model, clip = load_adapter(options.adapter, options)
        if options.class_names:
            model.set_classes(options.class_names)
        return model, clip
    if not options.class_names:
        raise ValueError("Give --adapter, or --class-names for zero-shot CLIP.")
    fields: dict[str, Any] = (
        {} if options.template is None else {"zero_shot_template": checked_template(options.template)}
    )
    clip = load_clip(DEMO if options.model is None else options.model, options)
    # Every method is the same zero-shot classifier while it is disabled.
    config = METHODS[DEFAULT_METHOD].config(class_names=options.class_names, **fields)
    model = get_peft_model(clip.model, config).eval()
    model.base_model.disable_adapter_layers()
    return model, clip


def _files(paths: list[Path]) -> Iterator[Path]:
    """The given files, and the images in the given folders, in order.

    Raises:
        ValueError: if one does not exist, or a folder holds no image.
    """
    from ..data.folders import files_below
    from ..data.images import is_image_name

    for path in paths:
        if not path.exists():
            raise ValueError(f"There is no file or folder {str(path)!r}.")
        if not path.is_dir():
            yield path
            continue
        files = sorted(files_below(path))
        found = [file for file in files if is_image_name(Path(file.name))]
        if not found:
            raise ValueError(f"The folder {str(path)!r} holds no image.")
        if len(found) < len(files):
            say(f"left out of {path}, no images by their names: {len(files) - len(found):,}")
        yield from found


def _open(path: Path) -> Picture | str:
    """The picture, or why it cannot be read, which is told."""
    from ..data.images import read_image

    try:
        return read_image({"path": str(path.absolute()), "bytes": None})
    except ValueError as error:
        print(f"peft-coop: {error}", file=sys.stderr)
        return str(error)


def _probabilities(model: PeftModel, clip: FrozenCLIP, images: list[Picture]) -> np.ndarray:
    """`[N, C]` of N images.

    Raises:
        ValueError: if one is not finite.
    """
    import numpy as np
    import torch

    from ..data.preparation import prepare_inputs

    inputs = prepare_inputs(images, clip.processor.image_processor)
    with torch.no_grad():
        logits = model(**{name: each.to(clip.device) for name, each in inputs.items()}).logits
    probabilities = logits.float().softmax(-1).cpu().numpy()
    if not np.isfinite(probabilities).all():
        raise ValueError(
            f"The model's probabilities are not all finite (such as {probabilities[~np.isfinite(probabilities)][0]}): "
            "the adapter or CLIP has weights that are no numbers."
        )
    return probabilities


def _line(file: Path, row: np.ndarray, names: list[str], options: argparse.Namespace) -> str:
    best = [(names[index], float(row[index])) for index in (-row).argsort()[: options.top_k]]
    if not options.json:
        return "\t".join([str(file), *(f"{label} {percent(probability)}%" for label, probability in best)])
    result: dict[str, Any] = {"file": str(file), "label": best[0][0], "probability": best[0][1]}
    if options.top_k > 1:
        result["top"] = [{"label": label, "probability": probability} for label, probability in best]
    return json.dumps(result)
