"""What `calibrate` has measured, as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .options import percent


def _share(value: float | None) -> str:
    return "–" if value is None else f"{percent(value)}%"


def _number(value: float) -> str:
    return f"{value:.3f}"


Row = tuple[str, str, Callable[[Any], str]]
ROWS: tuple[Row, ...] = (
    ("expected calibration error", "ece", _share),
    ("negative log likelihood", "nll", _number),
    ("Brier score", "brier", _number),
    ("area under risk and coverage", "aurc", _share),
    ("images answered", "coverage", _share),
    ("accuracy of the answers", "accuracy", _share),
)
# Every class of every image has a probability: the first error is of all of them in common bins.
ROWS_OF_LABELS: tuple[Row, ...] = (
    ("calibration error, all classes together", "ece", _share),
    ("calibration error, mean over classes", "classwise_ece", _share),
    ("negative log likelihood of a class", "nll", _number),
    ("Brier score of a class", "brier", _number),
    ("mean average precision", "mean_average_precision", _share),
    ("labels answered that are right", "precision", _share),
    ("labels of the images that are answered", "recall", _share),
    ("F1 of what is answered, over classes", "f1_macro", _share),
)


def table_of(result: dict[str, Any], has_several: bool) -> list[str]:
    """The lines to print.

    Args:
        result: as `calibrate --json` prints it.
        has_several: whether the images have several labels.
    """
    rows = ROWS_OF_LABELS if has_several else ROWS
    width = max(len(title) for title, _, _ in rows) + 2
    parts = [name for name in ("validation", "test") if name in result]
    sizes = ", ".join(f"{result[name]['num_examples']:,} {name} images" for name in parts)
    lines = [f"{result['data']}: temperature {result['temperature']:.3f}, {sizes}"]
    columns = [(name, moment) for name in parts for moment in ("before", "after")]
    columns += [("test", "zero_shot")] if "test" in parts else []
    titles = [*(f"{name}, {moment}" for name, moment in columns)]
    titles = [title.replace("validation", "val").replace("test, zero_shot", "zero-shot") for title in titles]
    lines.append(f"  {'':<{width}}" + "".join(f"{title:>13}" for title in titles))
    for label, key, shown in rows:
        values = (shown(result[name][moment][key]) for name, moment in columns)
        lines.append(f"  {label:<{width}}" + "".join(f"{value:>13}" for value in values))
    return [*lines, *_chosen(result, has_several), *_unknown(result)]


def _chosen(result: dict[str, Any], has_several: bool) -> list[str]:
    """The threshold and the other names, where there are any."""
    lines = []
    least = result["min_probability"]
    if least is not None:
        answer = (
            f"A label is answered from a probability of {percent(least)}% on."
            if has_several
            else f"Below a probability of {percent(least)}% the answer is 'other'."
        )
        lines.append(answer)
    if result["other_names"]:
        lines.append(f"'other' is what looks most like {' or '.join(map(repr, result['other_names']))}.")
    return lines


def _unknown(result: dict[str, Any]) -> list[str]:
    """What is said of images of other classes, where there are any."""
    if "unknown" not in result:
        return []
    of = result["unknown"]
    return [
        f"{of['num_examples']:,} test images of other classes: {percent(of['answered_other'])}% are answered "
        f"'other'; AUROC {percent(of['auroc'])}% (zero-shot CLIP {percent(of['zero_shot_auroc'])}%)."
    ]
