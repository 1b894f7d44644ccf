"""Runs that differ only in seed, dataset or shots, as one line: a table's row, a figure's curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ...methods import METHODS
from .finished_runs import Run, canonical, identity


@dataclass(frozen=True)
class Line:
    """A method with its settings.

    Attributes:
        label: the method's name, and those settings in which lines of the same method differ.
        method: the method's key.
        runs: all of it.
    """

    label: str
    method: str
    runs: list[Run]

    @property
    def learns(self) -> bool:
        """Whether it uses training images."""
        return any(run.num_shots for run in self.runs)

    def by_seed(self, split: str, metric: str, **fields: Any) -> dict[int, float]:
        """A metric of each seed that has it.

        Args:
            split: of which images.
            metric: which number.
            fields: attributes of the runs that count, such as `data` or `num_shots`.
        """
        runs = [run for run in self.runs if all(getattr(run, name) == value for name, value in fields.items())]
        return {run.seed: run.results[split][metric] for run in runs if metric in run.results.get(split, {})}


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, in order of first appearance."""
    return list(dict.fromkeys(values))


def make_lines(runs: Sequence[Run], across: Sequence[str] = ()) -> list[Line]:
    """Put together what belongs to one method with the same settings and the same model.

    Args:
        runs: of one protocol.
        across: settings that may differ within a line.
    """
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        key = (run.model, run.method, identity(run.settings, across))
        groups.setdefault(key, []).append(run)
    ordered = sorted(groups.values(), key=lambda group: _order(group[0]))
    firsts = [group[0] for group in ordered]
    return [Line(_label(group[0], firsts, across), group[0].method, group) for group in ordered]


def _order(run: Run) -> tuple:
    """First what learns nothing, then the other baselines, and at last the prompt methods."""
    prompts = list(METHODS).index(run.method) + 1 if run.method in METHODS else 0
    settings = [(name, _comparable(value)) for name, value in run.settings.items()]
    return run.num_shots > 0, prompts, run.num_shots == 0 and run.method != "zero-shot", run.method, settings, run.model


def _comparable(value: Any) -> tuple:
    """A key by which numbers come in their order, before texts."""
    if isinstance(value, int | float):
        return 0, value, ""
    return 1, 0, canonical(value)


def _label(run: Run, rows: Sequence[Run], across: Sequence[str]) -> str:
    siblings = [row for row in rows if row.method == run.method]
    differing = [
        name
        for name in distinct(name for row in siblings for name in row.settings)
        if name not in across and len({canonical(row.settings.get(name)) for row in siblings}) > 1
    ]
    phrases = [_phrase(name, run.settings.get(name), run.protocol) for name in differing]
    models = {row.model for row in rows}
    if len(models) > 1:
        distinguishable = len(set(map(model_label, models))) == len(models)
        phrases.append(model_label(run.model) if distinguishable else run.model)
    return ", ".join([run.method_name, *filter(None, phrases)])


def model_label(model: str) -> str:
    """A model's name without its owner or folder."""
    return PurePosixPath(model.rstrip("/").replace("\\", "/")).name or model


def _phrase(name: str, value: Any, protocol: str) -> str:
    """A setting as people say it; nothing for one that is not there."""
    if name == "class_specific_context":
        return "class-specific" if value else "unified"
    if name == "ctx_init":
        return f'"{value}"' if value else "random start"
    if value is None:
        return ""
    if protocol == "segmentation" and name in ("num_shots", "all_images"):  # images are not of one class each
        return f"{value} images" if name == "num_shots" else ""
    if name == "num_shots":
        return f"{value} shot" if value == 1 else f"{value} shots"
    if name == "n_ctx":
        return f"M = {value}"
    if name == "class_token_position":
        return str(value)
    return f"{name} = {value}"
