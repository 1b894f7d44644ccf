"""Results of single runs, read from disk and checked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULT = "result.json"
# What must be measured, by protocol; the splits of the others are named after datasets.
SPLITS = {"few-shot": ("test",), "base-to-new": ("base",), "cross-dataset": (), "domain": (), "ablation": ("test",)}
# What is measured of each split, and as people read it.
METRICS = {"accuracy": "accuracy", "macro_accuracy": "macro accuracy", "ece": "expected calibration error"}
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
        results: by split, the metrics as fractions and `num_examples`.
        path: the file it was read from.
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

    @property
    def num_shots(self) -> int:
        """Training images per class; 0 for methods that learn nothing."""
        return self.settings["num_shots"]


def load_runs(paths: Iterable[str | os.PathLike] | str | os.PathLike) -> list[Run]:
    """Read every `result.json` in and below folders.

    Args:
        paths: folders, or result files of any name.

    Raises:
        ValueError: if there is none, one is no result, or two are of the same run.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = {file.resolve(): file for path in given for file in _files(Path(path))}
    if not files:
        raise ValueError(f"There is no {RESULT} in {', '.join(map(str, given)) or 'no folder at all'}.")
    runs = [_read_run(file) for file in files.values()]
    _check_distinct(runs)
    return runs


def check_metric(metric: str) -> None:
    """Check that a metric is one of `METRICS`.

    Raises:
        ValueError: if it is not.
    """
    if metric not in METRICS:
        raise ValueError(f"`metric` must be one of {tuple(METRICS)}, got {metric!r}.")


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
    _check_results(results, SPLITS[record["protocol"]])
    texts = {key: record[key] for key in TEXTS}
    return Run(**texts, settings=settings, seed=record["seed"], results=results, path=path)


def _check_results(results: dict[str, Any], splits: tuple[str, ...]) -> None:
    for split in splits:
        _value(results, split, "results.")
    if not results:
        raise ValueError("`results` is empty: there must be a split or more.")
    for split, measured in results.items():
        place = f"results.{split}"
        _check_type(measured, dict, f"`{place}`")
        for metric in METRICS:
            _check_fraction(_value(measured, metric, f"{place}."), f"`{place}.{metric}`")
        _check_type(_value(measured, "num_examples", f"{place}."), int, f"`{place}.num_examples`")


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
