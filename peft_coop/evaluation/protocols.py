"""The papers' protocols over methods, shots and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import ImageData, base_and_new_names, draw_indices, has_several_labels, select_classes
from ..recipes import SEVERAL_PROTOCOLS, VIDEO_PROTOCOLS
from .compared_methods import ComparedMethod, LabelledImages
from .frozen_clip import FrozenCLIP
from .protocol_runs import MeasuredLabels, MeasuredSplit, MeasuredVideos, PlannedFit, Pool, Records, run_all

if TYPE_CHECKING:
    from datasets import Dataset

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)
VIDEO_HELP = "for these there are few-shot and base-to-new"
SEVERAL_HELP = "for these there is few-shot; `peft-coop evaluate --adapter` measures a trained prompt on other data"


def few_shot(
    clip: FrozenCLIP,
    data: ImageData,
    methods: Sequence[ComparedMethod],
    output: Path,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    protocol: str = "few-shot",
) -> Records:
    """Accuracy over the number of training images, or videos, per class (CoOp, arXiv:2109.01134).

    Where images have any number of labels it is mean average precision, and prompts start from words, for no paper says
    otherwise.

    Args:
        clip: the pretrained model.
        data: images to draw from and to test on.
        methods: what to compare; one that learns nothing is run once.
        output: folder of all runs; what is finished there is not done again.
        shots: images per class.
        seeds: of the draws and of the training.
        protocol: what the results are filed under; of videos "video-" and this, of several labels "several-labels-".

    Returns:
        One record per run, as in its `result.json`.

    Raises:
        ValueError: if the data has no training images, or a method cannot learn from several labels per image.
    """
    protocol = protocol_of(protocol, data)
    for method in methods:
        check_labels(method, data)
    tests = {"test": split_of(data, data.test, data.class_names)}
    plans = [
        PlannedFit(method, num_shots, seed, draw_images(data, num_shots, seed), tests)
        for method, num_shots, seed in each_fit(protocol, methods, shots, seeds)
    ]
    return run_all(clip, Pool.of(data), plans, output, protocol)


def base_to_new(
    clip: FrozenCLIP,
    data: ImageData,
    methods: Sequence[ComparedMethod],
    output: Path,
    num_shots: int = 16,
    seeds: Sequence[int] = SEEDS,
) -> Records:
    """Learn from the first half of the classes, and classify into these and into the others (CoCoOp, arXiv:2203.05557).

    A method that cannot take new classes is measured on the base classes only.

    Args:
        clip: the pretrained model.
        data: images of two classes or more.
        methods: what to compare.
        output: folder of all runs.
        num_shots: images per class.
        seeds: of the draws and of the training.

    Raises:
        ValueError: if a method has a class-specific context, or the data has no training images or a single class.
    """
    protocol = protocol_of("base-to-new", data)
    for method in methods:
        if method.settings().get("class_specific_context"):
            raise ValueError(
                f"{method.name} with a class-specific context has no vectors for new classes: base to new needs a "
                "unified context."
            )
    base, new = base_and_new_names(data.class_names)
    whole = split_of(data, data.test, data.class_names)
    splits = {
        "base": replace(whole, images=select_classes(data.test, 0, len(base)), class_names=base),
        "new": replace(whole, images=select_classes(data.test, len(base), len(new)), class_names=new),
    }
    only_base = {"base": splits["base"]}
    plans = [
        PlannedFit(
            method,
            shots,
            seed,
            _only_base(draw_images(data, shots, seed), len(base)),
            splits if method.takes_new_classes else only_base,
        )
        for method, shots, seed in each_fit(protocol, methods, (num_shots,), seeds)
    ]
    return run_all(clip, Pool.of(data), plans, output, protocol)


def cross_dataset(
    clip: FrozenCLIP,
    source: ImageData,
    targets: Sequence[ImageData],
    methods: Sequence[ComparedMethod],
    output: Path,
    num_shots: int = 16,
    seeds: Sequence[int] = SEEDS,
) -> Records:
    """Learn from one dataset and classify the images of others into their own classes (CoCoOp, section 4.2).

    Prompts that are written by hand are each dataset's own.

    Args:
        clip: the pretrained model.
        source: what to learn from.
        targets: what else to test on.
        methods: what to compare.
        output: folder of all runs.
        num_shots: images per class.
        seeds: of the draws and of the training.

    Raises:
        ValueError: if a method cannot take new classes, or two datasets have one name.
    """
    for method in methods:
        if not method.takes_new_classes:
            raise ValueError(f"{method.name} cannot classify into the classes of another dataset.")
    return _transfer(clip, source, targets, methods, output, num_shots, seeds, "cross-dataset")


def domain_generalisation(
    clip: FrozenCLIP,
    source: ImageData,
    targets: Sequence[ImageData],
    methods: Sequence[ComparedMethod],
    output: Path,
    num_shots: int = 16,
    seeds: Sequence[int] = SEEDS,
) -> Records:
    """Learn from one dataset and test on images of another kind of the same classes, or of some of them.

    As from ImageNet to ImageNetV2, -Sketch, -A and -R (CoOp, section 4.3; CoCoOp, section 4.3). Arguments are those of
    `cross_dataset`.

    Raises:
        ValueError: if a target has a class that the source has not, or two datasets have one name.
    """
    for target in targets:
        foreign = [name for name in target.class_names if name not in source.class_names]
        if foreign:
            raise ValueError(
                f"Domain generalisation needs the source's classes: {target.name} has {foreign[0]!r}, which "
                f"{source.name} has not. With other classes it is a cross-dataset transfer."
            )
    return _transfer(clip, source, targets, methods, output, num_shots, seeds, "domain")


def ablation(
    clips: Sequence[FrozenCLIP],
    data: ImageData,
    methods: Sequence[ComparedMethod],
    output: Path,
    shots: Sequence[int] = (16,),
    seeds: Sequence[int] = SEEDS,
) -> Records:
    """Compare settings and pretrained models on one dataset; `PromptLearning.grid` gives the settings.

    Arguments are those of `few_shot`, with several models.
    """
    return [
        record for clip in clips for record in few_shot(clip, data, methods, output, shots, seeds, protocol="ablation")
    ]


def draw_images(data: ImageData, num_shots: int, seed: int) -> LabelledImages:
    """The few images per class that the original draws for a seed; see `peft_coop.data.draw_indices`.

    Args:
        data: images to draw from.
        num_shots: training images per class, and validation images, of which there are 4 at most; 0 for none.
        seed: of the draw.

    Raises:
        ValueError: if the data has no training images, or a draw that the original has kept is of other images.
    """
    if num_shots and not len(data.train):
        raise ValueError(f"{data.name} has no training {data.items}, only {len(data.test):,} to test on.")
    train: list[int] = []
    val: list[int] = []
    if num_shots:
        train, val = draw_indices(data, num_shots, seed)
    parts = {"train": data.train.select(train), "val": data.val.select(val)}
    return LabelledImages(data.class_names, data.zero_shot_template, **parts, data=data.name)


def _transfer(
    clip: FrozenCLIP,
    source: ImageData,
    targets: Sequence[ImageData],
    methods: Sequence[ComparedMethod],
    output: Path,
    num_shots: int,
    seeds: Sequence[int],
    protocol: str,
) -> Records:
    for data in (source, *targets):
        protocol_of(protocol, data)
    names = [data.name for data in (source, *targets)]
    if len(set(names)) < len(names):
        raise ValueError(f"Every dataset must have a name of its own, got {names}.")
    tests = {data.name: split_of(data, data.test, data.class_names) for data in (source, *targets)}
    plans = [
        PlannedFit(method, shots, seed, draw_images(source, shots, seed), tests)
        for method, shots, seed in each_fit(protocol, methods, (num_shots,), seeds)
    ]
    return run_all(clip, Pool.of(source), plans, output, protocol)


def protocol_of(protocol: str, data: ImageData) -> str:
    """What results of these data are filed under.

    Raises:
        ValueError: if they are videos, or images with several labels, and it is no protocol of these.
    """
    if has_several_labels(data.test):
        if f"several-labels-{protocol}" not in SEVERAL_PROTOCOLS:
            raise ValueError(
                f"{protocol!r} is a protocol of images of one class each, and those of {data.name} have several "
                f"labels: {SEVERAL_HELP}."
            )
        return f"several-labels-{protocol}"
    if data.items == "images":
        return protocol
    if f"video-{protocol}" not in VIDEO_PROTOCOLS:
        raise ValueError(f"{protocol!r} is a protocol of images, and {data.name} has videos: {VIDEO_HELP}.")
    return f"video-{protocol}"


def check_labels(method: ComparedMethod, data: ImageData) -> None:
    """Check that a method can learn from images with as many labels as these have.

    Raises:
        ValueError: if it cannot; names what can.
    """
    if has_several_labels(data.test) and method.needs_one_label is not None:
        raise ValueError(
            f"{method.name} cannot learn from images with several labels, as {data.name} has them: "
            f"{method.needs_one_label}. What can: hand-written prompts, the linear probe, and the prompts that are "
            "trained with a loss for each class."
        )


def split_of(data: ImageData, images: Dataset, class_names: list[str]) -> MeasuredSplit:
    """What is measured on some images or videos.

    Args:
        data: what they are from.
        images: with labels.
        class_names: in the order of the labels.
    """
    kind = MeasuredVideos if data.items == "videos" else MeasuredLabels if has_several_labels(images) else MeasuredSplit
    return kind(images, class_names, data.name, data.zero_shot_template)


def each_fit(
    protocol: str, methods: Sequence[ComparedMethod], shots: Sequence[int], seeds: Sequence[int]
) -> Iterator[tuple[ComparedMethod, int, int]]:
    """Methods as the papers have them in a protocol, with shots and seeds; what learns nothing once, without shots."""
    for method in methods:
        for num_shots in shots if method.learns else (0,):
            for seed in seeds if method.learns else (0,):
                yield method.for_protocol(protocol), num_shots, seed


def _only_base(images: LabelledImages, count: int) -> LabelledImages:
    """The drawn images of the first classes: drawn from all classes before, as in the original."""
    train, val = (select_classes(part, 0, count) for part in (images.train, images.val))
    return replace(images, class_names=images.class_names[:count], train=train, val=val)
