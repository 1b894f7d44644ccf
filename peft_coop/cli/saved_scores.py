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
IN_CARD = ("accuracy", "macro_accuracy", "ece")


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


def _of_card(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: record[name] for name in IN_CARD}
