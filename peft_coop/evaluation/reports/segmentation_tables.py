"""How well pixels are classified, as tables and a picture: one for each dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .averages import over_seeds
from .dots import dots_figure
from .finished_runs import SEGMENTATION_METRICS, Run
from .grouped_runs import distinct, make_lines
from .panels import runs_of
from .table_rows import Table, make_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEGMENTATION_NOTE = (
    "mIoU: the mean over classes of intersection over union, both pooled over all images; pixels of no class do not "
    "count."
)


def segmentation_tables(runs: Sequence[Run], metric: str) -> Iterator[Table]:
    """All metrics of segmentation stand in one table, whichever is asked for."""
    for data in distinct(run.data for run in runs):
        own = [run for run in runs if run.data == data]
        yield make_table(
            segmentation_title(data, own[0].model),
            list(SEGMENTATION_METRICS.values()),
            make_lines(own),
            lambda line: [over_seeds(line.by_seed("test", each)) for each in SEGMENTATION_METRICS],
            SEGMENTATION_NOTE,
        )


def segmentation_title(data: str, model: str) -> str:
    """What was measured."""
    return f"Segmentation: % on {data}, model {model}"


def segmentation_figure(runs: Sequence[Run], metric: str = "accuracy") -> Figure:
    """Draw the mIoU of each method as a dot: a panel for each dataset.

    Args:
        runs: of the segmentation protocol, of one model.
        metric: is not asked: of pixels it is the mIoU.

    Raises:
        ValueError: if there is no such run, or they are of several models.
    """
    own, shown = runs_of(runs, "segmentation", metric)
    return dots_figure(own, shown, SEGMENTATION_METRICS[shown])
