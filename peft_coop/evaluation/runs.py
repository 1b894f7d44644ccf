"""The results of single runs on disk: one folder each, so that what is finished is never done twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .methods import Classifier

RESULT = "result.json"
# What a run is that is not finished.
RUN = "run.json"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
PACKAGES = ("torch", "transformers", "peft")

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RunKey:
    """What identifies a run.

    Attributes:
        protocol: "few-shot", "base-to-new", "cross-dataset", "domain" or "ablation".
        data: the dataset's name.
        model: the pretrained model's Hub name or path.
        method: the method's key.
        method_name: as tables print it.
        settings: the method's settings and the number of shots, as JSON.
        seed: of the drawn images and of the training.
        splits: what it is measured on.
        images: a fingerprint of all images, labels and class names.
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

    def folder(self, output: Path) -> Path:
        """Where its result lies: readable, and one for every combination of settings."""
        parts = [self.method, *(f"{_short(key)}={_short(value)}" for key, value in self.settings.items() if value)]
        return output / self.protocol / _short(self.data) / _short(self.model) / "_".join(parts) / f"seed{self.seed}"


def run_once(
    key: RunKey, output: Path, fit: Callable[[Path], Classifier], measure: Callable[[Classifier], Results]
) -> dict[str, Any]:
    """Do a run whose result is not there yet, write its result, and return it.

    A run that was killed goes on from its checkpoints.

    Args:
        key: which run.
        output: the folder of all runs.
        fit: learns, with a folder for checkpoints.
        measure: gives the scores of each split, as `scores` computes them.

    Returns:
        What is in `result.json`, and the run's `folder`, which also holds what was learned, in `adapter`.

    Raises:
        ValueError: if the folder holds the result of another run.
    """
    folder = key.folder(output)
    identity = asdict(key)
    if (folder / RESULT).exists():
        return {**_read(folder / RESULT, identity), "folder": str(folder)}
    if (folder / RUN).exists():
        _read(folder / RUN, identity)  # the checkpoints are those of this run
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / RUN, identity)
    started = time.monotonic()
    classifier = fit(folder / CHECKPOINTS)
    results = measure(classifier)
    classifier.save(folder / ADAPTER)
    seconds = round(time.monotonic() - started, 2)
    versions = {package: version(package) for package in PACKAGES}
    record = {**identity, "results": results, "seconds": seconds, "versions": versions}
    _write(folder / RESULT, record)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / RUN).unlink()
    return {**record, "folder": str(folder)}


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
                f"{path} is of another run: its {name} is {record.get(name)!r}, asked for is {value!r}. "
                "Give another output folder."
            )
    return record


def _write(path: Path, record: dict[str, Any]) -> None:
    """Write all or nothing: a run that is killed here is not finished."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)


def _short(value: Any) -> str:
    """A value as part of a folder's name; what is lost of it, in other scripts, is told by a number."""
    text = str(value)
    short = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
    return short if short and text.isascii() else f"{short or 'name'}-{zlib.crc32(text.encode()):08x}"
