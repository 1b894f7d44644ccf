"""`peft-coop evaluate`: an adapter, or zero-shot CLIP, on labelled images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .loading import TEMPLATE_WITH_ADAPTER, check_task, load_adapter, load_clip, load_images
from .mask_options import MASKS, add_masks, has_masks, refuse_of_masks
from .messages import say
from .options import DEMO, IMAGES, add_data, add_model, add_quiet, add_template, check_new, percent
from .video_options import VIDEOS, add_clips, num_clips, refuse_of_videos, task_of

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..data import ImageData
    from ..evaluation import Classifier, Decided, FrozenCLIP, Predictions


def add_commands(commands: Any) -> None:
    """Add `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="measure an adapter, or zero-shot CLIP, on labelled images",
        description="Accuracy, macro-averaged accuracy and expected calibration error on the test images. The classes "
        "are the data's: a unified context classifies into any. Without --adapter it is zero-shot CLIP.",
    )
    parser.add_argument("--adapter", help="folder or Hub name of a saved prompt")
    add_data(parser, text=f"{IMAGES}; {MASKS}; {VIDEOS}")
    add_model(parser, default=None)
    parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="default: test")
    parser.add_argument("--per-class", action="store_true", help="also the accuracy of every class")
    parser.add_argument(
        "--confusion-matrix",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="also how often each class was taken for which: printed, and into .csv, .png, .pdf or .svg files",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="of every image its truth, prediction and probability, into a .csv or .jsonl",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load images, for a prompt that reads them itself"
    )
    add_template(parser)
    add_masks(parser, learns=False)
    parser.add_argument(
        "--score-maps",
        type=Path,
        metavar="FILE",
        help="with masks: a picture of an image, its classes, and how close its places are to each class; .png or .pdf",
    )
    add_clips(parser)
    add_quiet(parser)
    parser.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure, print and write.

    Raises:
        ValueError: if the data has no such images, or a file is there or has an unknown ending.
    """
    refuse_of_videos(options, options.data)
    if has_masks(options.data):
        from .segment import evaluate_masks

        return evaluate_masks(options)
    refuse_of_masks(options, options.data)
    from ..data import has_several_labels
    from ..evaluation import Predictions, scores, write_confusion
    from ..evaluation.scores import top_accuracy

    _check_files(options)
    data = load_images(options.data, options)
    images = getattr(data, options.split)
    if not len(images):
        raise ValueError(f"{data.name} has no {options.split} {data.items}.")
    classifier, clip = _classifier(options, data)
    if has_several_labels(images):
        evaluate_several(classifier, images, data, clip.name, options)
        return
    logits, names, answered = _decided(classifier, images, data)
    predictions = Predictions.from_logits(logits, images["label"], names)
    result = {
        **scores(logits, images["label"]),
        **answered,
        **({"top5_accuracy": top_accuracy(logits, images["label"], 5)} if data.items == "videos" else {}),
        "class_names": data.class_names,
        "data": options.data,
        "summary": data.summary.as_dict(),
        "split": options.split,
        "model": clip.name,
        "adapter": options.adapter,
    }
    if options.predictions:
        predictions.write(options.predictions, images)
    for path in options.confusion_matrix or ():
        write_confusion(predictions, path)
    if options.json:
        print(json.dumps(result | _details(predictions, options)))
    else:
        _print(result, predictions, data, options)


def evaluate_several(
    classifier: Classifier, images: Dataset, data: ImageData, model: str, options: argparse.Namespace
) -> None:
    """Measure and print images of several labels.

    Raises:
        ValueError: if an option is asked for that is of one class per image.
    """
    from ..data import label_values
    from ..evaluation import decided_logits, format_average_precision, several_scores
    from ..evaluation.several_labels import LEAST

    if options.predictions or options.confusion_matrix is not None:
        raise ValueError("--predictions and --confusion-matrix are for images of one class each; these have several.")
    decides = _usable_decision(classifier, images, data)
    least = decides.get("min_probability")
    logits = decided_logits(
        classifier.logits(images, data.class_names), len(data.class_names), decides.get("calibration_temperature")
    )
    result = {
        **several_scores(logits, label_values(images), data.class_names, least),
        "class_names": data.class_names,
        "data": options.data,
        "summary": data.summary.as_dict(),
        "split": options.split,
        "model": model,
        "adapter": options.adapter,
    }
    if options.json:
        print(json.dumps(result))
        return
    what = options.adapter or f"zero-shot {model}, {data.zero_shot_template!r}"
    print(f"{data.name}: {result['num_examples']:,} {options.split} images of {len(data.class_names)} classes, {what}")
    print(f"  mean average precision       {percent(result['mean_average_precision']):>6}%")
    least = LEAST if least is None else least
    print(f"  F1 from {least:.2f} on, over classes  {percent(result['f1_macro']):>5}%")
    print(f"  F1 from {least:.2f} on, over all      {percent(result['f1_micro']):>5}%")
    if result["without_positives"]:
        print(f"  without an image, left out: {', '.join(result['without_positives'])}")
    if options.per_class:
        print(f"\n{format_average_precision(result)}")


def _check_files(options: argparse.Namespace) -> None:
    """Refuse what could not be written before anything is measured."""
    from ..evaluation.confusion import PICTURES
    from ..evaluation.predictions import SUFFIXES, check_suffix

    if options.predictions:
        check_suffix(check_new(options.predictions), SUFFIXES)
    for path in options.confusion_matrix or ():
        check_suffix(check_new(path), (".csv", *PICTURES))


def _classifier(options: argparse.Namespace, data: ImageData) -> tuple[Classifier, FrozenCLIP]:
    from ..evaluation import ZeroShot, draw_images, prompt_classifier

    if not options.adapter:
        clip = load_clip(DEMO if options.model is None else options.model, options)
        return ZeroShot().fit(clip, draw_images(data, 0, 0), 0, Path()), clip
    if options.template is not None:
        raise ValueError(TEMPLATE_WITH_ADAPTER)
    model, clip = load_adapter(options.adapter, options)
    check_task(model, task_of(options.data), options.adapter)
    return prompt_classifier(model, clip, options.workers, num_clips(options)), clip


def _decided(classifier: Classifier, images: Dataset, data: ImageData) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """Logits whose softmax is what is decided by, what their columns are, and what is said of answers held back."""
    from ..evaluation import PromptClassifier, decide
    from ..models import OTHER

    decides = _usable_decision(classifier, images, data)
    if not decides or not isinstance(classifier, PromptClassifier):
        return classifier.logits(images, data.class_names), data.class_names, {}
    decided = cast("Decided", decide(classifier, images, images["label"]))
    names = [*data.class_names, *([OTHER] if decided.logits.shape[1] > decided.n_cls else [])]
    measured = decided.scores(decides["min_probability"])
    answers = {"coverage": measured["coverage"], "accuracy_of_answers": measured["accuracy"]}
    return decided.logits, names, {"decision": decides, **answers}


def _usable_decision(classifier: Classifier, images: Dataset, data: ImageData) -> dict[str, Any]:
    """What a prompt decides by, if it was chosen for such images; empty otherwise, which is told, or if nothing was."""
    from ..data import has_several_labels
    from ..evaluation import PromptClassifier

    if not isinstance(classifier, PromptClassifier):
        return {}
    decides, settings = classifier.model.decision, classifier.model.active_peft_config
    if all(value is None for value in decides.values()):
        return {}
    if has_several_labels(images) != settings.has_several_labels:
        kinds = ("one class each", "several labels")
        of_data, of_prompt = (kinds[each] for each in (not settings.has_several_labels, settings.has_several_labels))
        say(f"the images have {of_data}: what `calibrate` has chosen for images of {of_prompt} is not used")
    elif data.class_names != classifier.learned_names:
        say("the data have other classes than the adapter: what `calibrate` has chosen for its own is not used")
    else:
        return decides
    return {}


def _details(predictions: Predictions, options: argparse.Namespace) -> dict[str, Any]:
    details: dict[str, Any] = {"per_class": predictions.per_class()} if options.per_class else {}
    if options.confusion_matrix is not None:
        details["confusion_matrix"] = predictions.confusion().tolist()
    return details


def _print(result: dict[str, Any], predictions: Predictions, data: ImageData, options: argparse.Namespace) -> None:
    from ..evaluation import format_confusion, format_per_class

    what = options.adapter or f"zero-shot {result['model']}, {data.zero_shot_template!r}"
    counted = f"{result['num_examples']:,} {options.split} {data.items} of {len(data.class_names)} classes"
    print(f"{data.name}: {counted}, {what}")
    print(f"  accuracy                     {percent(result['accuracy']):>6}%")
    print(f"  macro-averaged accuracy      {percent(result['macro_accuracy']):>6}%")
    print(f"  expected calibration error   {percent(result['ece']):>6}%")
    if "top5_accuracy" in result:
        print(f"  the class among the best 5   {percent(result['top5_accuracy']):>6}%")
    if "decision" in result:
        least, accuracy = result["decision"]["min_probability"], result["accuracy_of_answers"]
        told = "answered" if least is None else f"answered, from {percent(least)}% on"
        print(f"  {told:<29}{percent(result['coverage']):>6}%")
        print(f"  accuracy of the answers      {'–' if accuracy is None else percent(accuracy):>6}%")
    if options.per_class:
        print(f"\n{format_per_class(predictions)}")
    if options.confusion_matrix is not None:
        print(f"\n{format_confusion(predictions)}")
    for path in (*([options.predictions] if options.predictions else ()), *(options.confusion_matrix or ())):
        say(f"wrote {path}")
