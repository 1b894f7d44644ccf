"""Learning to say of each pixel what it shows, over methods and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data import MaskData
from ..compared_methods import ComparedMethod
from ..frozen_clip import FrozenCLIP
from ..protocol_runs import PlannedFit, Pool, Records, run_all
from ..protocols import SEEDS, each_fit
from .measured_masks import MeasuredMasks
from .prompt_segmentation import PROTOCOL
from .segmenters import MaskedImages

# In the place of a number of images.
ALL = -1


def segmentation(
    clip: FrozenCLIP,
    data: MaskData,
    methods: Sequence[ComparedMethod],
    output: Path,
    seeds: Sequence[int] = SEEDS,
    num_images: int | None = None,
) -> Records:
    """Learn from images with masks, and measure the mean intersection over union on others (DenseCLIP, 2112.01518).

    Args:
        clip: the pretrained model.
        data: images with masks.
        methods: what to compare; one that learns nothing is run once.
        output: folder of all runs; what is finished there is not done again.
        seeds: of the drawn images and of the training.
        num_images: how many training images each seed draws; None: all.

    Returns:
        One record per run, as in its `result.json`.

    Raises:
        ValueError: if a method classifies no pixels, or the data have no images to train on, or fewer than are asked
            for.
    """
    for method in methods:
        if not method.takes_part_in(PROTOCOL):
            raise ValueError(f"{method.name} classifies whole images, and {data.name} has a class for each pixel.")
    tests = {"test": MeasuredMasks(data.test, data.values, data.class_names)}
    of_images = {} if num_images else {"all_images": True}
    plans = []
    for method, asked, seed in each_fit(PROTOCOL, methods, (num_images or ALL,), seeds):
        images = draw_masks(data, asked, seed)
        plans.append(PlannedFit(method, images.num_shots, seed, images, tests, of_images if asked else {}))
    return run_all(clip, Pool(data.name, [data.class_names, len(data.train)]), plans, output, PROTOCOL)


def draw_masks(data: MaskData, num_images: int, seed: int) -> MaskedImages:
    """Images to learn from.

    Args:
        data: images with masks.
        num_images: how many are drawn; `ALL` for all, 0 for none.
        seed: of the draw.

    Raises:
        ValueError: if there are not so many.
    """
    found = len(data.train)
    if num_images and (not found or num_images > found):
        raise ValueError(f"{data.name} has {found:,} training images, {max(1, num_images):,} were asked for.")
    rows = list(range(found))
    if num_images != ALL:
        rows = sorted(np.random.default_rng(seed).permutation(found)[:num_images].tolist())
    return MaskedImages(
        data.class_names,
        data.zero_shot_template,
        data.train.select(rows),
        data.val,
        data.name,
        {"ignore_index": data.values.ignore_index},
        data.values,
        data.flip,
    )
