"""A pretrained dual encoder by its name: on the Hub, in a folder, or the one that ships with the package."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from torch import nn
from transformers import AutoModel, AutoProcessor, CLIPProcessor

from ..demo import MODEL_PATH
from ..towers import find_family

DEMO = "demo"
DTYPES = ("float32", "bfloat16", "float16")
ACCEPTED = f"the Hub name of a CLIP, such as openai/clip-vit-base-patch16, a folder that holds one, or {DEMO!r}"


def load_dual_encoder(
    name: str, device: str | torch.device | None = None, dtype: str | None = None, revision: str | None = None
) -> tuple[nn.Module, CLIPProcessor]:
    """Load a CLIP and its processor.

    Args:
        name: a Hub name or a folder; "demo" is the tiny one that ships with the package.
        device: where to; None: the GPU if there is one.
        dtype: of its weights, one of `DTYPES`; None: as they were saved.
        revision: the branch, tag or commit on the Hub; None: the main branch.

    Raises:
        OSError: if there is no such model.
        ValueError: if the name can be none, it is no dual encoder that prompts can be learned for, or there is no such
            device or dtype.
    """
    target = find_device(device)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}, got {dtype!r}.")
    path = find_model(name)
    try:
        model = AutoModel.from_pretrained(path, revision=revision, **({"dtype": dtype} if dtype else {}))
        find_family(model)
        processor = AutoProcessor.from_pretrained(path, revision=revision)
    except OSError as error:
        raise OSError(f"The model {name!r} cannot be loaded{_hint(path)}: {error}") from error
    return model.to(target), processor


def find_model(name: str) -> str:
    """What `from_pretrained` takes for a model's name: a folder by its whole path, so that an adapter can save it.

    Raises:
        ValueError: if there is no such folder, it holds no model, or the name cannot be one of the Hub.
    """
    if name == DEMO:
        return MODEL_PATH
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"The folder {name!r} holds no model: there is no config.json in it.")
        return os.path.abspath(folder)
    if folder.is_file():
        raise ValueError(f"The model must be {ACCEPTED}, got the file {name!r}.")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(f"There is no folder {name!r}. The model must be {ACCEPTED}.") from None
    return name


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of this name; None: the GPU if there is one.

    Raises:
        ValueError: if there is none.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: of a torch without CUDA
        reason = str(error).strip().partition("\n")[0].partition("; ")[0]
        raise ValueError(
            f"The device must be one that torch can use here, such as cpu, got {str(name)!r}: {reason}"
        ) from error
    return device


def _hint(path: str) -> str:
    """What may be wrong with a name that was looked for on the Hub."""
    if os.path.isdir(path):
        return ""
    return " (there is no folder of this name, so it was looked for on the Hub)"
