"""`peft-coop predict`: classify image files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import stage
from .loading import TEMPLATE_WITH_ADAPTER, check_task, checked_template, load_adapter, load_clip
from .mask_options import add_masks, refuse_of_masks
from .messages import say
from .options import DEMO, add_model, add_other_names, add_quiet, add_template, percent, whole_number
from .video_options import default_method_for, predict_videos

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
        help="classify image files, or videos",
        description="Classify image files, and those in folders; with an adapter that was learned from videos, video "
        "files, folders of frames, and those in folders, each by frames that are spread over it. What cannot be read "
        "is told, and its line of --json has an `error`; the exit code is 2 then. An adapter that was learned from "
        "masks writes a mask, and a picture of it, for each image into --output.",
    )
    parser.add_argument("images", nargs="*", type=Path, help="image or video files, and folders of them")
    parser.add_argument("--adapter", help="folder or Hub name of a saved prompt")
    parser.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="other classes than the adapter's; needed without --adapter. Ends at the next option, or at --",
    )
    add_template(parser)
    add_model(parser, default=None)
    add_other_names(parser)
    parser.add_argument(
        "--min-probability",
        type=float,
        metavar="SHARE",
        help="of the best class, below which the answer is 'other' (default: what `calibrate` has chosen)",
    )
    parser.add_argument(
        "--top-k", type=whole_number, help="labels per image (default: 1; of a prompt with several, the likely ones)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for a mask and a picture of it of each image, where each pixel gets a class",
    )
    add_masks(parser, learns=False, reads_data=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_quiet(parser)
    parser.set_defaults(run=run_predict)


def run_predict(options: argparse.Namespace) -> int:
    """Classify and print; 2 if an image could not be read."""
    if _classifies_videos(options):
        model, clip = _classifier(options)
        return predict_videos(model, clip, options)
    files = list(_files(_images(options)))
    if _classifies_pixels(options):
        from .segment import predict_masks

        return predict_masks(options, files, _open)
    refuse_of_masks(options, f"{options.adapter or 'zero-shot CLIP'} on whole images")
    if options.output is not None:
        raise ValueError(f"--output is for adapters that give each pixel a class, and {options.adapter!r} is not one.")
    model, clip = _classifier(options)
    decision = _decision(model, options)
    if model.judges_each_class and options.top_k is not None:
        raise ValueError(
            "--top-k is for images of one class each, and this prompt answers with several labels: --min-probability "
            "says from when."
        )
    size = options.eval_batch_size or BATCH_SIZE
    unread = 0
    with stage("classifying", len(files), "image", shown=len(files) > size) as progress:
        for start in range(0, len(files), size):
            batch = [(path, _open(path)) for path in files[start : start + size]]
            pictures = [image for _, image in batch if not isinstance(image, str)]
            rows = iter(_probabilities(model, clip, pictures, decision) if pictures else ())
            for path, image in batch:
                if isinstance(image, str):
                    unread += 1
                    line = json.dumps({"file": str(path), "error": image}) if options.json else None
                else:
                    make = _line_of_several if model.judges_each_class else line_of
                    line = make(path, next(rows), model.class_names, decision.min_probability, options)
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


def _classifies_pixels(options: argparse.Namespace) -> bool:
    """Whether masks are asked for: of an adapter that was learned from masks, or by `--output` without any."""
    return _task_of(options.adapter) == "SEMANTIC_SEG" if options.adapter else options.output is not None


def _classifies_videos(options: argparse.Namespace) -> bool:
    """Whether videos are: by an adapter that was learned from them, or by files that are such, without any.

    Raises:
        ValueError: if there is nothing to classify, or an adapter of images is given a video.
    """
    from ..data.video_files import is_video_name

    is_video = [path.is_file() and is_video_name(path) and not _is_image(str(path)) for path in options.images]
    if not options.adapter:
        return any(is_video)
    task = _task_of(options.adapter)
    if task is not None and task != "VIDEO_CLS" and any(is_video):
        video = options.images[is_video.index(True)]
        raise ValueError(f"The adapter {options.adapter!r} does not classify videos, and {str(video)!r} is one.")
    if task == "VIDEO_CLS" and not options.images:
        raise ValueError("Name video files, folders of frames, or folders of these.")
    return task == "VIDEO_CLS"


def _task_of(adapter: str) -> str | None:
    """PEFT's name of what a saved adapter does; None where it cannot be read, which who loads it says."""
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(adapter).task_type
    except (OSError, ValueError, KeyError):
        return None


def _classifier(options: argparse.Namespace) -> tuple[PeftModel, FrozenCLIP]:
    from peft import get_peft_model

    from ..methods import DEFAULT_METHOD, METHODS

    if options.adapter:
        if options.template is not None:
            raise ValueError(TEMPLATE_WITH_ADAPTER)
        model, clip = load_adapter(options.adapter, options)
        check_task(model, "VIDEO_CLS" if _classifies_videos(options) else "IMAGE_CLS", options.adapter)
        if options.class_names:
            model.set_classes(options.class_names)
        return model, clip
    if not options.class_names:
        raise ValueError("Give --adapter, or --class-names for zero-shot CLIP.")
    fields: dict[str, Any] = (
        {} if options.template is None else {"zero_shot_template": checked_template(options.template)}
    )
    clip = load_clip(DEMO if options.model is None else options.model, options)
    # Every method of a task is the same zero-shot classifier while it is disabled.
    key = default_method_for("videos:") if _classifies_videos(options) else DEFAULT_METHOD
    config = METHODS[key].config(class_names=options.class_names, **fields)
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


@dataclass(frozen=True)
class Decision:
    """What is decided by, see `PromptConfig`."""

    temperature: float | None
    min_probability: float | None
    other_names: list[str]


def _decision(model: PeftModel, options: argparse.Namespace) -> Decision:
    """What was saved with the prompt, and what the options change of it.

    Raises:
        ValueError: if an option is none that can be decided by.
    """
    from ..methods.config import check_decision

    saved = model.active_peft_config if options.adapter else None
    temperature = getattr(saved, "calibration_temperature", None)
    others = options.other_names or getattr(saved, "other_names", None)
    least = options.min_probability
    if least is None and saved is not None and saved.min_probability is not None:
        if others == saved.other_names:
            least = saved.min_probability
        else:
            say(
                f"--other-names change the probabilities: the saved least one, {saved.min_probability:.3f}, is not used"
            )
    _, least, others = check_decision(None, least, others, model.class_names)
    if others and model.judges_each_class:
        raise ValueError("--other-names are for images of one class each, and this prompt answers with several labels.")
    return Decision(temperature, least, others or [])


def _probabilities(model: PeftModel, clip: FrozenCLIP, images: list[Picture], decision: Decision) -> np.ndarray:
    """`[N, C]` of N images, or `[N, C + 1]` with "other" last where there are other names.

    Raises:
        ValueError: if one is not finite.
    """
    import numpy as np
    import torch

    from ..data.preparation import prepare_inputs
    from ..models import decided_logits

    inputs = {
        name: each.to(clip.device) for name, each in prepare_inputs(images, clip.processor.image_processor).items()
    }
    with torch.no_grad():
        logits = model(**inputs, class_names=[*model.class_names, *decision.other_names]).logits
    logits = decided_logits(logits.float(), len(model.class_names), decision.temperature)
    probabilities = (logits.sigmoid() if model.judges_each_class else logits.softmax(-1)).cpu().numpy()
    if not np.isfinite(probabilities).all():
        raise ValueError(
            f"The model's probabilities are not all finite (such as {probabilities[~np.isfinite(probabilities)][0]}): "
            "the adapter or CLIP has weights that are no numbers."
        )
    return probabilities


def _line_of_several(
    file: Path, row: np.ndarray, names: list[str], min_probability: float | None, options: argparse.Namespace
) -> str:
    """All classes that are likely enough, the likeliest first."""
    from ..evaluation.several_labels import LEAST

    least = LEAST if min_probability is None else min_probability
    found = [(names[index], float(row[index])) for index in (-row).argsort() if row[index] >= least]
    if options.json:
        labels = [{"label": label, "probability": probability} for label, probability in found]
        return json.dumps({"file": str(file), "labels": labels})
    return "\t".join([str(file), *(f"{label} {percent(probability)}%" for label, probability in found)])


def line_of(
    file: Path, row: np.ndarray, names: list[str], min_probability: float | None, options: argparse.Namespace
) -> str:
    """What is printed of one file.

    Args:
        file: the file.
        row: the probabilities of its classes, and behind them that of "other" where there are other names.
        names: the classes.
        min_probability: of the best class; None: any.
        options: `json` and `top_k`.
    """
    import torch

    from ..models import OTHER, answers_other

    best = [(names[index], float(row[index])) for index in (-row[: len(names)]).argsort()[: options.top_k or 1]]
    is_other = bool(answers_other(torch.from_numpy(row), len(names), min_probability))
    if not options.json:
        told = [f"{label} {percent(probability)}%" for label, probability in best]
        return "\t".join([str(file), *([OTHER] if is_other else []), *told])
    result: dict[str, Any] = {"file": str(file), "label": best[0][0], "probability": best[0][1]}
    if is_other:
        of_other = float(row[len(names)]) if len(row) > len(names) else None
        result = {"file": str(file), "label": OTHER, "probability": of_other}
        result["best_guess"] = {"label": best[0][0], "probability": best[0][1]}
    if (options.top_k or 1) > 1:
        result["top"] = [{"label": label, "probability": probability} for label, probability in best]
    return json.dumps(result)
