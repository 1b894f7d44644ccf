"""Runs as the tables of a paper: one for each protocol, datasets as rows, methods as columns, the best in bold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from .averages import Value, over_datasets, over_seeds
from .composition_tables import COMPOSITION_NOTE, composition_title, is_composition_as_published
from .finished_runs import COMPOSITION_METRICS, SEGMENTATION_METRICS, TITLES, Run, check_metric, metric_of
from .grouped_runs import Line, distinct, make_lines, model_label
from .missing_shots import shots_note
from .published import (
    NOTHING_PUBLISHED,
    PUBLISHED_METRICS,
    paper_names,
    published,
    published_base_to_new,
    published_compositions,
    published_compositions_note,
)
from .segmentation_tables import SEGMENTATION_NOTE, segmentation_title
from .tables import (
    H_NOTE,
    base_and_new,
    is_as_published,
    runs_by_model,
    source_and_targets,
    transfer_title,
)

Row = tuple[list[str], list[Value | None]]
# A row's name, and the splits and datasets that it is the average of.
Parts = dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class PaperTable:
    """What LaTeX prints.

    Attributes:
        caption: what was measured, on what.
        label: a text of its own among the tables of a report.
        headings: of the columns: those with names, and those with numbers.
        groups: rows that belong together; each is its names and its numbers, None where nothing was measured.
        num_own: how many of the columns with numbers are one's own; those after them were published by others.
        lowest: whether the lowest number is the best.
        by_column: whether the best is sought in each column, and not in each row.
    """

    caption: str
    label: str
    headings: tuple[list[str], list[str]]
    groups: list[list[Row]]
    num_own: int
    lowest: bool
    by_column: bool = False

    def best(self) -> set[tuple[int, int]]:
        """Row and column of each best number, of equal ones all, where there is a choice."""
        rows = [cells[: self.num_own] for group in self.groups for _, cells in group]
        found = set()
        for line in range(self.num_own if self.by_column else len(rows)):
            places = (
                [(row, line) for row in range(len(rows))]
                if self.by_column
                else [(line, c) for c in range(len(rows[line]))]
            )
            numbers = {place: shown(value) for place in places if (value := rows[place[0]][place[1]])}
            if len(numbers) > 1:
                best = min(numbers.values()) if self.lowest else max(numbers.values())
                found |= {place for place, number in numbers.items() if number == best}
        return found


def shown(value: Value) -> float:
    """A number as it is printed: what looks equal counts as equal."""
    return round(100 * value.mean, 2)


def make_paper_tables(runs: Sequence[Run], metric: str = "accuracy") -> list[PaperTable]:
    """The tables of some runs: by protocol and model; few-shot by number of shots, too, and transfer by source.

    Args:
        runs: of any protocols, datasets and models.
        metric: a key of `TITLES`.

    Raises:
        ValueError: if there is no such metric.
    """
    check_metric(metric)
    tables = [
        table
        for protocol, build in BUILDERS.items()
        for model_runs in runs_by_model(runs, protocol)
        for table in build(model_runs, metric_of(protocol, metric))
    ]
    earlier = [[other.label for other in tables[:number]].count(table.label) for number, table in enumerate(tables)]
    return [
        replace(table, label=f"{table.label} {count + 1}") if count else table
        for table, count in zip(tables, earlier, strict=True)
    ]


def _few_shot(runs: Sequence[Run], metric: str) -> Iterator[PaperTable]:
    for shots in sorted({run.num_shots for run in runs} - {0}) or [0]:
        own = [run for run in runs if run.num_shots in (0, shots)]
        items = own[0].items
        images = f"{shots} training {items.removesuffix('s') if shots == 1 else items} per class"
        parts = {name: [("test", each) for each in data] for name, data in _datasets(own)}
        where = f"{TITLES[metric]} in % with {images}, model {own[0].model}"
        yield _by_dataset(own, metric, parts, f"Few-shot: {where}.", f"few-shot {shots} {model_label(own[0].model)}")


def _base_to_new(runs: Sequence[Run], metric: str) -> Iterator[PaperTable]:
    lines = make_lines(runs)
    papers = [published_base_to_new(runs[0].model, data) if metric == "accuracy" else {} for _, data in _datasets(runs)]
    names = paper_names()
    alike = {names.get(line.method) for line in lines if is_as_published(line)}
    methods = [name for name in names.values() if name in alike and any(name in paper for paper in papers)]
    notes = [
        "" if metric == "ece" else H_NOTE,
        f"Published: {published()['source']['base_to_new']}." if methods else "",
    ]
    yield PaperTable(
        caption=_caption(runs, f"Base to new: {TITLES[metric]} in %, model {runs[0].model}.", *notes),
        label=f"base-to-new {model_label(runs[0].model)}",
        headings=(["dataset", ""], [*(line.label for line in lines), *(f"published: {name}" for name in methods)]),
        groups=[
            _base_new_and_mean(
                name, [base_and_new(line, data, metric) for line in lines], [paper.get(m) for m in methods]
            )
            for (name, data), paper in zip(_datasets(runs), papers, strict=True)
        ],
        num_own=len(lines),
        lowest=metric == "ece",
    )


def _base_new_and_mean(
    name: str, own: Sequence[Sequence[Value | None]], papers: Sequence[Sequence[Value] | None]
) -> list[Row]:
    """A dataset's rows: base, new and, if `own` has it, H."""
    parts = ("base", "new", "H")[: len(own[0])]
    return [
        ([name if number == 0 else "", part], [values[number] if values else None for values in (*own, *papers)])
        for number, part in enumerate(parts)
    ]


def _transfer(runs: Sequence[Run], metric: str) -> Iterator[PaperTable]:
    for source in distinct(run.data for run in runs):
        own = [run for run in runs if run.data == source]
        parts = {name: [(split, source) for split in splits] for name, splits in source_and_targets(own).items()}
        label = f"{own[0].protocol} {source} {model_label(own[0].model)}"
        yield _by_dataset(own, metric, parts, f"{transfer_title(own, metric)}.", label)


def _by_dataset(runs: Sequence[Run], metric: str, parts: Parts, title: str, label: str) -> PaperTable:
    """A table with a row for each part; averages stand apart."""
    lines = make_lines(runs)
    rows = {
        name: [over_datasets([line.by_seed(split, metric, data=data) for split, data in members]) for line in lines]
        for name, members in parts.items()
    }
    single = [([name], cells) for name, cells in rows.items() if len(parts[name]) == 1]
    average = [([name], cells) for name, cells in rows.items() if len(parts[name]) > 1]
    return PaperTable(
        caption=_caption(runs, title),
        label=label,
        headings=(["dataset"], [line.label for line in lines]),
        groups=[group for group in (single, average) if group],
        num_own=len(lines),
        lowest=metric == "ece",
    )


def _ablation(runs: Sequence[Run], metric: str) -> Iterator[PaperTable]:
    """Settings as rows, since there are many, and datasets as columns."""
    parts = _datasets(runs)
    models = distinct(run.model for run in runs)
    model = f", model {models[0]}" if len(models) == 1 else ""

    def cells(line: Line) -> list[Value | None]:
        return [over_datasets([line.by_seed("test", metric, data=each) for each in data]) for _, data in parts]

    yield PaperTable(
        caption=_caption(runs, f"Ablation: {TITLES[metric]} in %{model}."),
        label="ablation",
        headings=(["setting"], [name for name, _ in parts]),
        groups=[[([line.label], cells(line)) for line in make_lines(runs)]],
        num_own=len(parts),
        lowest=metric == "ece",
        by_column=True,
    )


def _composition(runs: Sequence[Run], metric: str) -> Iterator[PaperTable]:
    """Methods as rows, all metrics as columns; a table for each dataset and world."""
    for data, world in distinct((run.data, split) for run in runs for split in run.results):
        lines = make_lines([run for run in runs if run.data == data and world in run.results])
        paper = published_compositions(runs[0].model, data, world)
        names = paper_names()
        rows = []
        for line in lines:
            own = [over_seeds(line.by_seed(world, each)) for each in COMPOSITION_METRICS]
            row = paper.get(names.get(line.method, "")) if is_composition_as_published(line) else None
            rows.append(([line.label], [*own, *((row or NOTHING_PUBLISHED) if paper else [])]))
        notes = [COMPOSITION_NOTE, published_compositions_note(data, world) if paper else ""]
        title = f"{composition_title(data, world, runs[0].model)}."
        yield PaperTable(
            caption=_caption([run for line in lines for run in line.runs], title, *notes),
            label=f"composition {data} {world} {model_label(runs[0].model)}",
            headings=(
                ["method"],
                [*COMPOSITION_METRICS.values(), *(f"published: {name}" for name in PUBLISHED_METRICS if paper)],
            ),
            groups=[rows],
            num_own=len(COMPOSITION_METRICS),
            lowest=False,
            by_column=True,
        )


def _segmentation(runs: Sequence[Run], metric: str) -> Iterator[PaperTable]:
    """Methods as rows, all metrics as columns; a table for each dataset."""
    for data in distinct(run.data for run in runs):
        own = [run for run in runs if run.data == data]
        rows = [
            ([line.label], [over_seeds(line.by_seed("test", each)) for each in SEGMENTATION_METRICS])
            for line in make_lines(own)
        ]
        yield PaperTable(
            caption=_caption(own, f"{segmentation_title(data, own[0].model)}.", SEGMENTATION_NOTE),
            label=f"segmentation {data} {model_label(own[0].model)}",
            headings=(["method"], list(SEGMENTATION_METRICS.values())),
            groups=[rows],
            num_own=len(SEGMENTATION_METRICS),
            lowest=False,
            by_column=True,
        )


BUILDERS: dict[str, Callable[[Sequence[Run], str], Iterator[PaperTable]]] = {
    "few-shot": _few_shot,
    "base-to-new": _base_to_new,
    "cross-dataset": _transfer,
    "domain": _transfer,
    "ablation": _ablation,
    "composition": _composition,
    "segmentation": _segmentation,
    "video-few-shot": _few_shot,
    "few-shot-trials": _few_shot,
    "video-few-shot-trials": _few_shot,
    "several-labels-few-shot": _few_shot,
    "video-base-to-new": _base_to_new,
}


def _datasets(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Each dataset by its name, and at last all of them."""
    datasets = distinct(run.data for run in runs)
    return [(data, [data]) for data in datasets] + ([("average", datasets)] if len(datasets) > 1 else [])


def _caption(runs: Sequence[Run], *sentences: str) -> str:
    """What was measured, and how to read it."""
    learned = {len({run.seed for run in line.runs}) for line in make_lines(runs) if line.learns} - {1}
    counts = f"{min(learned)} to {max(learned)}" if len(learned) > 1 else "".join(map(str, learned))
    spread = f"After ±: the sample standard deviation (divided by n - 1) of {counts} seeds." if learned else ""
    return " ".join(filter(None, [*sentences, shots_note(runs), spread, "The best is bold."]))
