"""The models, adapters and images that the options name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .messages import say
from .options import DEMO

if TYPE_CHECKING:
    from peft import PeftModel

    from ..data import CompositionData, ImageData
    from ..evaluation import FrozenCLIP

Data = TypeVar("Data")
CONFIG = "adapter_config.json"
# What has a class, by PEFT's name of the task.
CLASSIFIED = {"IMAGE_CLS": "whole images", "VIDEO_CLS": "videos", "SEMANTIC_SEG": "the pixels of images"}
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TEMPLATE_WITH_ADAPTER = "--template is for zero-shot CLIP, and --adapter has a prompt of its own: leave one out."


def load_clip(name: str, options: argparse.Namespace, revision: str | None = None) -> FrozenCLIP:
    """See `FrozenCLIP.from_pretrained`; the tiny CLIP gets one thread."""
    import torch

    from ..evaluation import FrozenCLIP

    clip = FrozenCLIP.from_pretrained(name, options.device, options.dtype, options.eval_batch_size, revision)
    if clip.name == DEMO:
        torch.set_num_threads(1)  # it is too small to share out: threads that wait for each other cost more
    return clip


def load_adapter(adapter: str, options: argparse.Namespace) -> tuple[PeftModel, FrozenCLIP]:
    """A saved adapter on its base model, or on `--model`, and the base model with its processor.

    Raises:
        ValueError: if there is no such adapter, or it does not say what it was learned for.
    """
    from peft import PeftConfig, PeftModel

    from ..methods import PromptConfig
    from ..methods.config import raise_if_unregistered
    from ..peft_model import adapters_beside

    model, folder = options.model, Path(adapter)
    if folder.is_dir() and not any((folder / name).exists() for name in WEIGHTS):
        raise ValueError(f"The folder {adapter!r} holds no adapter: none of {', '.join(WEIGHTS)}.")
    try:
        config = PeftConfig.from_pretrained(adapter)
    except KeyError as error:
        raise_if_unregistered(error, adapter)
        raise
    except (OSError, ValueError) as error:
        if folder.is_dir():
            raise
        raise ValueError(
            f"There is no adapter {adapter!r}: no folder of this name, and none that can be had from the Hub ({error})."
        ) from error
    if not isinstance(config, PromptConfig):
        raise ValueError(f"The adapter {adapter!r} is no prompt, but of the method {config.peft_type!s}.")
    name = config.base_model_name_or_path if model is None else model
    if not name:
        raise ValueError(f"The adapter {adapter!r} does not say which model it is for: give --model.")
    if model is None and Path(name).is_absolute() and not Path(name).exists():
        raise ValueError(f"The adapter {adapter!r} is for {name!r}, which is not on this machine: give --model.")
    clip = load_clip(name, options, config.revision if model is None else None)
    loaded = PeftModel.from_pretrained(clip.model, adapter)
    for name, place in adapters_beside(adapter).items():
        loaded.load_adapter(place, name)
        say(f"with the adapter in {place}, which was saved with the prompt")
    return loaded.eval(), clip


def load_images(source: str, options: argparse.Namespace) -> ImageData:
    """The images of a `--data` argument, with the prompt of `--template` if that is given; what was read is told."""
    from ..data import load_data

    data = _loaded(load_data, source, options)
    if getattr(options, "template", None) is not None:
        data = replace(data, zero_shot_template=checked_template(options.template))
    tell_summary(data)
    return data


def tell_summary(data: Any) -> None:
    """Tell what was read.

    Args:
        data: with a `summary` that has `lines`.
    """
    for line in data.summary.lines():
        say(line)


def check_task(model: PeftModel, task: str, adapter: str) -> None:
    """Check what an adapter classifies.

    Args:
        model: with the adapter.
        task: PEFT's name of what is asked for, such as "IMAGE_CLS".
        adapter: its folder or Hub name, for the error.

    Raises:
        ValueError: if it is of another task.
    """
    own = model.get_base_model().prompt_layer.prompt.task_head.task_type
    if own != task:
        raise ValueError(f"The adapter {adapter!r} is for {CLASSIFIED[own]}, and not for {CLASSIFIED[task]}.")


def load_pairs(source: str, options: argparse.Namespace) -> CompositionData:
    """The images of compositions of a `--data` argument; what was read is told."""
    from ..data import load_compositions

    data = _loaded(load_compositions, source, options)
    tell_summary(data)
    return data


def _loaded(load: Callable[..., Data], source: str, options: argparse.Namespace) -> Data:
    from datasets import disable_progress_bars, enable_progress_bars

    if not options.quiet:
        enable_progress_bars()  # of downloads, which may be long
    try:
        return load(source, skip_corrupt=options.skip_corrupt)
    finally:
        disable_progress_bars()


def tell_shots(data: ImageData, shots: int | Sequence[int] | None) -> None:
    """Tell where classes have fewer training images than are asked for.

    Args:
        data: what is learned from.
        shots: one number of images per class or several; None for all.
    """
    train = data.summary.splits["train"]
    asked = [shots] if isinstance(shots, int) else sorted(shots or [])
    for number in asked:
        if 0 < train.fewest < number:
            have = f"{train.most}" if train.fewest == train.most else f"{train.fewest} to {train.most}"
            most = "all of them" if train.most <= number else f"{number} where there are so many"
            say(f"{data.name} has {have} training images a class: {number} shots take {most}")


def checked_template(template: str) -> str:
    """The zero-shot prompt of `--template`.

    Raises:
        ValueError: if "{}" does not stand in it once.
    """
    if template.count("{}") != 1:
        raise ValueError(f"--template must hold the class name's place, {{}}, once, got {template!r}.")
    return template
