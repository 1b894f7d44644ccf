"""Tables and figures of finished runs."""

from .figures import plot_ablation, plot_base_to_new, plot_composition, plot_few_shot, plot_transfer, save_figure
from .finished_runs import Run, load_runs
from .writing import format_report, write_report

__all__ = [
    "Run",
    "format_report",
    "load_runs",
    "plot_ablation",
    "plot_base_to_new",
    "plot_composition",
    "plot_few_shot",
    "plot_transfer",
    "save_figure",
    "write_report",
]
