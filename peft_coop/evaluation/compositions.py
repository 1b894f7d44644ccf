"""Learning from some pairs of attribute and object, and recognising these and others: CSP's protocol."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..czsl import feasibility
from ..data import CompositionData, few_shot_indices, with_pair_labels
from ..progress import without_datasets_bars
from .compared_methods import ComparedMethod, LabelledImages
from .frozen_clip import FrozenCLIP
from .measured_pairs import Calibration, Candidates, MeasuredPairs, said_pairs, said_word
from .protocol_runs import PlannedFit, Pool, Records, run_all
from .protocols import SEEDS, each_fit

PROTOCOL = "composition"
WORLDS = ("closed", "open")
# The open world without pairs that are hardly feasible.
CALIBRATED = "open, calibrated"
# In the place of a number of images of each pair.
ALL = -1
# What stands for the words in the prompt of methods that know classes by their names alone.
PLACES = "{attribute} {object}"


def composition(
    clip: FrozenCLIP,
    data: CompositionData,
    methods: Sequence[ComparedMethod],
    output: Path,
    seeds: Sequence[int] = SEEDS,
    worlds: Sequence[str] = ("closed",),
    num_shots: int | None = None,
    word_vectors: tuple[NDArray, NDArray] | None = None,
    threshold: float | None = None,
    reference_quirks: bool = False,
) -> Records:
    """Learn from the images of training pairs, and recognise those and unseen ones (CSP, arXiv:2204.03574).

    Methods that know classes by their names have the pairs as texts. All methods are trained with CSP's recipe.

    Args:
        clip: the pretrained model.
        data: images of pairs.
        methods: what to compare; one that learns nothing is run once.
        output: folder of all runs; what is finished there is not done again.
        seeds: of the draws and of the training.
        worlds: of "closed", where the answer is a pair of training or of the test, and "open", where it is any
            attribute with any object.
        num_shots: images of each training pair; None: all.
        word_vectors: `[A, E]` of the attributes and `[O, E]` of the objects: the open world is then measured a second
            time, without unseen pairs that are hardly feasible.
        threshold: the lowest feasibility of an unseen pair that stays; None: the one with the highest AUC on
            validation images.
        reference_quirks: the numbers of the original's evaluator, see `peft_coop.czsl_metrics`.

    Returns:
        One record per run, as in its `result.json`; its splits are the worlds, and "open, calibrated".

    Raises:
        ValueError: if a method cannot take part, a world is none, or the data have no images of unseen pairs to test
            on, no validation images where the threshold is chosen, or words that cannot be told apart.
    """
    for method in methods:
        if not (method.takes_new_classes and method.takes_part_in(PROTOCOL)):
            raise ValueError(f"{method.name} cannot recognise pairs that it was not trained on.")
    tests = _tests(data, worlds, word_vectors, threshold, reference_quirks)
    drawn = functools.cache(functools.partial(draw_pairs, data))
    of_images = {} if num_shots else {"all_images": True}
    plans = [
        PlannedFit(method, drawn(shots, seed).num_shots, seed, drawn(shots, seed), tests, of_images if shots else {})
        for method, shots, seed in each_fit(PROTOCOL, methods, (num_shots or ALL,), seeds)
    ]
    return run_all(clip, _pool_of(data), plans, output, PROTOCOL)


def draw_pairs(data: CompositionData, num_shots: int, seed: int) -> LabelledImages:
    """Images of the training pairs, as what to learn from.

    Args:
        data: images of pairs.
        num_shots: of each pair; `ALL` for all, 0 for none.
        seed: of the draw.

    Raises:
        ValueError: if the template has no place for a pair's name, or two words read alike.
    """
    with without_datasets_bars():
        train = with_pair_labels(data.train, data.train_pairs)
    drawn = few_shot_indices(train["label"], [], num_shots, seed)[0] if num_shots > 0 else []
    images = train if num_shots == ALL else train.select(drawn)
    template = data.template.replace(PLACES, "{}")
    if "{}" not in template:
        raise ValueError(f"The prompt without learning must hold {PLACES!r}, got {data.template!r}.")
    return LabelledImages(
        said_pairs(data.train_pairs), template, images, train.select([]), data.name, made_of=_made_of(data)
    )


def _made_of(data: CompositionData) -> Mapping[str, Any]:
    words = {}
    for name in ("attributes", "objects"):
        own = getattr(data, name)
        words[name] = list(map(said_word, own))
        if len(set(words[name])) < len(own):
            twice = sorted({word for word in own if words[name].count(said_word(word)) > 1})
            raise ValueError(f"The {name} {', '.join(map(repr, twice))} of {data.name} read alike: rename one of them.")
    pairs = [list(map(said_word, pair)) for pair in data.train_pairs]
    return {**words, "train_pairs": pairs, "template": data.template}


def _tests(
    data: CompositionData,
    worlds: Sequence[str],
    word_vectors: tuple[NDArray, NDArray] | None,
    threshold: float | None,
    reference_quirks: bool,
) -> dict[str, MeasuredPairs]:
    wrong = [world for world in worlds if world not in WORLDS]
    if wrong or not worlds:
        raise ValueError(f"`worlds` must be of {WORLDS}, got {list(worlds)}.")
    _check_test(data)
    closed = Candidates(data, data.closed_world("test"))
    every = Candidates(data, data.open_world())
    with without_datasets_bars():
        images = with_pair_labels(data.test, closed.pairs)  # the same in both worlds, so that features are
        val = with_pair_labels(data.val, every.pairs)
    tests: dict[str, MeasuredPairs] = {}
    if "closed" in worlds:
        tests["closed"] = MeasuredPairs(images, closed, val, None, reference_quirks)
    if "open" in worlds:
        tests["open"] = MeasuredPairs(images, every, val, None, reference_quirks)
    if word_vectors is None:
        if threshold is not None:
            raise ValueError(f"A threshold of {threshold} is of the feasibility of pairs: give word vectors with it.")
        return tests
    if "open" not in worlds:
        raise ValueError(f"Word vectors are for the open world, got {list(worlds)}.")
    if threshold is None and not len(val):
        raise ValueError(f"{data.name} has no validation images to choose the threshold by: give a threshold.")
    trained = Candidates(data, data.train_pairs).pair_ids
    calibration = Calibration(feasibility(*word_vectors, trained), threshold)
    return {**tests, CALIBRATED: MeasuredPairs(images, every, val, calibration, reference_quirks)}


def _check_test(data: CompositionData) -> None:
    trained = set(data.train_pairs)
    unseen = [pair for pair in data.test_pairs if pair not in trained]
    if not unseen or len(unseen) == len(data.test_pairs):
        kind = "no pair that training has not" if not unseen else "no pair of training"
        raise ValueError(f"{data.name} tests on {kind}: compositions need images of seen and of unseen pairs.")


def _pool_of(data: CompositionData) -> Pool:
    columns = [list(map(int, data.train[name])) for name in ("attribute", "object")]
    return Pool(data.name, [data.attributes, data.objects, [list(pair) for pair in data.train_pairs], *columns])
