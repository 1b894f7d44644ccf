"""KgCoOp (arXiv:2303.13283): CoOp whose class texts are held near those of a hand-written prompt."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..recipes import CONTEXT_WORDS, Recipe
from .base import LossTerm, Method, Step
from .config import check_number
from .context import ContextConfig, ContextPrompt


@dataclass(eq=False)
class KgCoOpConfig(ContextConfig):
    """Settings of KgCoOp: CoOp with a further term of the loss, the distance to a hand-written prompt.

    Args:
        kg_weight: what the distance is multiplied by in the loss; 0 reports it and does not add it.
        zero_shot_template: the hand-written prompt, and the prompt while the adapter is disabled.

    Others as `ContextConfig`; the context starts from "a photo of a", and a longer one needs `ctx_init=None`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: KgCoOp (arXiv:2303.13283), whose lambda is `kg_weight`.
    """

    ctx_init: str | None = field(
        default=CONTEXT_WORDS,
        metadata={"help": "Words whose token embeddings start the vectors; None: Gaussian, std 0.02."},
    )
    kg_weight: float = field(
        default=8.0, metadata={"help": "Weight of the distance to `zero_shot_template` in the loss."}
    )

    method = "kgcoop"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kg_weight = check_number(self.kg_weight, "kg_weight")


class KgCoOpPrompt(ContextPrompt):
    """CoOp's context vectors; in training, the frozen model's texts hold the learned ones near them.

    Reference: KgCoOp (arXiv:2303.13283).
    """

    settings: KgCoOpConfig

    def extra_losses(self, step: Step) -> dict[str, LossTerm]:
        """See `Prompt.extra_losses`: "kg", see `distance_to_hand_written`."""
        return {"kg": LossTerm(distance_to_hand_written(step), self.settings.kg_weight)}


def distance_to_hand_written(step: Step) -> Tensor:
    """The mean over classes of 1 - cos(learned text, hand-written text), a scalar.

    The squared Euclidean distance of the paper is twice that between unit vectors; its code has this one.
    """
    cosines = (step.text_embeds * step.zero_shot_text_embeds()).sum(dim=-1)  # [C]
    return 1 - cosines.mean()


KGCOOP = Method(
    key="kgcoop",
    title="KgCoOp",
    config=KgCoOpConfig,
    prompt=KgCoOpPrompt,
    reference="2303.13283",
    recipe_of=lambda num_shots, data, protocol: Recipe(100, batch_size=128),
    fields_of=lambda protocol: {"n_ctx": None, "ctx_init": CONTEXT_WORDS},
    summary="held near a hand-written prompt",
    settings=("kg_weight",),
    colour="#740aff",
)
