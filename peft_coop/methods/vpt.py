"""VPT (arXiv:2203.12119) for dual encoders: vectors among an image's tokens; the texts are hand-written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..prompts import PromptSequences
from ..prompts.sequences import check_lengths
from ..recipes import Recipe
from ..towers import token_embedding, vision_layers
from .base import Method, Prompt
from .config import PromptConfig, check_count
from .deep_context import settle_depth
from .ivlp import DEPTH, vision_rows


@dataclass(eq=False)
class VPTConfig(PromptConfig):
    """Settings of VPT: prompts of the vision tower alone, before its first layers.

    Args:
        n_ctx_vision: number of vectors among an image's tokens.
        prompt_depth_vision: layers with vectors of their own, the first included; None: 12, or as many as there are.
        zero_shot_template: the classes' prompt, with the adapter and without.

    Others as `PromptConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: VPT (arXiv:2203.12119), its deep form; with CLIP's texts as in the code of MaPLe (arXiv:2210.03117).
    """

    n_ctx_vision: int = field(default=8, metadata={"help": "Vectors among an image's tokens."})
    prompt_depth_vision: int | None = field(
        default=None, metadata={"help": "Layers of the vision tower with vectors of their own; None: the paper's."}
    )

    method = "vpt"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.n_ctx_vision = check_count(self.n_ctx_vision, "n_ctx_vision")
        if self.prompt_depth_vision is not None:
            self.prompt_depth_vision = check_count(self.prompt_depth_vision, "prompt_depth_vision")

    @property
    def n_vectors(self) -> int:
        """See `PromptConfig.n_vectors`."""
        return self.n_ctx_vision

    @property
    def changes_vision(self) -> bool:
        """It does nothing else."""
        return True


class VPTPrompt(Prompt):
    """Vectors at the first layers of the vision tower.

    Shapes: n vectors, W width of the vision tower.

    Attributes:
        vision_ctx: `[n, W]`, behind an image's tokens.
        deep_vision_ctx: entry i `[n, W]`, before layer i + 1.

    Reference: VPT (arXiv:2203.12119).
    """

    changes_text = False
    settings: VPTConfig

    def __init__(self, config: VPTConfig, model: nn.Module):
        super().__init__(config, model)
        config.prompt_depth_vision = settle_depth(
            config.prompt_depth_vision, DEPTH, len(vision_layers(model)), "prompt_depth_vision", "this vision tower"
        )
        self.vision_ctx, *deep = vision_rows(config.n_ctx_vision, config.prompt_depth_vision, model)
        self.deep_vision_ctx = nn.ParameterList(deep)
        self.text_width = token_embedding(model).weight.shape[1]

    def sequences(self, class_names: Sequence[str]) -> PromptSequences:
        """See `Prompt.sequences`: without vectors."""
        return self.reader.hand_written(class_names, self.settings.templates[0])

    def vectors(self, image_embeds: Tensor | None = None) -> Tensor:
        """See `Prompt.vectors`: none, `[0, D]`."""
        return self.vision_ctx.new_empty(0, self.text_width)

    def vision_vectors(self) -> Sequence[Tensor]:
        """See `Prompt.vision_vectors`."""
        return (self.vision_ctx, *self.deep_vision_ctx)

    def given_texts(self, input_ids: Tensor) -> PromptSequences:
        """See `Prompt.given_texts`: the texts as they are."""
        tokenizer = self.reader.tokenizer
        texts = [tokenizer.framed(text) for text in self.reader.given_texts(input_ids, comes_first=True)]
        sequences = PromptSequences(tuple(texts), self.reader.vocab_size, tokenizer.pad_token_id)
        descriptions = [f"row {index} of `input_ids`" for index in range(len(texts))]
        check_lengths(sequences, descriptions, self.reader.max_length, n_special=len(tokenizer.framed([])))
        return sequences


VPT = Method(
    key="vpt",
    title="VPT",
    config=VPTConfig,
    prompt=VPTPrompt,
    reference="2203.12119",
    recipe_of=lambda num_shots, data, protocol: Recipe(5, batch_size=4, learning_rate=0.0025),
    summary="at each of many layers",
    colour="#8c5fd3",
)
