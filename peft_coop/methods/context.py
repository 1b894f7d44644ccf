"""What the methods have in common that learn context vectors around the class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..prompts import CLASS_TOKEN_POSITIONS, PromptSequences, check_template, check_text
from ..prompts.class_names import clean_name
from ..prompts.sequences import check_lengths, context_sequences, spliced_sequences
from ..towers import token_embedding
from .base import Prompt, VectorName
from .config import PromptConfig, check_count, check_switch

DEFAULT_N_CTX = 16
CTX_STD = 0.02


@dataclass(eq=False)
class ContextConfig(PromptConfig):
    """Settings of the methods that learn context vectors around the class names.

    Args:
        n_ctx: number of context vectors, M in the paper; None takes 16, or as many as `ctx_init` has tokens.
        class_token_position: where the name stands: "end", "middle" (`n_ctx // 2` vectors before it) or "front".
        class_specific_context: one set of vectors per class (CSC) and not one for all (unified).
        ctx_init: words whose token embeddings start the vectors; None: Gaussian, standard deviation 0.02.
        class_template: the fixed text behind the context, with "{}" for the name, such as "{}, a type of pet.";
            tokenised as one text. "middle" and "front" need it to begin with the name.

    Others as `PromptConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.
    """

    n_ctx: int | None = field(
        default=None,
        metadata={
            "help": "Context vectors per prompt (M in the paper); None: 16, or as many as `ctx_init` has tokens."
        },
    )
    class_token_position: str = field(
        default="end", metadata={"help": "Where the class name stands in the context: 'end', 'middle' or 'front'."}
    )
    class_specific_context: bool = field(
        default=False, metadata={"help": "One set of context vectors per class instead of one for all."}
    )
    ctx_init: str | None = field(
        default=None, metadata={"help": "Words whose token embeddings start the vectors; None: Gaussian, std 0.02."}
    )
    class_template: str = field(
        default="{}.", metadata={"help": "The fixed text behind the context, {} for the name, tokenised as one text."}
    )

    shaping: ClassVar[tuple[str, ...]] = ("class_token_position", "class_specific_context", "class_template")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.n_ctx = check_count(self.n_ctx, "n_ctx") if self.n_ctx is not None else None
        check_switch(self.class_specific_context, "class_specific_context")
        if self.class_token_position not in CLASS_TOKEN_POSITIONS:
            raise ValueError(
                f"`class_token_position` must be one of {CLASS_TOKEN_POSITIONS}, got {self.class_token_position!r}."
            )
        check_words(self.ctx_init)
        check_template(self.class_template, "`class_template`", "{}, a type of pet.")
        if self.class_token_position != "end" and not self.class_template.startswith("{}"):
            raise ValueError(
                f"`class_template` must begin with {{}} where `class_token_position` is {self.class_token_position!r}, "
                f"since the context stands behind the name; got {self.class_template!r}."
            )

    @property
    def belongs_to_its_classes(self) -> bool:
        """Whether the context is class-specific."""
        return self.class_specific_context


def check_words(ctx_init: Any) -> None:
    """Check the words that a context starts from.

    Raises:
        ValueError: if they are neither text nor None.
    """
    if ctx_init is None:
        return
    if not isinstance(ctx_init, str) or not ctx_init.strip(" _"):
        raise ValueError(f"`ctx_init` must be one word or more, or None, got {ctx_init!r}.")
    check_text(ctx_init, "`ctx_init`")


class ContextPrompt(Prompt):
    """Context vectors around the class names, one set for all classes or one for each.

    Shapes: C classes, M context vectors, D text width.

    Args:
        config: the adapter's settings.
        model: the dual encoder, without the adapter.

    Attributes:
        ctx: `[M, D]`, or `[C, M, D]` when class-specific.

    Raises:
        ValueError: if the config does not fit the model.
    """

    settings: ContextConfig

    def __init__(self, config: ContextConfig, model: nn.Module):
        super().__init__(config, model)
        config.n_ctx = self.settle_n_ctx()
        self.ctx = nn.Parameter(self.start(token_embedding(model).weight.detach()))

    def start(self, embeddings: Tensor) -> Tensor:
        """The context vectors before training.

        Args:
            embeddings: `[., D]`, those of the tower's tokens.

        Raises:
            ValueError: if the context is class-specific and there are no classes.
        """
        config = self.settings
        shape: tuple[int, ...] = (self.n_ctx, embeddings.shape[1])
        if config.class_specific_context:
            if config.class_names is None:
                raise ValueError("A class-specific context needs `class_names`: it has one set of vectors per class.")
            shape = (len(config.class_names), *shape)
        if config.ctx_init is None:
            return torch.empty(*shape).normal_(std=CTX_STD)
        tokens = torch.tensor(self.start_tokens(), device=embeddings.device)
        return self.start_of_words(embeddings[tokens]).expand(shape).clone()

    def start_of_words(self, words: Tensor) -> Tensor:
        """The context vectors `[M, D]` that start from words.

        Args:
            words: `[W, D]`, the embeddings of the words' tokens; W is M, unless `settle_n_ctx` has it otherwise.
        """
        return words

    def start_tokens(self) -> list[int]:
        """Token ids of the words that the context starts from; none where it starts at random."""
        words = self.settings.ctx_init
        if words is None:
            return []
        in_front = self.settings.class_token_position != "front"
        [ids] = self.reader.encode([clean_name(words)], comes_first=in_front)
        return ids

    def settle_n_ctx(self) -> int:
        """How many context vectors there are.

        Raises:
            ValueError: if `n_ctx` contradicts the number of tokens in `ctx_init`.
        """
        config = self.settings
        if config.ctx_init is None:
            return config.n_ctx or DEFAULT_N_CTX
        n_tokens = len(self.start_tokens())
        if config.n_ctx not in (None, n_tokens):
            raise ValueError(
                f"`n_ctx={config.n_ctx}` contradicts `ctx_init={config.ctx_init!r}`, which has {n_tokens} tokens: set "
                f"`n_ctx` to {n_tokens} or leave it out, or set `ctx_init=None` to start from random vectors."
            )
        return n_tokens

    @property
    def n_ctx(self) -> int:
        """M, the context vectors of a prompt."""
        return self.settings.n_ctx or 0

    def sequences(self, class_names: Sequence[str]) -> PromptSequences:
        """See `Prompt.sequences`: `BOS context name . EOS`, or with the name in the middle or in front."""
        config, tokenizer = self.settings, self.reader.tokenizer
        in_front = config.class_token_position == "front"
        names = self.reader.names(class_names, config.class_template, comes_first=in_front)
        sequences = context_sequences(
            names,
            tokenizer,
            self.reader.vocab_size,
            self.n_ctx,
            config.class_token_position,
            config.class_specific_context,
        )
        n_special = len(tokenizer.framed([]))
        check_lengths(sequences, class_names, self.reader.max_length, self.n_ctx, n_special)
        return sequences

    def given_texts(self, input_ids: Tensor) -> PromptSequences:
        """See `Prompt.given_texts`; a full stop that ends a text stays behind the name."""
        if self.settings.class_specific_context:
            raise ValueError(
                "This adapter has a class-specific context, which belongs to its own classes and cannot be put into "
                "other texts: call the model without `input_ids`, or train a unified context."
            )
        in_front = self.settings.class_token_position == "front"
        texts, tokenizer = self.reader.given_texts(input_ids, comes_first=in_front), self.reader.tokenizer
        sequences = spliced_sequences(
            texts, tokenizer, self.reader.vocab_size, self.n_ctx, self.settings.class_token_position
        )
        descriptions = [f"row {index} of `input_ids`" for index in range(len(texts))]
        check_lengths(sequences, descriptions, self.reader.max_length, self.n_ctx, len(tokenizer.framed([])))
        return sequences

    def vectors(self, image_embeds: Tensor | None = None) -> Tensor:
        """See `Prompt.vectors`: `[M, D]`, or `[C*M, D]` when class-specific."""
        return self.ctx.flatten(0, -2)

    def named_vectors(self, class_names: Sequence[str]) -> tuple[list[VectorName], Tensor]:
        """See `Prompt.named_vectors`: of a class-specific context class by class."""
        if not self.settings.class_specific_context:
            return [VectorName(index) for index in range(len(self.ctx))], self.ctx
        names = [VectorName(index, name) for name in class_names for index in range(self.ctx.shape[1])]
        return names, self.ctx.flatten(0, 1)

    def check_classes(self, class_names: Sequence[str], own: Sequence[str] | None) -> None:
        """See `Prompt.check_classes`: a class-specific context has its own classes only."""
        if self.settings.class_specific_context and list(class_names) != own:
            raise ValueError(
                f"The adapter has a class-specific context: it holds vectors for {own} and none for "
                f"{list(class_names)}. Train a unified context (`class_specific_context=False`) to change the classes."
            )
