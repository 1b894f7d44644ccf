"""The results of single runs on disk: one folder each, so that what is finished is never done twice."""

from __future__ import annotations

import json
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..whole_files import written_whole
from .compared_methods import Learned
from .folder_locks import locked

RESULT = "result.json"
# Says which run a folder is of until there is a result.
RUN = "run.json"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
PACKAGES = ("torch", "transformers", "peft")

# Fields of a `RunKey` that matter for measuring and not for the training.
OF_MEASURING = ("splits", "tests", "pool")
# What is another one where a fingerprint differs, by the field of a `RunKey`.
CHANGED = {
    "images": "other images or classes to learn from, or another zero-shot prompt",
    "tests": "other images, classes, zero-shot prompt or settings to test on",
    "pool": "other images or classes to draw from",
    "weights": "another model of this name: its weights, tokenizer or image processor have changed",
}

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RunKey:
    """What identifies a run.

    Attributes:
        protocol: one of `peft_coop.recipes.PROTOCOLS`.
        data: the dataset's name.
        model: the pretrained model's Hub name or path.
        method: the method's key.
        method_name: as tables print it.
        settings: the method's settings and the number of shots, as JSON.
        seed: of the drawn images and of the training.
        splits: what it is measured on.
        images: a fingerprint of the drawn images, their classes and the zero-shot prompt.
        tests: of the images, classes and zero-shot prompt of each split.
        pool: of the classes and numbers of the images that were drawn from.
        weights: of the pretrained model.
        shots_used: training images of the class that has fewest, and of the one that has most: a class may have fewer
            than were asked for.
    """

    protocol: str
    data: str
    model: str
    method: str
    method_name: str
    settings: dict[str, Any]
    seed: int
    splits: list[str]
    images: str
    tests: dict[str, str]
    pool: str
    weights: str
    shots_used: list[int] = field(default_factory=lambda: [0, 0])

    def table_folder(self, output: Path) -> Path:
        """Where the results lie that are compared with this one, and averaged with it."""
        return output / self.protocol / _short(self.data) / _short(self.model)

    def folder(self, output: Path) -> Path:
        """Where its result lies: readable, and one for every combination of settings."""
        parts = [self.method, *(f"{_short(key)}={_short(value)}" for key, value in self.settings.items() if value)]
        return self.table_folder(output) / "_".join(parts) / f"seed{self.seed}"


def run_once(
    key: RunKey,
    output: Path,
    fit: Callable[[Path], Learned],
    measure: Callable[[Learned], Results],
    wait: bool = False,
) -> dict[str, Any]:
    """Do a run whose result is not there yet, write its result, and return it.

    A run that was killed goes on from its checkpoints.

    Args:
        key: which run.
        output: the folder of all runs.
        fit: learns, with a folder for checkpoints.
        measure: gives the scores of each split, as `scores` computes them.
        wait: if another process is doing this run, until it has ended.

    Returns:
        What is in `result.json`, and the run's `folder`, which also holds what was learned, in `adapter`.

    Raises:
        ValueError: if the folder holds the result of another run.
        BusyError: if another process is doing this run, and `wait` is not set.
    """
    folder = key.folder(output)
    if not (folder / RESULT).exists():
        with locked(folder, wait):
            if not (folder / RESULT).exists():  # the other process may have written it
                _do(key, folder, fit, measure)
    return {**_read(folder / RESULT, asdict(key)), "folder": str(folder)}


def is_finished(key: RunKey, output: Path) -> bool:
    """Whether the result of a run is there."""
    return (key.folder(output) / RESULT).exists()


def check_company(keys: Iterable[RunKey], output: Path) -> None:
    """Refuse to add runs to a table whose finished ones had other images, classes or weights.

    They would be averaged over seeds, and compared.

    Args:
        keys: the runs to be done.
        output: the folder of all runs.

    Raises:
        ValueError: names a finished run that does not fit, and what differs.
    """
    first = {key.table_folder(output): key for key in keys}
    for folder, key in first.items():
        for path in sorted(folder.rglob(RESULT)):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # told by who reads it for its result
            if not isinstance(record, dict):
                continue
            reason = differing(shared_traits(record), shared_traits(asdict(key)))
            if reason is not None:
                raise ValueError(
                    f"{path} was done with {reason}: it stands in the same tables as what is asked for now. Give "
                    "another output folder, or remove it."
                )


def shared_traits(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run must have in common with those that it is compared with: weights, pool, and the images of a split."""
    tests = {f"tests, {split}": value for split, value in (record.get("tests") or {}).items()}
    return {**{name: record.get(name) for name in ("weights", "pool")}, **tests}


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """In what the traits of two runs differ, in words; None where they do not."""
    name = next((name for name in first if name in second and first[name] != second[name]), None)
    if name is None:
        return None
    if None in (first[name], second[name]):
        return "an older version, which did not write down its images and weights"
    kind, _, split = name.partition(", ")
    return CHANGED[kind] + (f", in {split!r}" if split else "")


def _do(key: RunKey, folder: Path, fit: Callable[[Path], Learned], measure: Callable[[Learned], Results]) -> None:
    _claim(folder, asdict(key))
    started = time.monotonic()
    classifier = fit(folder / CHECKPOINTS)
    results = measure(classifier)
    classifier.save(folder / ADAPTER)
    seconds = round(time.monotonic() - started, 2)
    versions = {package: version(package) for package in PACKAGES}
    _write(folder / RESULT, {**asdict(key), "results": results, "seconds": seconds, "versions": versions})
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / RUN).unlink()


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Write down what is done in this folder; checkpoints that are there must be of the same training."""
    checkpoints = folder / CHECKPOINTS
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        if not (folder / RUN).exists():
            raise ValueError(
                f"{checkpoints} holds files, and no {RUN} beside it says of which run: remove it, or give another "
                "output folder."
            )
        _read(folder / RUN, {name: value for name, value in identity.items() if name not in OF_MEASURING})
    _write(folder / RUN, identity)


def _read(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); remove it to do this run again.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no result, but {record!r}; remove it to do this run again.")
    for name, value in identity.items():
        if record.get(name) != value:
            raise ValueError(
                f"{path} is of another run: its {name} is {record.get(name)!r}, asked for is {value!r}"
                f"{f' ({CHANGED[name]})' if name in CHANGED else ''}. Give another output folder."
            )
    return record


def _write(path: Path, record: dict[str, Any]) -> None:
    with written_whole(path) as draft:  # a run that is killed here is not finished
        draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    """A value as part of a folder's name; what is lost of it, in other scripts, is told by a number."""
    text = str(value)
    short = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
    return short if short and text.isascii() else f"{short or 'name'}-{zlib.crc32(text.encode()):08x}"
