"""A folder that is a Space of the Hugging Face Hub: the page for one adapter."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from ..markdown import escape
from ..models.base_model_names import is_hub_id

APP = """\
# Made by `peft-coop app --space`: the page for the prompt in the folder `adapter`, whose name it shows.
import sys

from peft_coop.cli.main import main

if __name__ == "__main__":
    place = ["--host", "0.0.0.0", "--port", "7860"]
    sys.exit(main(["app", "--adapter", {adapter!r}, "--model", {model!r}, *place]))
"""
FILES = ("app.py", "requirements.txt", "README.md")
# Of an adapter, what the page needs: checkpoints, scores and the card, which may name folders, stay where they are.
NEEDED = ("adapter_config.json", "adapter_model.safetensors")
DEMO = "demo"


def write_space(folder: Path, adapter: Path, model: str, class_names: list[str]) -> list[Path]:
    """Write a Space: `app.py`, `requirements.txt`, `README.md` with the Hub's settings, and a copy of the adapter.

    Args:
        folder: empty, or not there yet.
        adapter: folder of a saved prompt that classifies images.
        model: its base model's name on the Hub, or "demo".
        class_names: the prompt's classes, for the README.

    Returns:
        The files.

    Raises:
        ValueError: if the folder holds something, there is no such adapter, or the base model is on this machine only.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already: a Space is written into an empty folder, or one that is new.")
    if not (adapter / NEEDED[0]).is_file() or not (adapter / NEEDED[1]).is_file():
        raise ValueError(f"{str(adapter)!r} holds no adapter: {NEEDED[0]} and {NEEDED[1]} must be in it.")
    if model != DEMO and not is_hub_id(model):
        raise ValueError(
            f"A Space loads the base model by its name on the Hub, and {model!r} is none: give its name as --model."
        )
    folder.mkdir(parents=True, exist_ok=True)
    place = f"adapter/{adapter.resolve().name}"
    _copy_adapter(adapter, folder / place, model)
    texts = (
        APP.format(adapter=place, model=model),
        f"peft-coop[app]>={version('peft-coop')}\n",
        _readme(adapter, model, class_names),
    )
    for name, text in zip(FILES, texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_adapter(source: Path, target: Path, model: str) -> None:
    """The prompt, and adapters of other methods that lie within its folder; no path of this machine goes along."""
    for config in (source / NEEDED[0], *sorted(source.glob(f"*/{NEEDED[0]}"))):
        place = target / config.parent.relative_to(source)
        place.mkdir(parents=True)
        for name in NEEDED:
            if (config.parent / name).is_file():
                shutil.copy(config.parent / name, place / name)
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = None if model == DEMO else model
        (place / NEEDED[0]).write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def _readme(adapter: Path, model: str, class_names: list[str]) -> str:
    title = adapter.resolve().name
    settings = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "app_file": "app.py",
        "pinned": False,
        "tags": ["peft-coop", "prompt-learning", "image-classification"],
        **({} if model == DEMO else {"models": [model]}),
    }
    head = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    named = "\n".join(f"- {escape(name)}" for name in class_names)
    return f"---\n{head}---\n\n# {escape(title)}\n\nA learned prompt for {escape(model)}. Its classes:\n\n{named}\n"
