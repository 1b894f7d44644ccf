"""TCP (arXiv:2311.18231): from a middle layer on, each class has context vectors made of what it means."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..prompts import PromptSequences, check_template
from ..recipes import Recipe
from ..towers import DeepVectors, projection_dim, text_layers
from .base import LossTerm, Method, Step
from .config import PromptConfig, check_count, check_number
from .context import ContextPrompt, check_words
from .kgcoop import distance_to_hand_written

REPLACED_LAYER = 8
QUICK_GELU = 1.702


@dataclass(eq=False)
class TCPConfig(PromptConfig):
    """Settings of TCP: context vectors, and before one layer others, made of each class's hand-written prompt.

    Args:
        n_ctx: number of context vectors, M; None takes as many as `ctx_init` has tokens.
        ctx_init: words whose token embeddings start the vectors; None: Gaussian, standard deviation 0.02.
        class_template: the fixed text behind the context, with "{}" for the name, tokenised as one text.
        replaced_layer: before which layer of the text tower, counted from 0, each class's own vectors take the place of
            the context's hidden states. None: 8, or the last layer of a tower that has fewer, with a warning.
        kg_weight: what the distance to the hand-written prompt is multiplied by in the loss; 0 reports it and does not
            add it.
        meta_net_reduction: the network that makes a class's vectors has `projection_dim // meta_net_reduction` hidden
            units.
        zero_shot_template: the hand-written prompt, of which the classes' vectors are made, and the prompt while the
            adapter is disabled.

    Others as `PromptConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: TCP (arXiv:2311.18231), whose weight omega is `kg_weight`.
    """

    n_ctx: int | None = field(default=4, metadata={"help": "Context vectors, and vectors of each class."})
    ctx_init: str | None = field(
        default=None, metadata={"help": "Words whose token embeddings start the vectors; None: Gaussian, std 0.02."}
    )
    class_template: str = field(
        default="{}.", metadata={"help": "The fixed text behind the context, {} for the name, tokenised as one text."}
    )
    replaced_layer: int | None = field(
        default=None, metadata={"help": "The layer before which each class has vectors of its own; None: 8."}
    )
    kg_weight: float = field(
        default=8.0, metadata={"help": "Weight of the distance to `zero_shot_template` in the loss."}
    )
    meta_net_reduction: int = field(
        default=4, metadata={"help": "The network's hidden units are projection_dim // meta_net_reduction."}
    )

    method = "tcp"
    # As the paper has it: the vectors stand in front of the names, and all classes share those at the embeddings.
    class_token_position: ClassVar[str] = "end"
    class_specific_context: ClassVar[bool] = False
    shaping: ClassVar[tuple[str, ...]] = ("class_template", "replaced_layer", "zero_shot_template")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_ctx is None and self.ctx_init is None:
            self.n_ctx = type(self).n_ctx
        self.n_ctx = None if self.n_ctx is None else check_count(self.n_ctx, "n_ctx")
        check_words(self.ctx_init)
        check_template(self.class_template, "`class_template`", "{}, a type of pet.")
        if self.replaced_layer is not None:
            self.replaced_layer = check_count(self.replaced_layer, "replaced_layer")
        self.kg_weight = check_number(self.kg_weight, "kg_weight")
        self.meta_net_reduction = check_count(self.meta_net_reduction, "meta_net_reduction")


class TCPPrompt(ContextPrompt):
    """Context vectors, and a network that makes each class's own of its hand-written prompt's features.

    Shapes: C classes, M context vectors, D text width, P projection width.

    Attributes:
        ctx: `[M, D]`.
        meta_net_linear1: P to the hidden units.
        meta_net_linear2: the hidden units to M*D.

    Reference: TCP (arXiv:2311.18231).
    """

    settings: Any
    has_class_vectors = True

    def __init__(self, config: TCPConfig, model: nn.Module):
        super().__init__(config, model)
        config.replaced_layer = settle_layer(config.replaced_layer, len(text_layers(model)))
        width, hidden_units = projection_dim(model), projection_dim(model) // config.meta_net_reduction
        if hidden_units < 1:
            raise ValueError(
                f"`meta_net_reduction={config.meta_net_reduction}` leaves the network no hidden unit: this model's "
                f"projection has {width} dimensions, so it can be {width} at most."
            )
        self.meta_net_linear1 = nn.Linear(width, hidden_units)
        self.meta_net_linear2 = nn.Linear(hidden_units, self.ctx.numel())

    def sequences(self, class_names: Sequence[str]) -> PromptSequences:
        """See `Prompt.sequences`: `BOS context name . EOS`."""
        return replace(super().sequences(class_names), parts=True)

    def given_texts(self, input_ids: Tensor) -> PromptSequences:
        """See `Prompt.given_texts`; the vectors are made of the texts as they are given."""
        return replace(super().given_texts(input_ids), parts=True)

    def class_vectors(self, zero_shot: Tensor) -> DeepVectors:
        """See `Prompt.class_vectors`."""
        hidden = self.meta_net_linear1(zero_shot.to(self.meta_net_linear1.weight))
        hidden = hidden * torch.sigmoid(QUICK_GELU * hidden)
        return {self.settings.replaced_layer: self.meta_net_linear2(hidden).unflatten(-1, self.ctx.shape)}

    def extra_losses(self, step: Step) -> dict[str, LossTerm]:
        """See `Prompt.extra_losses`: "kg", as KgCoOp's."""
        return {"kg": LossTerm(distance_to_hand_written(step), self.settings.kg_weight)}


def settle_layer(given: int | None, n_layers: int) -> int:
    """The layer before which the classes' vectors stand.

    Args:
        given: the setting.
        n_layers: of the text tower.

    Raises:
        ValueError: if the tower has no such layer.
    """
    if given is not None and given >= n_layers:
        raise ValueError(
            f"`replaced_layer={given}` is none of this text tower's {n_layers} layers, which count from 0: it can be "
            f"{n_layers - 1} at most."
        )
    if n_layers < 2:
        raise ValueError("TCP needs a text tower of two layers or more: it replaces what stands between them.")
    if given is None and n_layers <= REPLACED_LAYER:
        warnings.warn(
            f"This text tower has {n_layers} layers, and TCP's own `replaced_layer` is {REPLACED_LAYER}: the classes' "
            f"vectors stand before the last one, {n_layers - 1}.",
            stacklevel=2,
        )
    return min(REPLACED_LAYER, n_layers - 1) if given is None else given


def recipe(num_shots: int, data: str | None, protocol: str) -> Recipe:
    """Adam with a large epsilon, 50 epochs (ImageNet and SUN397: 25), batches of 32."""
    num_epochs = 25 if data in ("imagenet", "sun397") else 50
    return Recipe(num_epochs, batch_size=32, optimizer="adam", eps=1e-3)


TCP = Method(
    key="tcp",
    title="TCP",
    config=TCPConfig,
    prompt=TCPPrompt,
    reference="2311.18231",
    recipe_of=recipe,
    summary="and a network that makes others of each class's meaning",
    settings=("replaced_layer", "kg_weight"),
    colour="#b8479c",
)
