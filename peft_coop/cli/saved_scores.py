"""The scores of a trained prompt: in a file beside the adapter, and in its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel

    from ..data import ImageData

SCORES = "scores.json"
DRAWN = "drawn"  # in it, how the images were drawn that the prompt has learned from
IN_CARD: tuple[str, ...] = ("accuracy", "macro_accuracy", "ece", "mean_iou", "mean_accuracy", "overall_accuracy")
IN_CARD += ("mean_average_precision", "f1_macro", "f1_micro")
OF_DECISION = ("ece", "f1_macro", "f1_micro")  # what a temperature or a threshold changes of them


def dataset_name(source: str, data: ImageData) -> str:
    """What a card calls the images of a `--data` argument: an id on the Hub, or a name that is no path."""
    from ..models.base_model_names import is_hub_id

    kind, _, place = source.partition(":")
    return place if kind == "hub" and is_hub_id(place) else data.name


def write_scores(model: PeftModel, folder: Path, result: Mapping[str, Any], dataset: str) -> None:
    """Write what was measured into a folder with an adapter.

    Args:
        model: with the adapter.
        folder: where it is saved.
        result: with the scores of the test images, as JSON.
        dataset: what they are of.
    """
    from ..hub import update_model_card

    record = {**result, "dataset": dataset, "split": "test"}
    (folder / SCORES).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    update_model_card(model, folder, metrics=_of_card(record), dataset=dataset)


def read_scores(adapter: str) -> dict[str, Any]:
    """What `push_to_hub` takes to put the scores into the card; nothing if there are none beside the adapter.

    Raises:
        ValueError: if the file is there and holds none.
    """
    path = Path(adapter) / SCORES
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"metrics": _of_card(record), "dataset": record["dataset"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no scores ({error!r}): remove it to push the adapter without.") from error


def read_drawn(adapter: Path) -> dict[str, Any] | None:
    """How the images were drawn that a saved prompt has learned from; None where no file beside it says so.

    Args:
        adapter: its folder, of `train` or in that of a run.
    """
    from ..evaluation.run_folders import RESULT

    for path in (adapter / SCORES, adapter.parent / RESULT):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if path.name == SCORES:
                return dict(record[DRAWN])
            return {"shots": record["settings"]["num_shots"], "seed": record["seed"], "pool": record["pool"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def read_record(folder: Path) -> dict[str, Any] | None:
    """What the file of scores beside an adapter holds; None where there is none.

    Raises:
        ValueError: if it is there and holds none.
    """
    path = folder / SCORES
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no scores ({error}): remove it, or train again.") from error


def write_again(
    model: PeftModel, folder: Path, dataset: str, num_examples: int, measured: Mapping[str, float | None]
) -> None:
    """Write the scores anew that depend on what is decided by, if those beside an adapter are of these images.

    Args:
        model: with the adapter.
        folder: where it is saved.
        dataset: what was measured.
        num_examples: how many images.
        measured: the scores of now, by name.
    """
    record = read_record(folder)
    if record is not None and (record.get("dataset"), record.get("num_examples")) == (dataset, num_examples):
        changed = {name: measured[name] for name in OF_DECISION if name in record and name in measured}
        write_scores(model, folder, {**record, **changed}, dataset)


def _of_card(record: Mapping[str, Any]) -> dict[str, float]:
    found = {name: record[name] for name in IN_CARD if name in record}
    if not found:
        raise KeyError(IN_CARD[0])
    return found
