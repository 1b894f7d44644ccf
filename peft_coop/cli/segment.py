"""What `train`, `evaluate`, `predict` and `benchmark` do with images whose pixels have a class each."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import stage
from .loading import TEMPLATE_WITH_ADAPTER, checked_template, load_clip
from .mask_options import (
    OF_TRAINING,
    OF_WHOLE_IMAGES,
    check_method,
    load_mask_images,
    load_segmenter,
    prompt_segmentation,
    refuse,
    windows_of,
)
from .messages import say
from .options import check_new, percent
from .saved_scores import write_scores
from .training_folder import TrainingFolder

if TYPE_CHECKING:
    import numpy as np

    from ..data import MaskData
    from ..evaluation import FrozenCLIP
    from ..evaluation.segmentation import MaskedImages

TEMPLATE = "a photo of a {}."
# What `predict` writes, by the ending of an image's name.
MASK, OVERLAY = ".mask.png", ".overlay.png"


def train_masks(options: argparse.Namespace, same: tuple[str, ...], default_shots: int) -> None:
    """Train, measure and save.

    Args:
        options: of `train`.
        same: what a training that goes on must have in common with the one that was stopped.
        default_shots: what a training with masks, which has no shots, has been noted down with.

    Raises:
        ValueError: if the method classifies no pixels, so many images of each class are asked for, or the output folder
            holds something else.
    """
    from ..evaluation.segmentation import DenseZeroShot, draw_masks, pixel_scores, segmentation_methods
    from ..evaluation.segmentation.protocol import ALL

    options.method = options.method or segmentation_methods()[0].key
    check_method(options.method)
    refuse(options, OF_WHOLE_IMAGES)
    if hasattr(options, "shots"):
        given = "all" if options.shots is None else options.shots
        raise ValueError(
            f"--shots {given} are images of each class, and these show several: give --num-images, or nothing for all."
        )
    options.shots = default_shots
    TrainingFolder(options.output, {}).check()  # before anybody waits for the images
    data = _with_template(load_mask_images(options.data, options), options)
    clip = load_clip(options.model, options)
    windows = windows_of(options, clip)
    method = prompt_segmentation(options.method, options, data, windows)
    images = draw_masks(data, options.num_images or ALL, options.seed)
    folder = TrainingFolder(options.output, _settings(options, clip, images, same))
    with folder, stage(f"{method.name} on {data.name}", 1) as progress:
        progress.doing(f"{len(images.train):,} images")
        method = replace(method, log_dir=folder.work / "logs")
        learned = method.fit(clip, images, options.seed, folder.work)
        before = DenseZeroShot(windows).fit(clip, images, options.seed, folder.work)
        scores, zero_shot = (pixel_scores(one, data.test, data.values) for one in (learned, before))
        result = {
            "num_train": len(images.train),
            **scores,
            "class_names": data.class_names,
            "zero_shot_mean_iou": zero_shot["mean_iou"],
            "summary": data.summary.as_dict(),
        }
        learned.save(folder.adapter)
        write_scores(learned.model, folder.adapter, result, data.name)
        progress.update()
        folder.deliver()
    if options.json:
        print(json.dumps({"adapter": str(options.output), **result}))
        return
    print(f"{data.name}: {len(data.class_names)} classes, {len(images.train):,} training images, {method.name}")
    print(f"mIoU on {result['num_examples']:,} test images: {percent(result['mean_iou'])}%")
    print(f"zero-shot CLIP, patch by patch ({data.zero_shot_template!r}): {percent(zero_shot['mean_iou'])}%")
    print(f"Saved the prompt to {options.output}. Try: peft-coop predict --adapter {options.output} --output DIR IMAGE")


def evaluate_masks(options: argparse.Namespace) -> None:
    """Measure, print and write.

    Raises:
        ValueError: if the adapter classifies no pixels, the data has no such images, or a file is there.
    """
    from ..evaluation.segmentation import most_varied, pixel_scores, write_score_maps

    refuse(options, ("predictions", "confusion_matrix"))
    if options.score_maps:
        check_new(options.score_maps)
    data = _with_template(load_mask_images(options.data, options), options)
    images = getattr(data, options.split)
    if not len(images):
        raise ValueError(f"{data.name} has no {options.split} images.")
    if options.template is not None and options.adapter:
        raise ValueError(TEMPLATE_WITH_ADAPTER)
    segmenter = load_segmenter(options, data.class_names, data.zero_shot_template)
    result = {
        **pixel_scores(segmenter, images, data.values),
        "class_names": data.class_names,
        "data": options.data,
        "summary": data.summary.as_dict(),
        "split": options.split,
        "model": segmenter.clip.name,
        "adapter": options.adapter,
    }
    if options.score_maps:
        write_score_maps(segmenter, *most_varied(images, data.values), options.score_maps)
        say(f"wrote {options.score_maps}")
    if options.json:
        print(json.dumps(result))
    else:
        _print(result, data, options)


def predict_masks(options: argparse.Namespace, files: list[Path], read: Any) -> int:
    """Write the classes of each pixel, and a picture of them; 2 if an image could not be read.

    Args:
        options: of `predict`.
        files: the images.
        read: gives the picture of a file, or why it cannot be read.

    Raises:
        ValueError: if there is no folder for the files, one of them is there, or the adapter classifies no pixels.
    """
    from ..evaluation.segmentation.pictures import mask_picture, overlay

    if options.output is None:
        raise ValueError(
            f"The adapter {options.adapter!r} gives each pixel a class: --output names the folder for masks and "
            "pictures."
        )
    if options.template is not None and options.adapter:
        raise ValueError(TEMPLATE_WITH_ADAPTER)
    if not options.adapter and not options.class_names:
        raise ValueError("Give --adapter, or --class-names for zero-shot CLIP.")
    refuse(options, ("min_probability", "other_names", "top_k"))
    targets = _targets(files, options.output)
    template = TEMPLATE if options.template is None else checked_template(options.template)
    segmenter = load_segmenter(options, options.class_names, template)
    options.output.mkdir(parents=True, exist_ok=True)
    unread = 0
    with stage("segmenting", len(files), "image", shown=len(files) > 1) as progress:
        for path in files:
            image, (mask, picture) = read(path), targets[path]
            if isinstance(image, str):
                unread += 1
                line = json.dumps({"file": str(path), "error": image}) if options.json else None
            else:
                labels = segmenter.segment(image)
                mask_picture(labels, len(segmenter.class_names)).save(mask)
                overlay(image, labels, segmenter.class_names).save(picture)
                line = _line(path, mask, picture, labels, segmenter.class_names, options.json)
            if line is not None:
                progress.write(line)
            progress.update()
    return 2 if unread else 0


def _targets(files: list[Path], folder: Path) -> dict[Path, tuple[Path, Path]]:
    """What is written for each image; nothing is written over.

    Raises:
        ValueError: if a file is there already, or two images have one name.
    """
    targets: dict[Path, tuple[Path, Path]] = {}
    of_name: dict[str, Path] = {}
    for path in files:
        other = of_name.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"{other} and {path} would be written to files of one name: give them different --output.")
        targets[path] = check_new(folder / f"{path.stem}{MASK}"), check_new(folder / f"{path.stem}{OVERLAY}")
    return targets


def _line(file: Path, mask: Path, picture: Path, labels: np.ndarray, class_names: list[str], as_json: bool) -> str:
    import numpy as np

    counts = np.bincount(labels.ravel(), minlength=len(class_names)) / labels.size
    shares = {class_names[label]: float(counts[label]) for label in (-counts).argsort(kind="stable") if counts[label]}
    if as_json:
        return json.dumps({"file": str(file), "mask": str(mask), "overlay": str(picture), "shares": shares})
    return "\t".join([str(file), *(f"{name} {percent(share)}%" for name, share in shares.items())])


def _with_template(data: MaskData, options: argparse.Namespace) -> MaskData:
    if options.template is None:
        return data
    return replace(data, zero_shot_template=checked_template(options.template))


def _settings(
    options: argparse.Namespace, clip: FrozenCLIP, images: MaskedImages, same: tuple[str, ...]
) -> dict[str, Any]:
    """What is trained, so that only the same training goes on in this folder."""
    from ..data import images_fingerprint
    from ..evaluation import clip_fingerprint

    given = {name: getattr(options, name) for name in (*same, *OF_TRAINING) if name != "classes"}
    return {**given, "images": images_fingerprint(images.train, images.class_names), "weights": clip_fingerprint(clip)}


def _print(result: dict[str, Any], data: MaskData, options: argparse.Namespace) -> None:
    what = options.adapter or f"zero-shot {result['model']}, patch by patch, {data.zero_shot_template!r}"
    print(f"{data.name}: {result['num_examples']:,} {options.split} images of {len(data.class_names)} classes, {what}")
    print(f"  mIoU                         {percent(result['mean_iou']):>6}%")
    print(f"  mean accuracy of classes     {percent(result['mean_accuracy']):>6}%")
    print(f"  accuracy of pixels           {percent(result['overall_accuracy']):>6}%")
    for name, value in zip(data.class_names, result["per_category_iou"], strict=True) if options.per_class else ():
        print(f"    {name:<27}{'–' if value is None else percent(value) + '%':>8}")
