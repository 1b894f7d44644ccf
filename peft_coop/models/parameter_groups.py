"""The trained weights as an optimizer takes them: in groups, each with the rate that a paper has for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..recipes import trainable
from ..towers import vision_parts

if TYPE_CHECKING:
    from .classifier import PromptClassifierMixin


def param_groups(model: PromptClassifierMixin, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """See `PromptClassifierMixin.param_groups`.

    What an adapter of another method has learned, a LoRA in the vision tower for example, has no rate of its own.
    """
    prompt = model.prompt_layer.prompt
    factors = {id(weight): prompt.rate_and_decay(name) for name, weight in prompt.named_parameters()}
    factors |= dict.fromkeys(map(id, _own_weights(model)), prompt.rate_and_decay(None))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for weight in trainable(model.parameters()):
        groups.setdefault(factors.get(id(weight), (1.0, 1.0)), []).append(weight)
    return [
        {"params": weights, "lr": learning_rate * rate, "weight_decay": weight_decay * decay}
        for (rate, decay), weights in groups.items()
    ]


def _own_weights(model: nn.Module) -> list[nn.Parameter]:
    """The vision tower's own weights, and an adapter's copies of them, but no weights that other methods have added."""
    weights = {id(weight): weight for part in vision_parts(model) for weight in part.parameters()}
    for layer in (each for part in vision_parts(model) for each in part.modules()):
        if isinstance(layer, BaseTunerLayer):
            own = {id(weight) for weight in layer.get_base_layer().parameters()}
            for weight in layer.parameters():
                if id(weight) not in own:
                    weights.pop(id(weight), None)
    return list(weights.values())
