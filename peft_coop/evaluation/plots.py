"""Pictures of results."""

from __future__ import annotations

from pathlib import Path

from .protocols import FewShotCurve


def plot_few_shot(curve: FewShotCurve, title: str, path: Path) -> None:
    """Draw accuracy over shots, with the hand-written prompt as the point at zero, as in the papers' figures.

    Args:
        curve: what `few_shot_curve` measured.
        title: above the picture.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shots, accuracies = zip(*sorted(curve.by_shots.items()), strict=True)
    places = range(1, len(shots) + 1)
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(places, [100 * value for value in accuracies], "o-", color="#1f6fb4", label="CoOp")
    axes.plot([0], [100 * curve.zero_shot], "*", color="#d1495b", markersize=14, label="zero-shot CLIP")
    axes.axhline(100 * curve.zero_shot, color="#d1495b", linewidth=1, linestyle=":")
    points = [(0, curve.zero_shot), *zip(places, accuracies, strict=True)]
    for place, value in points:
        axes.annotate(
            f"{100 * value:.1f}", (place, 100 * value), textcoords="offset points", xytext=(0, 9), ha="center"
        )
    axes.set_xticks([0, *places], ["0", *map(str, shots)])
    axes.set_xlabel("labelled images per class")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(title)
    axes.margins(x=0.08, y=0.18)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", frameon=False)
    figure.savefig(path, dpi=150)
