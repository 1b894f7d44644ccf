"""`peft-coop calibrate`: how far a prompt's probabilities can be trusted, and when to answer "other"."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..whole_files import written_whole
from .calibration_table import table_of
from .loading import CONFIG, check_task, load_adapter, load_images
from .messages import say
from .options import add_data, add_model, add_other_names, add_quiet, check_new
from .saved_scores import dataset_name, read_drawn, read_record, write_again
from .video_options import has_videos

if TYPE_CHECKING:
    from peft import PeftModel

    from ..evaluation import Calibration, KnownAndUnknown, PromptClassifier

MANY = 50  # images: of fewer a temperature is told to be rough
EXAMPLES = """\
examples:
  peft-coop calibrate my-prompt --data folder:my-images
  peft-coop calibrate my-prompt --data folder:my-images --min-accuracy 0.95 --coverage coverage.png
  peft-coop calibrate my-prompt --data folder:my-images --other-names "a texture,a blank image"
"""


def add_commands(commands: Any) -> None:
    """Add `calibrate`."""
    parser = commands.add_parser(
        "calibrate",
        help="fit a saved prompt's probabilities to validation images, and choose when to answer 'other'",
        description="Fit one temperature to validation images, or to training images that the prompt has not learned "
        "from, and save it with the prompt; test images are only measured. With --min-accuracy or --min-coverage also "
        "the least probability of an answer; `predict` answers 'other' below it. Images of classes that the prompt "
        "has not are measured as unknown ones.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("adapter", metavar="RUN_OR_ADAPTER", help="folder of a saved prompt, or of a benchmark's run")
    add_data(parser)
    add_model(parser, default=None)
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--min-accuracy", type=float, metavar="SHARE", help="of the answers, such as 0.95")
    wish.add_argument("--min-coverage", type=float, metavar="SHARE", help="of the images to be answered, such as 0.9")
    add_other_names(parser)
    parser.add_argument("--reliability", type=Path, metavar="FILE", help="the reliability diagram, as .png, .pdf, .svg")
    parser.add_argument("--coverage", type=Path, metavar="FILE", help="accuracy over coverage, likewise")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load images, for a prompt that reads them itself"
    )
    add_quiet(parser)
    parser.set_defaults(run=run_calibrate)


def run_calibrate(options: argparse.Namespace) -> None:
    """Choose, measure, print and save.

    Raises:
        ValueError: if there is no such prompt in a folder, it does not classify whole images, or there are no images to
            choose with.
    """
    from ..data import has_several_labels
    from ..evaluation import PromptClassifier, by_known_classes, calibrate, validation_images

    folder = adapter_folder(options.adapter)
    for path in _pictures(options):
        check_new(path)
    if has_videos(options.data):
        raise ValueError(f"Adapters of images are calibrated, and {options.data!r} has videos.")
    read_record(folder)  # what it cannot read is said before anything is chosen
    data = load_images(options.data, options)
    has_several = has_several_labels(data.test)
    if has_several:
        refuse_of_one_class(options)
    model, clip = load_adapter(str(folder), options)
    check_task(model, "IMAGE_CLS", options.adapter)
    classifier = PromptClassifier(model, clip, options.workers)
    chosen_with, what = validation_images(data, read_drawn(folder))
    parts = {
        name: by_known_classes(images, data.class_names, classifier.learned_names)
        for name, images in {"validation": chosen_with, "test": data.test}.items()
    }
    tell_chosen_with(len(parts["validation"].known), what)
    if has_several:
        tell_left_out(data.class_names, classifier.learned_names)
    tell_missing(parts["validation"].known, classifier.learned_names)
    zero_shot = _zero_shot(classifier, parts["test"])
    before = _decided(classifier, parts["test"], plain=True)
    found = calibrate(
        classifier, parts["validation"].known, options.other_names, options.min_accuracy, options.min_coverage
    )
    after = _decided(classifier, parts["test"])
    result = _result(found, before, after, zero_shot, data.name)
    _draw(found, after, zero_shot, options)
    save_decision(model, folder)
    if after["known"] is not None:
        of_test = result["test"]
        write_again(model, folder, dataset_name(options.data, data), of_test["num_examples"], of_test["after"])
    if "test" not in result:
        say("no test image has a class of the adapter's: what was chosen is not measured on any")
    lines = [*table_of(result, has_several), f"Saved in {folder / CONFIG}."]
    print(json.dumps(result) if options.json else "\n".join(lines))


def adapter_folder(place: str) -> Path:
    """The folder of a saved prompt, or that in a benchmark's run.

    Raises:
        ValueError: if there is none: what is chosen is written into its config.
    """
    from ..evaluation.run_folders import ADAPTER

    folder = Path(place)
    if (folder / ADAPTER / CONFIG).is_file():
        return folder / ADAPTER
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {place!r}: what is chosen is saved with the prompt, so that must be in a folder of "
            "this machine."
        )
    return folder


def refuse_of_one_class(options: argparse.Namespace) -> None:
    """Refuse what holds images back, where an image has any number of labels.

    Raises:
        ValueError: says why, and what does in its place.
    """
    if options.other_names:
        raise ValueError(
            "--other-names are for images of one class each: an image with any number of labels may have none of them, "
            "and each class is judged for itself."
        )
    given = {"--min-coverage": options.min_coverage, "--coverage": options.coverage}
    asked = next((name for name, value in given.items() if value is not None), None)
    if asked is not None:
        raise ValueError(
            f"{asked} is of images that are answered or held back, and an image with any number of labels is not held "
            "back as a whole: it may rightly have none. --min-accuracy chooses the probability from which a label is "
            "answered."
        )


def tell_chosen_with(count: int, what: str) -> None:
    """Tell how many images there are to choose with, and whether they are few."""
    few = "; these are few, so that what is chosen is rough" if count < MANY else ""
    say(f"chosen with {count:,} {what}{few}")


def tell_missing(images: Any, class_names: list[str]) -> None:
    """Tell which classes have no image to choose with."""
    from ..data import label_counts

    counts = label_counts(images, len(class_names))
    missing = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if missing:
        say(f"without an image to choose with: {len(missing):,} of {len(class_names):,} classes ({missing[0]}, …)")


def tell_left_out(data_names: list[str], class_names: list[str]) -> None:
    """Tell which of the data's labels are none of the prompt's classes: each is judged for itself without them."""
    foreign = [name for name in data_names if name not in class_names]
    if foreign:
        say(f"labels that the adapter has not, left out: {len(foreign):,} of {len(data_names):,} ({foreign[0]}, …)")


def save_decision(model: PeftModel, folder: Path) -> None:
    """Write what was chosen into the config beside the weights; nothing else of it changes."""
    from ..methods.config import DECISION_FIELDS

    path = folder / CONFIG
    saved = {
        name: value
        for name, value in json.loads(path.read_text(encoding="utf-8")).items()
        if name not in DECISION_FIELDS
    }
    chosen = {name: getattr(model.active_peft_config, name) for name in DECISION_FIELDS}
    saved |= {name: value for name, value in chosen.items() if value is not None}
    with written_whole(path) as draft:
        draft.write_text(json.dumps(saved, indent=2, sort_keys=True), encoding="utf-8")


def _decided(classifier: PromptClassifier, images: KnownAndUnknown, plain: bool = False) -> dict[str, Any]:
    """Known and unknown images under the prompt; None where there are none, or none of them has any class.

    Args:
        classifier: the prompt.
        images: of its classes, and others.
        plain: at temperature 1 and without other names.
    """
    from ..data import label_counts, label_values
    from ..evaluation import decide

    known, unknown = images.known, images.unknown
    is_measurable = len(known) and label_counts(known, len(classifier.learned_names)).any()
    return {
        "known": decide(classifier, known, label_values(known), plain) if is_measurable else None,
        "unknown": decide(classifier, unknown, plain=plain) if len(unknown) else None,
    }


def _zero_shot(classifier: PromptClassifier, images: KnownAndUnknown) -> dict[str, Any]:
    """The same under zero-shot CLIP, for which nothing is chosen."""
    with classifier.model.disable_adapter():
        return _decided(classifier, images, plain=True)


def _result(
    found: Calibration, before: dict[str, Any], after: dict[str, Any], zero_shot: dict[str, Any], data: str
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "data": data,
        "temperature": found.temperature,
        "min_probability": found.min_probability,
        "other_names": found.other_names,
        "validation": {
            "num_examples": len(found.after.logits),
            "before": found.before.scores(None),
            "after": found.after.scores(found.min_probability),
        },
    }
    if after["known"] is not None:
        result["test"] = {
            "num_examples": len(after["known"].logits),
            "before": before["known"].scores(None),
            "after": after["known"].scores(found.min_probability),
            "zero_shot": zero_shot["known"].scores(None),
        }
    if after["known"] is not None and after["unknown"] is not None:
        result["unknown"] = _unknown(found, after, zero_shot)
    return result


def _unknown(found: Calibration, after: dict[str, Any], zero_shot: dict[str, Any]) -> dict[str, Any]:
    from ..evaluation import unknown_detection

    return {
        "num_examples": len(after["unknown"].logits),
        "auroc": unknown_detection(after["known"], after["unknown"]),
        "zero_shot_auroc": unknown_detection(zero_shot["known"], zero_shot["unknown"]),
        "answered_other": float(1 - after["unknown"].answered(found.min_probability).mean()),
    }


def _pictures(options: argparse.Namespace) -> list[Path]:
    from ..evaluation.confusion import PICTURES
    from ..evaluation.predictions import check_suffix

    paths = [path for path in (options.reliability, options.coverage) if path is not None]
    for path in paths:
        check_suffix(path, PICTURES)
    if len(set(paths)) < len(paths):
        raise ValueError(f"--reliability and --coverage are two pictures, and {paths[0]} is one file: give two names.")
    return paths


def _draw(found: Calibration, after: dict[str, Any], zero_shot: dict[str, Any], options: argparse.Namespace) -> None:
    from ..evaluation import coverage_figure, reliability_figure, save_figure

    for path in _pictures(options):
        path.parent.mkdir(parents=True, exist_ok=True)
    if options.reliability:
        panels = {"before, validation": found.before, "after, validation": found.after}
        if after["known"] is not None:
            panels["after, test"] = after["known"]
        save_figure(reliability_figure(panels), options.reliability)
        say(f"drew {options.reliability}")
    if options.coverage:
        curves = {"the prompt, validation": found.after}
        if after["known"] is not None:
            curves = {"the prompt": after["known"], "zero-shot CLIP": zero_shot["known"]}
        save_figure(coverage_figure(curves, [found.min_probability]), options.coverage)
        say(f"drew {options.coverage}")
