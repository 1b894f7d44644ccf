"""What is particular to checkpoints of TCP's own code, which has the texts of its datasets written down.

A file does not say which dataset it is of, but it shows what stands behind the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..prompts import PromptTokenizer
from .original_file import OriginalCheckpoint

N_CTX = 4
META_NET_REDUCTION = 4
REPLACED_LAYER = 8
# What stands behind the vectors, and the hand-written prompts that the classes' vectors were made of.
TEMPLATES = {
    "{}, a type of pet.": "a photo of a {}, a type of pet.",
    "{}, a type of flower.": "a photo of a {}, a type of flower.",
    "{}, a type of aircraft.": "a photo of an aircraft {}.",
    "{}, a type of food.": "a photo of a {}, a type of food.",
    "{}, a type of car": "a photo of a {}.",
    "{} texture.": "a photo of a {}, a type of texture.",
    "person doing {}.": "a photo of a person doing {}.",
}
PLAIN = "{}."
OF_PLAIN = ("a photo of a {}.", "a centered satellite photo of {}.")  # EuroSAT has the second


def settle_class_template(names: Sequence[Sequence[int]], tokenizer: PromptTokenizer) -> str:
    """The fixed text that all prompts of a file have: one of TCP's, or a full stop.

    Args:
        names: the tokens of every class's name, and of what stands around it; none where the file has none.
        tokenizer: the model's.
    """
    for template in TEMPLATES:
        before, after = (tokenizer.encode([part.strip()])[0] if part else [] for part in template.split("{}"))
        n_around = len(before) + len(after)
        if names and all(
            len(ids) > n_around and list(ids[: len(before)]) == before and list(ids[len(ids) - len(after) :]) == after
            for ids in names
        ):
            return template
    return PLAIN


def settle_zero_shot_template(given: str | None, class_template: str, checkpoint: OriginalCheckpoint) -> str:
    """The hand-written prompt that the classes' vectors were made of.

    Raises:
        ValueError: if it is not given, and `class_template` does not tell.
    """
    if given is None and class_template not in TEMPLATES:
        raise ValueError(
            f"{checkpoint.path} does not tell the hand-written prompt that its classes' vectors are made of: give "
            f"`zero_shot_template`, which is {OF_PLAIN[1]!r} for EuroSAT and {OF_PLAIN[0]!r} for the other datasets "
            f"that have {PLAIN!r} behind the vectors."
        )
    return TEMPLATES[class_template] if given is None else given


def what_tcp_cannot_have(config: Any) -> dict[str, bool]:
    """What TCP's own code does not have, and whether an adapter has it."""
    return {
        f"{config.n_ctx} vectors": config.n_ctx != N_CTX,
        f"vectors of the classes before layer {config.replaced_layer}": config.replaced_layer != REPLACED_LAYER,
        "vectors made of several hand-written prompts": len(config.templates) > 1,
    }
