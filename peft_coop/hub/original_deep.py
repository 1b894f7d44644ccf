"""Checkpoints of the code of the methods that prompt both towers: of the whole model, of which what was learned counts.

They are written by github.com/muzairkhattak/multimodal-prompt-learning and what is built on it. It loads them with what
is missing left as it is, so that a file with what was learned is enough for the way back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from peft import get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn

from ..methods import METHODS, PromptConfig
from ..methods.deep_context import words_behind
from ..prompts import find_tokenizer
from ..towers import find_family
from .original_file import OriginalCheckpoint, load_state
from .original_names import matching_token_embedding, recover_class_names

# Ours, and theirs; "{}" is the number of a layer's prompt, which theirs counts from the number behind it on.
TEXT = {"ctx": "prompt_learner.ctx"}
VISION = {
    "vision_ctx": "image_encoder.VPT",
    "deep_vision_ctx.{}": ("image_encoder.transformer.resblocks.{}.VPT_shallow", 1),
}
BOTH = {**TEXT, "deep_ctx.{}": ("text_encoder.transformer.resblocks.{}.VPT_shallow", 1), **VISION}
NAMES: dict[str, dict[str, Any]] = {
    "maple": {
        **TEXT,
        **{f"projection.{part}": f"prompt_learner.proj.{part}" for part in ("weight", "bias")},
        "deep_ctx.{}": ("prompt_learner.compound_prompts_text.{}", 0),
        **{
            f"deep_projections.{{}}.{part}": (f"prompt_learner.compound_prompt_projections.{{}}.{part}", 0)
            for part in ("weight", "bias")
        },
    },
    "ivlp": BOTH,
    "promptsrc": BOTH,  # its files hold a second image tower, which is the frozen one
    "vpt": VISION,
}
# What their code reads classes with where no vector stands among the words.
TEMPLATE = "a photo of a {}."


def learned_tensors(tensors: Mapping[str, Any], method: str) -> dict[str, Tensor]:
    """What was learned of a file's tensors, by our names and in float32."""
    found = {}
    for ours, theirs in NAMES[method].items():
        pattern, shift = (theirs, 0) if isinstance(theirs, str) else theirs
        matcher = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
        for key, value in tensors.items():
            if match := matcher.fullmatch(key):
                number = [int(each) - shift for each in match.groups()]
                found[ours.format(*number)] = value.detach().float()
    return found


def original_name(ours: str, method: str) -> str:
    """Their name of what is called `ours` here."""
    number = re.search(r"\.(\d+)", ours)
    theirs = NAMES[method][ours if number is None else ours.replace(number[0], ".{}", 1)]
    pattern, shift = (theirs, 0) if isinstance(theirs, str) else theirs
    return pattern if number is None else pattern.format(int(number[1]) + shift)


def convert_deep(
    path: str | os.PathLike,
    model: nn.Module,
    output_dir: str | os.PathLike,
    method: str,
    class_names: Sequence[str] | None,
    class_template: str | None,
    given: Mapping[str, Any],
) -> PromptConfig:
    """See `convert_original`, for one of `NAMES`.

    Raises:
        ValueError: if the file is of another method or model, or tells no classes and none are given.
    """
    path = Path(path)
    tensors, epoch = load_state(path)
    learned = learned_tensors(tensors, method)
    _check_learned(learned, path, method)
    settings = dict(given)
    fields = METHODS[method].config.__dataclass_fields__
    if "ctx" in learned:
        n_ctx = len(learned["ctx"])
        template = words_behind(n_ctx) if class_template is None else class_template
        parts = (tensors.get(f"prompt_learner.token_{part}") for part in ("prefix", "suffix"))
        prefix, suffix = (None if part is None else part.float() for part in parts)
        checkpoint = OriginalCheckpoint(path, learned["ctx"], prefix, suffix, None, epoch)
        matching_token_embedding(checkpoint, model)
        settings |= {"n_ctx": n_ctx, "class_template": template, "prompt_depth": 1 + _count(learned, "deep_ctx")}
        if class_names is None:
            tokenizer = find_tokenizer(given.get("tokenizer_name_or_path"), getattr(model, "name_or_path", None))
            class_names = recover_class_names(checkpoint, model, tokenizer, template)
    elif class_names is None:
        raise ValueError(f"{path} does not tell its classes: give `class_names`.")
    if "n_ctx_vision" in fields:
        count = len(learned["vision_ctx"]) if "vision_ctx" in learned else 0
        depth = 1 + _count(learned, "deep_vision_ctx") if count else 0
        settings |= {"n_ctx_vision": count, "prompt_depth_vision": depth}
    config = METHODS[method].config(class_names=list(class_names), **settings)
    adapter = get_peft_model(deepcopy(model), config)
    prefix_of_keys = f"base_model.model.{find_family(model).embeddings}.{config.peft_type.value.lower()}_"
    set_peft_model_state_dict(adapter, {prefix_of_keys + name: value for name, value in learned.items()})
    adapter.save_pretrained(output_dir)
    return config


def _check_learned(learned: Mapping[str, Tensor], path: Path, method: str) -> None:
    """Check that a file holds what the method has at least, and numbers.

    Raises:
        ValueError: if it does not.
    """
    needed = [ours for ours, theirs in NAMES[method].items() if isinstance(theirs, str)]
    if NAMES[method] is BOTH:
        needed = list(TEXT)  # the vision tower's may be none
    missing = [original_name(name, method) for name in needed if name not in learned]
    if missing:
        raise ValueError(f"{path} is no checkpoint of {METHODS[method].title}: it has no {', '.join(missing)}.")
    for name, value in learned.items():
        if not value.isfinite().all():
            raise ValueError(
                f"{path}: `{original_name(name, method)}` holds numbers that are not finite: the training that wrote "
                "it diverged."
            )


def _count(learned: Mapping[str, Tensor], name: str) -> int:
    return sum(key.startswith(f"{name}.") for key in learned)


def check_deep_exportable(config: Any) -> None:
    """Check that the method's own code can have such a prompt.

    Raises:
        ValueError: if it cannot.
    """
    title, written = METHODS[config.method].title, config.templates
    if hasattr(config, "class_template") and config.class_template != words_behind(config.n_ctx):
        raise ValueError(
            f"The original's {title} has {words_behind(config.n_ctx)!r} behind {config.n_ctx} vectors, and this "
            f"adapter {config.class_template!r}: it cannot be exported."
        )
    if not hasattr(config, "class_template") and written != (TEMPLATE,):
        raise ValueError(
            f"The original's {title} reads classes with {TEMPLATE!r}, and this adapter with {', '.join(written)}: it "
            "cannot be exported."
        )


def deep_state(learned: Mapping[str, Tensor], config: PromptConfig) -> dict[str, Tensor]:
    """What was learned by their names.

    Args:
        learned: by the names in an adapter's file, from the method's prefix on.
        config: the adapter's.
    """
    prefix = f"{config.peft_type.value.lower()}_"
    return {original_name(key.removeprefix(prefix), config.method): value for key, value in learned.items()}
