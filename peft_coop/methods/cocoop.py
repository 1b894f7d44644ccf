"""CoCoOp (arXiv:2203.05557): CoOp's context vectors, shifted by what a small network sees in each image."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..recipes import CONTEXT_WORDS, Recipe
from ..towers import projection_dim
from .base import Method
from .context import ContextPrompt
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


class CoCoOpPrompt(ContextPrompt):
    """Context vectors that a Meta-Net shifts by each image: `ctx + linear2(relu(linear1(image)))`.

    Shapes: B images, V vectors (M, or C*M when class-specific), D text width, P projection width.

    Reference: CoCoOp (arXiv:2203.05557); the added vector is the paper's pi.
    """

    needs_images = True

    def __init__(self, config: CoOpConfig, model: nn.Module):
        super().__init__(config, model)
        width = projection_dim(model)
        hidden_units = width // config.meta_net_reduction
        if hidden_units < 1:
            raise ValueError(
                f"`meta_net_reduction={config.meta_net_reduction}` leaves the Meta-Net no hidden unit: this model's "
                f"projection has {width} dimensions, so it can be {width} at most."
            )
        self.meta_net_linear1 = nn.Linear(width, hidden_units)
        self.meta_net_linear2 = nn.Linear(hidden_units, self.ctx.shape[-1])

    def vectors(self, image_embeds: Tensor | None = None) -> Tensor:
        """See `Prompt.vectors`: `[B, V, D]`.

        Args:
            image_embeds: `[B, P]`, L2-normalised, as the original feeds its Meta-Net.

        Raises:
            ValueError: if there are none.
        """
        if image_embeds is None:
            raise ValueError("The context of this adapter depends on the image: give `image_embeds`.")
        hidden = torch.relu(self.meta_net_linear1(image_embeds.to(self.meta_net_linear1.weight)))
        meta_token = self.meta_net_linear2(hidden)  # [B, D]
        return self.ctx.flatten(0, -2) + meta_token[:, None]


COCOOP = Method(
    key="cocoop",
    title="CoCoOp",
    config=CoCoOpConfig,
    prompt=CoCoOpPrompt,
    reference="2203.05557",
    recipe_of=lambda num_shots, data, protocol: Recipe(10, batch_size=1),
    fields_of=lambda protocol: {"n_ctx": None, "ctx_init": CONTEXT_WORDS},
    summary="that each image shifts",
    settings=(),
    colour="#d55e00",
)
