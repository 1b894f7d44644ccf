"""CoCoOp (arXiv:2203.05557): CoOp's context vectors, shifted by what a small network sees in each image."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..recipes import CONTEXT_WORDS, Recipe
from .base import Method
from .coop import CoOpConfig


@dataclass(eq=False)
class CoCoOpConfig(CoOpConfig):
    """Settings of CoCoOp: CoOp whose context is shifted by each image. Saved, it loads as the equal `CoOpConfig`.

    Reference: CoCoOp (arXiv:2203.05557).
    """

    n_ctx: int | None = field(default=4, metadata={"help": "Context vectors per prompt (M in the paper)."})
    ctx_init: str | None = field(
        default="a photo of a", metadata={"help": "Words whose token embeddings start the vectors; None: Gaussian."}
    )
    meta_net: bool = field(default=True, metadata={"help": "Shift the context by each image."})


COCOOP = Method(
    key="cocoop",
    title="CoCoOp",
    config=CoCoOpConfig,
    reference="2203.05557",
    recipe_of=lambda num_shots, data, protocol: Recipe(10, batch_size=1),
    fields_of=lambda protocol: {"n_ctx": None, "ctx_init": CONTEXT_WORDS},
    summary="that each image shifts",
    colour="#d55e00",
)
