"""What several commands share: options, and the models and data that they name."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel

    from ..data import ImageData
    from ..evaluation import FrozenCLIP, PromptLearning

DEMO = "demo"
# What `peft_coop.recipes.paper_context` gives.
CONTEXT = (
    "as in the papers: 16 random ones for CoOp; 4 from 'a photo of a' for CoCoOp, and for CoOp on other classes or data"
)
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def add_model(parser: argparse.ArgumentParser, default: str | None = DEMO) -> None:
    """`--model`."""
    told = f"default: {default}" if default else "default: the one that the adapter was learned for"
    parser.add_argument("--model", default=default, help=f"Hub name or folder of a CLIP, or 'demo' ({told})")


def add_data(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """`--data`, and `--skip-corrupt`."""
    text = "folder:PATH, hub:NAME, coop:NAME@DATA, demo:digits or demo:shapes"
    if several:
        parser.add_argument("--data", nargs="+", required=True, help=f"{text}; several are run one after the other")
    else:
        parser.add_argument("--data", required=True, help=text)
    parser.add_argument("--skip-corrupt", action="store_true", help="leave images out that cannot be read")


def add_context(parser: argparse.ArgumentParser) -> None:
    """The prompt's fields."""
    group = parser.add_argument_group("prompt")
    group.add_argument("--n-ctx", type=int, help=f"context vectors (default: {CONTEXT})")
    group.add_argument("--ctx-init", help="words that the vectors start from, as many as their tokens")
    group.add_argument(
        "--position", default="end", choices=("end", "middle", "front"), help="where the class name stands"
    )
    group.add_argument("--class-specific", action="store_true", help="a context of its own for every class")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The training's settings; what is not given is the papers'."""
    group = parser.add_argument_group("training (default: the papers' settings)")
    group.add_argument("--epochs", type=int, help="passes over the images (50 to 200 by shots; CoCoOp: 10)")
    group.add_argument("--batch-size", type=int, help="images per step (32; CoCoOp: 1)")
    group.add_argument(
        "--learning-rate",
        type=float,
        help="where the cosine starts (0.002; with the demo's CLIP 0.02; the fine-tuned image encoder has its own)",
    )
    group.add_argument(
        "--augment", action="store_true", help="random crops and flips, as in the papers, instead of fixed features"
    )
    group.add_argument("--no-flip", action="store_true", help="with --augment: never mirror an image")
    group.add_argument("--workers", type=int, default=0, help="with --augment: processes that load images")


def load_clip(name: str) -> FrozenCLIP:
    """See `FrozenCLIP.from_pretrained`; the tiny CLIP gets one thread."""
    import torch

    from ..evaluation import FrozenCLIP

    clip = FrozenCLIP.from_pretrained(name)
    if clip.name == DEMO:
        torch.set_num_threads(1)  # it is too small to share out: threads that wait for each other cost more
    return clip


def load_adapter(adapter: str, model: str | None) -> tuple[PeftModel, FrozenCLIP]:
    """A saved adapter on its base model, or on `model`, and the base model with its processor.

    Raises:
        ValueError: if there is no such adapter, or it does not say what it was learned for.
    """
    from peft import PeftConfig, PeftModel

    from ..configs import CoOpConfig

    folder = Path(adapter)
    if folder.is_dir() and not any((folder / name).exists() for name in WEIGHTS):
        raise ValueError(f"The folder {adapter!r} holds no adapter: none of {', '.join(WEIGHTS)}.")
    try:
        config = PeftConfig.from_pretrained(adapter)
    except KeyError as error:
        raise ValueError(f"The adapter {adapter!r} is of the method {error}, which is not known here.") from error
    if not isinstance(config, CoOpConfig):
        raise ValueError(f"The adapter {adapter!r} is no prompt, but of the method {config.peft_type!s}.")
    name = model or config.base_model_name_or_path
    if not name:
        raise ValueError(f"The adapter {adapter!r} does not say which model it is for: give --model.")
    if model is None and Path(name).is_absolute() and not Path(name).exists():
        raise ValueError(f"The adapter {adapter!r} is for {name!r}, which is not on this machine: give --model.")
    clip = load_clip(name)
    return PeftModel.from_pretrained(clip.model, adapter).eval(), clip


def load_images(source: str, options: argparse.Namespace) -> ImageData:
    """The images of a `--data` argument; what was read is told."""
    from ..data import load_data

    data = load_data(source, skip_corrupt=options.skip_corrupt)
    for line in data.summary.lines():
        say(line)
    return data


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the options change in the papers' recipe; what they leave open is the demo's where its CLIP is trained."""
    from .. import demo

    changes: dict[str, Any] = {"num_epochs": options.epochs, "batch_size": options.batch_size}
    changes["learning_rate"] = options.learning_rate
    if options.model == DEMO and options.learning_rate is None:
        changes["learning_rate"] = demo.LEARNING_RATE
    return {name: value for name, value in changes.items() if value is not None}


def context_of(options: argparse.Namespace) -> dict[str, Any]:
    """The prompt's fields as the config of a method takes them; what the options leave open is the papers'."""
    context: dict[str, Any] = {"class_token_position": options.position}
    if options.class_specific:
        context["class_specific_context"] = True
    if options.n_ctx is not None or options.ctx_init is not None:
        context.update(n_ctx=options.n_ctx, ctx_init=options.ctx_init)
    return context


def make_prompt_learning(key: str, options: argparse.Namespace, data: ImageData) -> PromptLearning:
    """The method that the options describe.

    Args:
        key: "coop" or "cocoop".
        options: with those of `add_context` and `add_recipe`.
        data: what is learned from.

    Raises:
        ValueError: if they contradict each other.
    """
    from ..evaluation import PromptLearning

    context, recipe = context_of(options), recipe_of(options)
    flip = data.flip and not options.no_flip
    return PromptLearning(key, context, recipe, data.name, options.augment, flip, options.workers)


def quieten() -> None:
    """Keep library chatter out of a command's output; this process is the user's, not an import."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()  # of loading weights
    warnings.filterwarnings("ignore")


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"> {text}", file=sys.stderr, flush=True)


def percent(fraction: float) -> str:
    """A fraction as a number of percent."""
    return f"{100 * fraction:.1f}"
