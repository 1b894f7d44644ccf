"""MaPLe (arXiv:2210.03117): vectors of the text tower, and linear maps that make those of the vision tower of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..recipes import Recipe
from ..towers import DeepVectors, text_layers, vision_layers
from .base import Method
from .deep_context import DeepContextConfig, DeepContextPrompt, random_rows, settle_depth, vision_width

DEPTH = 9
TRANSFER_DEPTH = 3  # where the paper trains on ImageNet and tests elsewhere
TRANSFER = ("cross-dataset", "domain")


@dataclass(eq=False)
class MaPLeConfig(DeepContextConfig):
    """Settings of MaPLe: prompts of both towers that are learned together.

    Args:
        n_ctx: number of vectors at each layer, of both towers.
        prompt_depth: layers with vectors of their own, the embeddings included, in both towers; None: 9, or as many as
            the shallower tower has. Given, it can be as many as the deeper one has: the shallower one's last layers
            then go without, and linear maps to layers that are not there learn nothing.

    Others as `DeepContextConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: MaPLe (arXiv:2210.03117), whose J is `prompt_depth`.
    """

    method = "maple"

    @property
    def changes_vision(self) -> bool:
        """Always."""
        return True


class MaPLePrompt(DeepContextPrompt):
    """Vectors at the first layers of the text tower; mapped linearly, they are those of the vision tower.

    Shapes: M context vectors, D text width, W width of the vision tower.

    Attributes:
        ctx: `[M, D]`, at the embeddings.
        projection: makes of them the vectors `[M, W]` behind an image's tokens.
        deep_ctx: entry i `[M, D]`, before layer i + 1.
        deep_projections: entry i likewise, before layer i + 1 of the vision tower; alike at the start, as in the
            paper's code. Those to layers that are not there are held and not trained.

    Reference: MaPLe (arXiv:2210.03117).
    """

    settings: MaPLeConfig

    def __init__(self, config: MaPLeConfig, model: nn.Module):
        super().__init__(config, model)
        self.n_text_layers, self.n_vision_layers = len(text_layers(model)), len(vision_layers(model))
        layers = self.n_text_layers, self.n_vision_layers
        most = min(layers) if config.prompt_depth is None else max(layers)
        deeper = f"the deeper tower ({layers[0]} of text, {layers[1]} of vision)"
        config.prompt_depth = settle_depth(config.prompt_depth, DEPTH, most, "prompt_depth", deeper)
        text_width, width = self.ctx.shape[1], vision_width(model)
        self.projection = nn.Linear(text_width, width)
        deep = range(1, config.prompt_depth)
        self.deep_ctx = nn.ParameterList(random_rows(self.n_ctx, text_width) for _ in deep)
        first = nn.Linear(text_width, width)
        self.deep_projections = nn.ModuleList(
            deepcopy(first) if layer < self.n_vision_layers else UnusedMap(first) for layer in deep
        )

    def deep_vectors(self) -> DeepVectors:
        """See `Prompt.deep_vectors`."""
        deep = enumerate(self.deep_ctx, start=1)
        return {layer: rows for layer, rows in deep if layer < self.n_text_layers}

    def vision_vectors(self) -> Sequence[Tensor]:
        """See `Prompt.vision_vectors`."""
        pairs = zip(self.deep_projections, self.deep_ctx, strict=True)
        deep = [mapped(projection, rows) for projection, rows in list(pairs)[: self.n_vision_layers - 1]]
        return (mapped(self.projection, self.ctx), *deep)


class UnusedMap(nn.Module):
    """A linear map to a layer that is not there: saved as the paper's code has it, and nothing that is trained.

    As parameters its numbers would never have a gradient, which several processes (DDP) wait for.

    Args:
        start: the map whose numbers it has until a saved one is loaded.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, start: nn.Linear):
        super().__init__()
        for name, numbers in start.named_parameters():
            self.register_buffer(name, numbers.detach().clone())


def mapped(projection: nn.Module, rows: Tensor) -> Tensor:
    """Vectors `[n, W]` of the vision tower, of those `[n, D]` of the text tower, which have the type of their words."""
    return projection(rows.to(projection.weight))


def recipe(num_shots: int, data: str | None, protocol: str) -> Recipe:
    """Five epochs, or two where what is learned on one dataset is tested on others."""
    if protocol in TRANSFER:
        return Recipe(2, batch_size=4, learning_rate=0.0026)
    return Recipe(5, batch_size=4, learning_rate=0.0035)


def fields(protocol: str) -> Mapping[str, Any]:
    """Fewer layers where what is learned on one dataset is tested on others."""
    return {"prompt_depth": TRANSFER_DEPTH} if protocol in TRANSFER else {}


MAPLE = Method(
    key="maple",
    title="MaPLe",
    config=MaPLeConfig,
    prompt=MaPLePrompt,
    reference="2210.03117",
    recipe_of=recipe,
    fields_of=fields,
    summary="at each of many layers, mapped into the vision tower",
    colour="#cc3311",
)
