"""Results of single runs, read from disk and checked."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..run_folders import RESULT, differing, shared_traits

# What must be measured, by protocol; the splits of the others are named after datasets or worlds.
SPLITS: dict[str, tuple[str, ...]] = {
    "few-shot": ("test",),
    "base-to-new": ("base",),
    "cross-dataset": (),
    "domain": (),
    "ablation": ("test",),
    "composition": (),
    "segmentation": ("test",),
    "video-few-shot": ("test",),
    "few-shot-trials": ("test",),
    "video-few-shot-trials": ("test",),
    "video-base-to-new": ("base",),
    "several-labels-few-shot": ("test",),
}
# What is measured of each split, and as people read it.
METRICS = {"accuracy": "accuracy", "macro_accuracy": "macro accuracy", "ece": "expected calibration error"}
# What is measured of each world of a composition, all of it in one table; and the curve that its picture shows.
COMPOSITION_METRICS = {
    "best_seen": "seen",
    "best_unseen": "unseen",
    "best_hm": "HM",
    "auc": "AUC",
    "attr_acc": "attribute",
    "obj_acc": "object",
}
# Of the pixels of images.
SEGMENTATION_METRICS = {
    "mean_iou": "mIoU",
    "mean_accuracy": "mean accuracy of classes",
    "overall_accuracy": "accuracy of pixels",
}
# Of images with any number of labels.
SEVERAL_METRICS = {
    "mean_average_precision": "mean average precision",
    "f1_macro": "F1 over classes",
    "f1_micro": "F1 over all labels",
}
# Of videos, also the share of those whose class is among the best five.
VIDEO_METRICS = {**METRICS, "top5_accuracy": "top-5 accuracy"}
# What results of older versions may lack.
LATER_METRICS = ("top5_accuracy",)
# By protocol, where they are not `METRICS`.
METRICS_OF = {
    "composition": COMPOSITION_METRICS,
    "segmentation": SEGMENTATION_METRICS,
    "several-labels-few-shot": SEVERAL_METRICS,
    "video-few-shot": VIDEO_METRICS,
    "video-few-shot-trials": VIDEO_METRICS,
    "video-base-to-new": VIDEO_METRICS,
}
# What a report can be asked to show, as people read it.
TITLES = {**VIDEO_METRICS, **SEVERAL_METRICS}
MORE_OF_COMPOSITIONS = ("best_hm_seen", "best_hm_unseen")
CURVE = ("seen", "unseen")
# What the protocols with videos have before their names, and those with several labels per image.
OF_VIDEOS, OF_SEVERAL = "video-", "several-labels-"
TEXTS = ("protocol", "data", "model", "method", "method_name")


@dataclass(frozen=True)
class Run:
    """One method, learned once and measured.

    Attributes:
        protocol: a key of `SPLITS`.
        data: the dataset's name; where learning carries over to others, of the one learned from.
        model: the pretrained model's Hub name or path.
        method: the method's key.
        method_name: as tables print it.
        settings: the method's, with `num_shots`, as JSON.
        seed: of the drawn images and of the training.
        results: by split, the metrics as fractions and `num_examples`; of compositions a curve, too.
        path: the file it was read from.
        shots_used: training images of the class that has fewest and of the one that has most; None in results of
            older versions.
        identity: fingerprints of the model's weights, the images to draw from and those of each split; none in results
            of older versions.
    """

    protocol: str
    data: str
    model: str
    method: str
    method_name: str
    settings: dict[str, Any]
    seed: int
    results: dict[str, dict[str, Any]]
    path: Path = field(default=Path(RESULT), compare=False)
    shots_used: tuple[int, int] | None = field(default=None, compare=False)
    identity: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def items(self) -> str:
        """What was learned from: "images" or "videos"."""
        return "videos" if self.protocol.startswith(OF_VIDEOS) else "images"

    @property
    def num_shots(self) -> int:
        """Training images per class; 0 for methods that learn nothing."""
        return self.settings["num_shots"]


def load_runs(paths: Iterable[str | os.PathLike] | str | os.PathLike, left_out: list[str] | None = None) -> list[Run]:
    """Read every `result.json` in and below folders.

    A damaged file in a folder is left out, as one that is cut off must not keep the others back; one that is given by
    its name is an error.

    Args:
        paths: folders, or result files of any name.
        left_out: takes a sentence for every file that was left out; a warning tells where it is not given.

    Raises:
        ValueError: if there is no result, a file that is given is none, two are of the same run, or runs that would be
            averaged or compared had other images or weights.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    named = {Path(path).resolve() for path in given if not Path(path).is_dir()}
    files = {file.resolve(): file for path in given for file in _files(Path(path))}
    runs, damaged = [], []
    for real, file in files.items():
        try:
            runs.append(_read_run(file))
        except ValueError as error:
            if real in named:
                raise
            damaged.append(f"Left out: {error}")
    if not runs:
        reasons = "".join(f" {reason}" for reason in damaged)
        raise ValueError(f"There is no {RESULT} in {', '.join(map(str, given)) or 'no folder at all'}.{reasons}")
    _check_distinct(runs)
    _check_comparable(runs)
    for reason in damaged if left_out is None else []:
        warnings.warn(reason, stacklevel=2)
    if left_out is not None:
        left_out += damaged
    return runs


def metrics_of(protocol: str) -> dict[str, str]:
    """What a protocol measures of each split, as fractions, and as people read it."""
    return METRICS_OF.get(protocol, METRICS)


def metric_of(protocol: str, metric: str) -> str:
    """What a report shows of a protocol: the metric, or the protocol's first where it has not that one.

    Args:
        protocol: a key of `SPLITS`.
        metric: that is asked for.
    """
    own = metrics_of(protocol)
    return metric if metric in own else next(iter(own))


def check_metric(metric: str) -> None:
    """Check that a metric is one of `TITLES`.

    Raises:
        ValueError: if it is not.
    """
    if metric not in TITLES:
        raise ValueError(f"`metric` must be one of {tuple(TITLES)}, got {metric!r}.")


def identity(settings: dict[str, Any], across: Sequence[str] = ()) -> str:
    """Settings as one text: the same for any order, and for None and what is not there.

    Args:
        settings: of a run.
        across: names that do not count.
    """
    return canonical({name: value for name, value in settings.items() if value is not None and name not in across})


def canonical(value: Any) -> str:
    """A JSON value as one text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"{path} is neither a folder nor a file.")
    return sorted(path.rglob(RESULT)) if path.is_dir() else [path]


def _read_run(path: Path) -> Run:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is no JSON: {error}.") from error
    try:
        return _make_run(record, path)
    except ValueError as error:
        raise ValueError(f"{path} is no result of a run: {error}") from error


def _make_run(record: Any, path: Path) -> Run:
    _check_type(record, dict, "the file")
    for key in TEXTS:
        _check_type(_value(record, key), str, f"`{key}`")
    if record["protocol"] not in SPLITS:
        raise ValueError(f"`protocol` must be one of {tuple(SPLITS)}, got {record['protocol']!r}.")
    settings, results = _value(record, "settings"), _value(record, "results")
    _check_type(settings, dict, "`settings`")
    _check_type(_value(settings, "num_shots", "settings."), int, "`settings.num_shots`")
    _check_type(_value(record, "seed"), int, "`seed`")
    _check_type(results, dict, "`results`")
    _check_results(results, record["protocol"])
    texts = {key: record[key] for key in TEXTS}
    identity = {name: record[name] for name in ("tests", "pool", "weights") if name in record}
    run = Run(**texts, settings=settings, seed=record["seed"], results=results, path=path, identity=identity)
    return replace(run, shots_used=_shots_used(record))


def _shots_used(record: dict[str, Any]) -> tuple[int, int] | None:
    used = record.get("shots_used")
    if used is None:
        return None
    if not isinstance(used, list) or len(used) != 2:
        raise ValueError(f"`shots_used` must be the fewest and the most images of a class, got {used!r}.")
    fewest, most = used
    for number in used:
        _check_type(number, int, "a number of `shots_used`")
    return fewest, most


def _check_results(results: dict[str, Any], protocol: str) -> None:
    for split in SPLITS[protocol]:
        _value(results, split, "results.")
    if not results:
        raise ValueError("`results` is empty: there must be a split or more.")
    for split, measured in results.items():
        place = f"results.{split}"
        _check_type(measured, dict, f"`{place}`")
        for metric in metrics_of(protocol):
            if metric in LATER_METRICS and metric not in measured:
                continue
            _check_fraction(_value(measured, metric, f"{place}."), f"`{place}.{metric}`")
        _check_type(_value(measured, "num_examples", f"{place}."), int, f"`{place}.num_examples`")
        if protocol == "composition":
            _check_curve(measured, place)


def _check_curve(measured: dict[str, Any], place: str) -> None:
    for metric in MORE_OF_COMPOSITIONS:
        _check_fraction(_value(measured, metric, f"{place}."), f"`{place}.{metric}`")
    curve = _value(measured, "curve", f"{place}.")
    _check_type(curve, dict, f"`{place}.curve`")
    points = [_value(curve, name, f"{place}.curve.") for name in CURVE]
    if not all(isinstance(each, list) for each in points) or len({len(each) for each in points}) > 1 or not points[0]:
        raise ValueError(f"`{place}.curve` must have two lists of one length, got {curve!r}.")
    for name, values in zip(CURVE, points, strict=True):
        for value in values:
            _check_fraction(value, f"a point of `{place}.curve.{name}`")


def _value(record: dict[str, Any], key: str, place: str = "") -> Any:
    if key not in record:
        raise ValueError(f"it has no `{place}{key}`.")
    return record[key]


def _check_type(value: Any, kind: type, what: str) -> None:
    names = {dict: "an object", str: "a text", int: "a whole number"}
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{what} must be {names[kind]}, got {value!r}.")


def _check_fraction(value: Any, what: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{what} must be a number from 0 to 1, got {value!r}.")


def _check_distinct(runs: list[Run]) -> None:
    seen: dict[tuple, Run] = {}
    for run in runs:
        key = (run.protocol, run.data, run.model, run.method, identity(run.settings), run.seed)
        if key in seen:
            raise ValueError(
                f"{seen[key].path} and {run.path} are the same run: {run.protocol} on {run.data}, {run.method_name}, "
                f"seed {run.seed}. Leave one out."
            )
        seen[key] = run


def _check_comparable(runs: list[Run]) -> None:
    """Refuse what would stand in one table and was measured on other images, or with another model of the name."""
    first: dict[tuple, tuple[Run, Any]] = {}
    for run in runs:
        for name, value in shared_traits(run.identity).items():
            other, known = first.setdefault((run.protocol, run.data, run.model, name), (run, value))
            reason = differing({name: known}, {name: value})
            if reason is not None:
                raise ValueError(
                    f"{other.path} and {run.path} cannot stand in one table, {run.data} with {run.model}: one was done "
                    f"with {reason}. Leave one out."
                )
