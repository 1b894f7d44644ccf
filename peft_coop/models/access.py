"""What others read of a model with learned prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from ..tuners import CoOpEmbeddings


def prompt_in_use(model: nn.Module) -> tuple[CoOpEmbeddings, str]:
    """The layer that holds a model's learned prompts, and the name of the adapter in use.

    Args:
        model: what `get_peft_model` or `PeftModel.from_pretrained` returned.

    Raises:
        TypeError: if the model was never given a learned prompt.
        ValueError: if none of its adapters is active, or several are.
    """
    layer = getattr(model, "prompt_layer", None)
    if layer is None:
        raise TypeError(
            f"A model with a learned prompt is needed, a CoOp or CoCoOp adapter on a CLIP; got {type(model).__name__}."
        )
    name = layer.current_adapter
    if name is None:
        raise ValueError(
            "No adapter is active: load one with `PeftModel.from_pretrained`, or choose one with `set_adapter`."
        )
    return layer, name
