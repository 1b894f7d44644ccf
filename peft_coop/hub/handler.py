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
        FileExistsError: if one of the two is there already and says something else.
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
    texts = {
        folder / "handler.py": SOURCE.read_text(encoding="utf-8"),
        folder / "requirements.txt": f"peft-coop>={version('peft-coop')}\n",
    }
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise FileExistsError(f"{path} is there already, and not as it would be written: move it away.")
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)
