"""Accuracy on seen and on unseen pairs as tables: one for each dataset and world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...methods import METHODS
from .averages import over_seeds
from .finished_runs import COMPOSITION_METRICS, Run
from .grouped_runs import Line, distinct, make_lines
from .published import (
    NOTHING_PUBLISHED,
    PUBLISHED_METRICS,
    RECIPE_FIELDS,
    paper_names,
    published_compositions,
    published_compositions_note,
)
from .table_rows import Cell, Table, make_table

COMPOSITION_NOTE = (
    "Seen and unseen: the highest accuracy on images of pairs that training has, and of others, over all biases for "
    "unseen pairs; HM: the highest harmonic mean of the two at one bias; AUC: the area under their curve; attribute "
    "and object: the accuracy on each without bias."
)


def composition_tables(runs: Sequence[Run], metric: str) -> Iterator[Table]:
    """All metrics of compositions stand in one table, whichever is asked for."""
    for data in distinct(run.data for run in runs):
        own = [run for run in runs if run.data == data]
        for world in distinct(split for run in own for split in run.results):
            yield _composition_table(own, data, world)


def _composition_table(runs: Sequence[Run], data: str, world: str) -> Table:
    lines = make_lines([run for run in runs if world in run.results])
    table = make_table(
        composition_title(data, world, runs[0].model),
        list(COMPOSITION_METRICS.values()),
        lines,
        lambda line: [over_seeds(line.by_seed(world, each)) for each in COMPOSITION_METRICS],
        COMPOSITION_NOTE,
    )
    paper = published_compositions(runs[0].model, data, world)
    if not paper:
        return table
    names, alike = paper_names(), {line.label: is_composition_as_published(line) for line in lines}
    columns = [*table.columns[:-1], *(f"paper: {name}" for name in PUBLISHED_METRICS), table.columns[-1]]
    rows = []
    for (label, cells), line in zip(table.rows, lines, strict=True):
        found = paper.get(names.get(line.method, "")) if alike[line.label] else None
        rows.append((label, [*cells[:-1], *(found or NOTHING_PUBLISHED), cells[-1]]))
    beside = {names.get(line.method) for line in lines}
    missing: list[Cell] = [None] * len(COMPOSITION_METRICS)
    rows += [(name, [*missing, *row, ""]) for name, row in paper.items() if name not in beside]
    return Table(table.title, columns, rows, f"{table.note} {published_compositions_note(data, world)}")


def composition_title(data: str, world: str, model: str) -> str:
    """What was measured."""
    return f"Composition: accuracy in % on {data}, {world_name(world)}, model {model}"


def world_name(world: str) -> str:
    """A world as people say it: "open world, calibrated"."""
    name, _, how = world.partition(", ")
    return f"{name} world" + (f", {how}" if how else "")


def is_composition_as_published(line: Line) -> bool:
    """Whether all runs of a line learned from all images with the papers' prompt and recipe."""
    return all(map(_is_composition_run_as_published, line.runs))


def _is_composition_run_as_published(run: Run) -> bool:
    if run.method not in METHODS:
        return True
    method = METHODS[run.method]
    default, published_with = method.config(), method.config(**method.fields("composition", run.data))
    names = ("class_token_position", "ctx_init", *method.own_settings)
    known = [name for name in names if hasattr(default, name)]
    prompt = all(run.settings.get(name, getattr(default, name)) == getattr(published_with, name) for name in known)
    return prompt and bool(run.settings.get("all_images")) and not RECIPE_FIELDS & run.settings.keys()
