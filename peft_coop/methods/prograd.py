"""ProGrad (arXiv:2205.14865): CoOp whose gradient may not go against that of agreeing with a hand-written prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..recipes import CONTEXT_WORDS
from .base import LossTerm, Method, Step
from .config import check_number
from .context import DEFAULT_N_CTX, ContextConfig, ContextPrompt

# Where no probability of the prompt's is further than this from the hand-written prompt's, or than what the texts were
# computed in can tell apart, the two agree: the gradient of their divergence is rounding, and its direction says
# nothing. The same prompt computed twice was seen 5e-7 apart in float32, 7e-4 in float16 and 7e-3 in bfloat16.
AGREEMENT = 1e-4


@dataclass(eq=False)
class ProGradConfig(ContextConfig):
    """Settings of ProGrad: CoOp with a projected gradient.

    Args:
        n_ctx: number of context vectors; more than `ctx_init` has tokens: the words are the last of them, and those
            before start at zero. None takes as many as `ctx_init` has tokens, or 16.
        prograd_lambda: how much of what goes against the hand-written prompt is taken out of the gradient; 0 is CoOp.
        prograd_temperature: both prompts' logits are divided by it before they are compared.
        zero_shot_template: the hand-written prompt, and the prompt while the adapter is disabled.

    Others as `ContextConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: ProGrad (arXiv:2205.14865), whose lambda and T are `prograd_lambda` and `prograd_temperature`.
    """

    n_ctx: int | None = field(
        default=DEFAULT_N_CTX,
        metadata={"help": "Context vectors per prompt; beyond the tokens of `ctx_init` the first start at zero."},
    )
    prograd_lambda: float = field(
        default=1.0, metadata={"help": "How much of what goes against `zero_shot_template` leaves the gradient."}
    )
    prograd_temperature: float = field(
        default=1.0, metadata={"help": "Divides the logits before they are compared with those of the template."}
    )

    method = "prograd"
    needs_one_label = "its teacher's probabilities are a softmax over the classes, of which an image has one"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prograd_lambda = check_number(self.prograd_lambda, "prograd_lambda")
        self.prograd_temperature = check_number(self.prograd_temperature, "prograd_temperature", above_zero=True)


class ProGradPrompt(ContextPrompt):
    """CoOp's context vectors; in training, the gradient that arrives at them is projected.

    What is projected is what one backward pass brings to the vectors, against the divergence on the images of the same
    forward pass: each micro-batch under gradient accumulation, and each process's part under DDP, before they are
    summed. It happens in any loop, whatever the loss is computed by, under loss scaling and autocast; weight decay and
    momentum come after it. Vectors of all classes are one vector there.

    Reference: ProGrad (arXiv:2205.14865).
    """

    settings: ProGradConfig

    def settle_n_ctx(self) -> int:
        """See `ContextPrompt.settle_n_ctx`; there may be more vectors than words.

        Raises:
            ValueError: if there are fewer.
        """
        n_ctx, n_tokens = self.settings.n_ctx, len(self.start_tokens())
        if n_ctx is None or not n_tokens:
            return super().settle_n_ctx()
        if n_ctx < n_tokens:
            raise ValueError(
                f"`n_ctx={n_ctx}` is too few for `ctx_init={self.settings.ctx_init!r}`, which has {n_tokens} tokens: "
                f"set `n_ctx` to {n_tokens} or more, or `ctx_init=None` to start from random vectors."
            )
        return n_ctx

    def start_of_words(self, words: Tensor) -> Tensor:
        """See `ContextPrompt.start_of_words`: zeros, and the words behind them."""
        return torch.cat([words.new_zeros(self.n_ctx - len(words), words.shape[1]), words])

    def vectors(self, image_embeds: Tensor | None = None) -> Tensor:
        """See `Prompt.vectors`; in training never the parameter itself, where a hook would stay."""
        return self.ctx.view(-1, self.ctx.shape[-1]) if self.training else super().vectors(image_embeds)

    def extra_losses(self, step: Step) -> dict[str, LossTerm]:
        """See `Prompt.extra_losses`: "kl", the divergence from the hand-written prompt, reported and not added.

        As in the paper's code it lacks the hand-written prompt's own entropy, which has no gradient.
        """
        temperature = self.settings.prograd_temperature
        learned = F.log_softmax(step.logits / temperature, dim=-1)  # [B, C]
        written = F.softmax(step.zero_shot_logits() / temperature, dim=-1)
        divergence = -(temperature**2) * (written * learned).sum(dim=-1).mean()
        if step.vectors.requires_grad and torch.is_grad_enabled():
            distance = (learned.detach().exp() - written).abs().amax()
            agree = distance < max(AGREEMENT, torch.finfo(step.dtype).eps)
            self._project(step.vectors, divergence, agree)
        return {"kl": LossTerm(divergence, weight=0)}

    def _project(self, vectors: Tensor, divergence: Tensor, agree: Tensor) -> None:
        """Let the gradient that the backward pass brings to `vectors` lose what goes against the divergence's.

        Raises:
            RuntimeError: if the step is compiled: its forward is a whole then, without a gradient in between.
        """
        [general] = torch.autograd.grad(divergence, vectors, retain_graph=True, allow_unused=True)
        if general is None:
            raise RuntimeError(
                "ProGrad takes a gradient within the forward pass, which a training step compiled with `torch.compile` "
                "has not: train it without (`torch_compile=False`). Evaluation can be compiled."
            )
        length = general.norm()
        direction = general / length
        is_known = ~agree & length.isfinite() & (length > 0)
        strength = self.settings.prograd_lambda

        def project(gradient: Tensor) -> Tensor:
            along = (gradient * direction).sum()
            return torch.where(is_known & (along < 0), gradient - strength * along * direction, gradient)

        vectors.register_hook(project)


def fields(protocol: str) -> dict[str, Any]:
    """16 vectors, of which the last are the words, in every protocol."""
    return {"n_ctx": DEFAULT_N_CTX, "ctx_init": CONTEXT_WORDS}


PROGRAD = Method(
    key="prograd",
    title="ProGrad",
    config=ProGradConfig,
    prompt=ProGradPrompt,
    reference="2205.14865",
    fields_of=fields,
    summary="learned only where that agrees with a hand-written prompt",
    settings=("prograd_lambda", "prograd_temperature"),
    colour="#6f4e1f",
)
