"""What the methods have in common that learn vectors in front of the class names at several layers, and for images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ..prompts import check_template
from ..recipes import CONTEXT_WORDS
from ..towers import text_layers, vision_layers
from .config import PromptConfig, check_count
from .context import CTX_STD, ContextPrompt, check_words

# Settings that are a number of layers, and of which tower.
DEPTHS = {"prompt_depth": (text_layers, "text"), "prompt_depth_vision": (vision_layers, "vision")}


@dataclass(eq=False)
class DeepContextConfig(PromptConfig):
    """Settings of the methods that learn vectors in front of the class names, at the embeddings and at deeper layers.

    With neither `ctx_init` nor `class_template` the words "a photo of a" are meant: the first `n_ctx` start the
    vectors, and the others stay behind them. With more vectors than words all start at random, and nothing stays.

    Args:
        n_ctx: number of context vectors at each layer.
        ctx_init: words whose token embeddings start the vectors at the embeddings; None: see above, or Gaussian,
            standard deviation 0.02, where `class_template` is given.
        class_template: the fixed text behind the context, with "{}" for the name, tokenised as one text; None: see
            above, or the name and a full stop where `ctx_init` is given.
        prompt_depth: layers that read vectors of their own, the embeddings' included: 1 is the embeddings alone. None:
            the paper's, or as many as the tower has layers.

    Others as `PromptConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.
    """

    n_ctx: int | None = field(default=2, metadata={"help": "Context vectors at each layer that has some."})
    ctx_init: str | None = field(
        default=None,
        metadata={"help": "Words that start the vectors; None, without `class_template`: of 'a photo of a'."},
    )
    class_template: str | None = field(
        default=None,
        metadata={"help": "The fixed text behind the context, {} for the name; None: what `ctx_init` leaves."},
    )
    prompt_depth: int | None = field(
        default=None, metadata={"help": "Layers of the text tower with vectors of their own; None: the paper's."}
    )

    # As the papers have it: the vectors stand in front of the names, and all classes share them.
    class_token_position: ClassVar[str] = "end"
    class_specific_context: ClassVar[bool] = False
    shaping: ClassVar[tuple[str, ...]] = ("class_template",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_ctx is None and self.ctx_init is None:
            self.n_ctx = type(self).n_ctx
        self.n_ctx = None if self.n_ctx is None else check_count(self.n_ctx, "n_ctx")
        self.prompt_depth = None if self.prompt_depth is None else check_count(self.prompt_depth, "prompt_depth")
        check_words(self.ctx_init)
        if self.class_template is not None:
            check_template(self.class_template, "`class_template`", "{}, a type of pet.")


class DeepContextPrompt(ContextPrompt):
    """Context vectors in front of the class names, whose first may start from words while the others stay.

    Reference: MaPLe (arXiv:2210.03117), whose code has these words.
    """

    settings: Any

    def settle_n_ctx(self) -> int:
        """See `ContextPrompt.settle_n_ctx`; settles `class_template`, too."""
        config = self.settings
        if config.ctx_init is None and config.class_template is None:
            self._share_out_words()
        config.class_template = config.class_template or "{}."
        return super().settle_n_ctx()

    def _share_out_words(self) -> None:
        """Let the first of the words start the vectors, and the others stay behind them."""
        config, words = self.settings, CONTEXT_WORDS.split()
        first = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
        counts = [len(ids) for ids in self.reader.encode(first)]
        if config.n_ctx > counts[-1]:
            return
        if config.n_ctx in counts:
            config.ctx_init = first[counts.index(config.n_ctx)]
        # Where the tokenizer cuts a word in two and the vectors end within it, they start at random.
        taken = next(place for place, count in enumerate(counts, start=1) if count >= config.n_ctx)
        config.class_template = " ".join([*words[taken:], "{}."])


def words_behind(n_ctx: int) -> str:
    """The class template that the words leave of which the first start the vectors, a word each."""
    return " ".join([*CONTEXT_WORDS.split()[n_ctx:], "{}."])


def settle_depth(given: int | None, default: int, n_layers: int, setting: str, tower: str) -> int:
    """How many layers read vectors of their own.

    Args:
        given: the setting; None: the default, or as many as there are layers.
        default: the paper's.
        n_layers: the most that can be.
        setting: the setting's name.
        tower: whose layers these are, for the message.

    Raises:
        ValueError: if there are not as many layers.
    """
    if given is None:
        return min(default, n_layers)
    if given > n_layers:
        raise ValueError(f"`{setting}={given}` is more than {tower} has layers: it can be {n_layers} at most.")
    return given


def cut_depths(papers: Mapping[str, Any], model: nn.Module) -> dict[str, int]:
    """The papers' depths for a protocol that a model's towers are too shallow for, cut to what they have.

    What somebody asks for is not cut but refused, by `settle_depth`.

    Args:
        papers: fields of a method's config.
        model: the dual encoder.

    Returns:
        Of `papers`, the depths that are less here, as numbers of layers; with a warning for each.
    """
    cut = {}
    for name, (layers, tower) in DEPTHS.items():
        depth = papers.get(name)
        if depth and depth > len(layers(model)):
            cut[name] = len(layers(model))
            warnings.warn(
                f"The paper's `{name}` is {depth} here, and this {tower} tower has {cut[name]} layers: it is "
                f"{cut[name]}.",
                stacklevel=2,
            )
    return cut


def vision_width(model: nn.Module) -> int:
    """W, the width of the vision tower's hidden states."""
    return model.config.vision_config.hidden_size


def random_rows(count: int, width: int) -> nn.Parameter:
    """Vectors `[count, width]` that start at random."""
    return nn.Parameter(torch.empty(count, width).normal_(std=CTX_STD))
