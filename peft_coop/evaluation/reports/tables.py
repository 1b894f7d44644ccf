"""Runs as tables, free of any format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...methods import METHODS
from ..scores import harmonic_mean
from .averages import Value, over_datasets, over_seeds
from .composition_tables import composition_tables
from .finished_runs import TITLES, Run, check_metric, metric_of
from .grouped_runs import Line, distinct, make_lines
from .missing_shots import shots_note
from .published import NUM_SHOTS, RECIPE_FIELDS, Row, paper_names, published, published_base_to_new
from .segmentation_tables import segmentation_tables
from .table_rows import Cell, Table, make_table

H_NOTE = "H is the harmonic mean of the means of base and new, as in the CoCoOp paper."


def make_tables(runs: Sequence[Run], metric: str = "accuracy") -> list[Table]:
    """All tables of some runs, protocol by protocol.

    Args:
        runs: of any protocols, datasets and models.
        metric: a key of `TITLES`.

    Raises:
        ValueError: if there is no run, or no such metric.
    """
    check_metric(metric)
    if not runs:
        raise ValueError("There is no run to report.")
    return [
        table
        for protocol, builder in BUILDERS.items()
        for model_runs in runs_by_model(runs, protocol)
        for table in builder(model_runs, metric_of(protocol, metric))
    ]


def runs_by_model(runs: Sequence[Run], protocol: str) -> list[list[Run]]:
    """A protocol's runs, model by model; together where models are compared."""
    own = [run for run in runs if run.protocol == protocol]
    if protocol == "ablation":
        return [own] if own else []
    return [[run for run in own if run.model == model] for model in distinct(run.model for run in own)]


def _each_and_average(runs: Sequence[Run]) -> list[list[str]]:
    """The datasets of each table: one, and at last all if there are several."""
    datasets = distinct(run.data for run in runs)
    return [[data] for data in datasets] + ([datasets] if len(datasets) > 1 else [])


def _few_shot_tables(runs: Sequence[Run], metric: str) -> Iterator[Table]:
    for datasets in _each_and_average(runs):
        yield _few_shot_table(runs, datasets, metric)


def _few_shot_table(runs: Sequence[Run], datasets: Sequence[str], metric: str) -> Table:
    own = [run for run in runs if run.data in datasets]
    shots = sorted({run.num_shots for run in own})

    def cells(line: Line) -> list[Cell]:
        return [
            over_datasets([line.by_seed("test", metric, data=data, num_shots=number) for data in datasets])
            for number in shots
        ]

    trials = f" of {own[0].settings['ways']} classes" if "ways" in own[0].settings else ""
    title = f"Few-shot{trials}: {_where(metric, datasets, runs[0].model)}"
    lines = make_lines(own, across=("num_shots",))
    note = _joined(f"Columns: training {own[0].items} per class.", shots_note(own))
    return make_table(title, list(map(str, shots)), lines, cells, note)


def _base_to_new_tables(runs: Sequence[Run], metric: str) -> Iterator[Table]:
    for datasets in _each_and_average(runs):
        yield _base_to_new_table(runs, datasets, metric)


def _base_to_new_table(runs: Sequence[Run], datasets: Sequence[str], metric: str) -> Table:
    own = [run for run in runs if run.data in datasets]
    lines, used = make_lines(own), shots_note(own)
    title = f"Base to new: {_where(metric, datasets, runs[0].model)}"
    if metric == "ece":
        return make_table(title, ["base", "new"], lines, lambda line: base_and_new(line, datasets, metric), used)
    note = _joined(H_NOTE, used)
    table = make_table(title, ["base", "new", "H"], lines, lambda line: base_and_new(line, datasets, metric), note)
    paper = published_base_to_new(runs[0].model, datasets) if metric == "accuracy" else {}
    return _beside_published(table, lines, paper) if paper else table


def _beside_published(table: Table, lines: Sequence[Line], paper: dict[str, Row]) -> Table:
    """Add the papers' numbers: to lines learned as in the papers, and below them those of later methods."""
    columns = [*table.columns[:-1], "paper: base", "paper: new", "paper: H", table.columns[-1]]
    rows = [
        (label, [*cells[:-1], *_published_cells(line, paper), cells[-1]])
        for (label, cells), line in zip(table.rows, lines, strict=True)
    ]
    beside = {paper_names().get(line.method) for line in lines} | published()["base_to_new"]["average"].keys()
    later = [(name, [None, None, None, *row, ""]) for name, row in paper.items() if name not in beside]
    sources = ["base_to_new", "average_of_later_methods"] if later else ["base_to_new"]
    published_by = [f"Published: {published()['source'][name]}." for name in sources]
    return Table(table.title, columns, rows + later, " ".join([table.note, *published_by]))


def base_and_new(line: Line, datasets: Sequence[str], metric: str) -> list[Value | None]:
    """Base, new and H of a line: of the mean over datasets, if there are several. The calibration error has no H.

    As in the papers' tables, H is the harmonic mean of the two means, not the mean of single runs' or datasets' H.
    """
    base, new = (
        over_datasets([line.by_seed(split, metric, data=data) for data in datasets]) for split in ("base", "new")
    )
    if metric == "ece":
        return [base, new]
    return [base, new, Value(harmonic_mean(base.mean, new.mean)) if base and new else None]


def _published_cells(line: Line, paper: dict[str, Row]) -> list[Cell]:
    """The paper's numbers of a line, if it was learned from as many images with the paper's prompt and recipe."""
    row = paper.get(paper_names().get(line.method, ""))
    return list(row) if row and is_as_published(line) else [None, None, None]


def is_as_published(line: Line) -> bool:
    """Whether all runs of a line are with as many images, the prompt and the recipe as the papers' numbers."""
    return all(map(_is_run_as_published, line.runs))


def _is_run_as_published(run: Run) -> bool:
    if run.method not in METHODS:
        return run.num_shots in (0, NUM_SHOTS)
    method = METHODS[run.method]
    default, published_with = method.config(), method.config(**method.fields("base-to-new"))
    prompt = all(
        run.settings.get(name, getattr(default, name)) == getattr(published_with, name)
        for name in ("class_token_position", "ctx_init", *method.own_settings)
        if hasattr(default, name)
    )
    return run.num_shots == NUM_SHOTS and prompt and not RECIPE_FIELDS & run.settings.keys()


def _transfer_tables(runs: Sequence[Run], metric: str) -> Iterator[Table]:
    for source in distinct(run.data for run in runs):
        yield _transfer_table([run for run in runs if run.data == source], metric)


def _transfer_table(runs: Sequence[Run], metric: str) -> Table:
    columns = source_and_targets(runs)

    def cells(line: Line) -> list[Cell]:
        return [over_datasets([line.by_seed(split, metric) for split in splits]) for splits in columns.values()]

    return make_table(transfer_title(runs, metric), list(columns), make_lines(runs), cells, shots_note(runs))


def transfer_title(runs: Sequence[Run], metric: str) -> str:
    """What was measured, from which source."""
    kind = "Domain generalisation" if runs[0].protocol == "domain" else "Cross-dataset transfer"
    return f"{kind} from {runs[0].data}: {TITLES[metric]} in %, model {runs[0].model}"


def source_and_targets(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The splits of a transfer's parts by their titles: source, each target, and their average if there are several."""
    source = runs[0].data
    targets = [split for split in distinct(split for run in runs for split in run.results) if split != source]
    average = {"average of targets": targets} if len(targets) > 1 else {}
    return {f"{source} (source)": [source]} | {split: [split] for split in targets} | average


def _ablation_tables(runs: Sequence[Run], metric: str) -> Iterator[Table]:
    for data in distinct(run.data for run in runs):
        own = [run for run in runs if run.data == data]
        models = distinct(run.model for run in own)
        title = f"Ablation: {_where(metric, [data], *(models if len(models) == 1 else []))}"
        lines, note = make_lines(own), shots_note(own)
        yield make_table(title, [TITLES[metric]], lines, lambda line: [over_seeds(line.by_seed("test", metric))], note)


BUILDERS: dict[str, Callable[[Sequence[Run], str], Iterator[Table]]] = {
    "few-shot": _few_shot_tables,
    "base-to-new": _base_to_new_tables,
    "cross-dataset": _transfer_tables,
    "domain": _transfer_tables,
    "ablation": _ablation_tables,
    "composition": composition_tables,
    "segmentation": segmentation_tables,
    "video-few-shot": _few_shot_tables,
    "few-shot-trials": _few_shot_tables,
    "video-few-shot-trials": _few_shot_tables,
    "video-base-to-new": _base_to_new_tables,
    "several-labels-few-shot": _few_shot_tables,
}


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _where(metric: str, datasets: Sequence[str], model: str = "") -> str:
    data = f"on {datasets[0]}" if len(datasets) == 1 else f"averaged over {len(datasets)} datasets"
    return f"{TITLES[metric]} in % {data}" + (f", model {model}" if model else "")
