"""IVLP (arXiv:2212.03640): vectors of their own in the text tower and in the vision tower, at many layers of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from ..recipes import Recipe
from ..towers import DeepVectors, text_layers, vision_layers
from .base import Method
from .config import check_count
from .deep_context import DeepContextConfig, DeepContextPrompt, random_rows, settle_depth, vision_width

DEPTH = 12


@dataclass(eq=False)
class IVLPConfig(DeepContextConfig):
    """Settings of IVLP: independent prompts of the text tower and of the vision tower.

    With `n_ctx_vision=0` the text tower alone has prompts, and features of images that were computed before can be
    given.

    Args:
        n_ctx: number of context vectors at each layer of the text tower.
        prompt_depth: layers of the text tower with vectors of their own, the embeddings included; None: 12, or as many
            as it has.
        n_ctx_vision: number of vectors among an image's tokens; 0 for none.
        prompt_depth_vision: layers of the vision tower with vectors of their own, the first included; None: 12, or as
            many as it has; 0 with `n_ctx_vision=0`.

    Others as `DeepContextConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: ViFi-CLIP (arXiv:2212.03640) for videos; for images the code of MaPLe (arXiv:2210.03117).
    """

    n_ctx_vision: int = field(
        default=2, metadata={"help": "Vectors among an image's tokens; 0: the text tower alone has prompts."}
    )
    prompt_depth_vision: int | None = field(
        default=None, metadata={"help": "Layers of the vision tower with vectors of their own; None: the paper's."}
    )

    method = "ivlp"
    depth: ClassVar[int] = DEPTH  # the paper's

    def __post_init__(self) -> None:
        super().__post_init__()
        n_ctx, depth = self.n_ctx_vision, self.prompt_depth_vision
        if is_zero(n_ctx) and (depth is None or is_zero(depth)):
            self.n_ctx_vision = 0
            self.prompt_depth_vision = 0
            return
        if is_zero(n_ctx) or is_zero(depth):
            raise ValueError(
                "Either both or none of `n_ctx_vision` and `prompt_depth_vision` are 0, for prompts in the text tower "
                f"alone; got {n_ctx!r} and {depth!r}. A depth of 1 is the first layer alone."
            )
        self.n_ctx_vision = check_count(n_ctx, "n_ctx_vision")
        self.prompt_depth_vision = None if depth is None else check_count(depth, "prompt_depth_vision")

    @property
    def changes_vision(self) -> bool:
        """Whether the vision tower has prompts, too."""
        return self.n_ctx_vision > 0


def is_zero(value: Any) -> bool:
    """Whether a setting is the number 0."""
    return not isinstance(value, bool) and value == 0


class IVLPPrompt(DeepContextPrompt):
    """Vectors at the first layers of the text tower, and others at those of the vision tower.

    Shapes: M context vectors, D text width, n vectors of the vision tower, W its width.

    Attributes:
        ctx: `[M, D]`, at the embeddings.
        deep_ctx: entry i `[M, D]`, before layer i + 1 of the text tower.
        vision_ctx: `[n, W]`, behind an image's tokens; like the next, only where the vision tower has prompts.
        deep_vision_ctx: entry i `[n, W]`, before layer i + 1 of the vision tower.

    Reference: ViFi-CLIP (arXiv:2212.03640).
    """

    settings: IVLPConfig

    def __init__(self, config: IVLPConfig, model: nn.Module):
        super().__init__(config, model)
        n_layers = len(text_layers(model))
        config.prompt_depth = settle_depth(
            config.prompt_depth, config.depth, n_layers, "prompt_depth", "this text tower"
        )
        rows = (random_rows(self.n_ctx, self.ctx.shape[1]) for _ in range(1, config.prompt_depth))
        self.deep_ctx = nn.ParameterList(rows)
        if not config.changes_vision:
            return
        n_layers = len(vision_layers(model))
        config.prompt_depth_vision = settle_depth(
            config.prompt_depth_vision, config.depth, n_layers, "prompt_depth_vision", "this vision tower"
        )
        self.vision_ctx, *deep = vision_rows(config.n_ctx_vision, config.prompt_depth_vision, model)
        self.deep_vision_ctx = nn.ParameterList(deep)

    def deep_vectors(self) -> DeepVectors:
        """See `Prompt.deep_vectors`."""
        return dict(enumerate(self.deep_ctx, start=1))

    def vision_vectors(self) -> Sequence[Tensor]:
        """See `Prompt.vision_vectors`."""
        return (self.vision_ctx, *self.deep_vision_ctx) if self.settings.changes_vision else ()


def vision_rows(count: int, depth: int, model: nn.Module) -> list[nn.Parameter]:
    """Vectors of the vision tower that start at random, `[count, W]` for each of its first layers."""
    return [random_rows(count, vision_width(model)) for _ in range(depth)]


IVLP = Method(
    key="ivlp",
    title="IVLP",
    config=IVLPConfig,
    prompt=IVLPPrompt,
    reference="2212.03640",
    recipe_of=lambda num_shots, data, protocol: Recipe(5, batch_size=4, learning_rate=0.0035),
    summary="at each of many layers",
    colour="#0e5a14",
)
