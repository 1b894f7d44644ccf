"""Writing `handler.py` for a Hugging Face Inference Endpoint."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "endpoint_handler.py"


def write_handler(folder: Path) -> list[Path]:
    """Put `handler.py` and `requirements.txt` beside a saved adapter, for an endpoint to find.

    Args:
        folder: of an adapter that classifies images.

    Returns:
        The two files.

    Raises:
        ValueError: if there is no such adapter, or it does not say which base model it is for.
    """
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if settings.get("task_type") != "IMAGE_CLS":
        raise ValueError(
            f"A handler is for a prompt that classifies images and lies in the folder itself: {str(folder)!r} has "
            f"{settings.get('peft_type', 'none')} of the task {settings.get('task_type')}."
        )
    if not settings.get("base_model_name_or_path"):
        raise ValueError(
            "A handler loads the base model by its name on the Hub, and this adapter's was loaded from a folder: load "
            "it by that name, or export a classifier, which holds the image encoder."
        )
    if not settings.get("class_names"):
        raise ValueError("A handler answers with the adapter's classes, and it has none: choose them by `set_classes`.")
    handler, requirements = folder / "handler.py", folder / "requirements.txt"
    handler.write_text(SOURCE.read_text(encoding="utf-8"), encoding="utf-8")
    requirements.write_text(f"peft-coop>={version('peft-coop')}\n", encoding="utf-8")
    return [handler, requirements]
