"""Adapters of other methods that were saved with a prompt."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from peft import PeftConfig
from peft.utils import CONFIG_NAME

from ..methods import PromptConfig

ADAPTER_FILES = ("*adapter_config.json", "*adapter_model.safetensors", "*adapter_model.bin")


def adapters_beside(adapter: str | Path) -> dict[str, Path]:
    """Adapters of other methods that were saved with a prompt, by a name: without them it gives other numbers.

    `save_pretrained` puts the adapter called "default" into the folder, and the others into folders within it.

    Args:
        adapter: the prompt's folder, or its name on the Hub, from where what is beside it is fetched.

    Raises:
        ValueError: if there are several of one method, of which one was active.
        OSError: if the Hub cannot be reached, and what was fetched before is not there either.
    """
    is_folder = Path(adapter).is_dir()
    folder = Path(adapter if is_folder else snapshot_download(str(adapter), allow_patterns=list(ADAPTER_FILES)))
    within = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG_NAME}"))}
    above = {"above": folder.parent} if is_folder and (folder.parent / CONFIG_NAME).is_file() else {}
    found: dict[str, tuple[str, Path]] = {}
    for name, place in (within | above).items():
        config = PeftConfig.from_pretrained(str(place))
        if isinstance(config, PromptConfig):
            continue
        method = str(config.peft_type)
        if method in found:
            raise ValueError(
                f"Which of {str(found[method][1])!r} and {str(place)!r} works with the prompt in {str(adapter)!r} is "
                "not known: both are of one method. Move the other one away."
            )
        found[method] = name, place
    return dict(found.values())
