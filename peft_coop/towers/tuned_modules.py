"""Modules of the two towers that PEFT's own methods tune, in every family of dual encoders."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .families import find_family

# What queries, keys and values are called in the attention of transformers' models.
PROJECTIONS = frozenset({"q_proj", "k_proj", "v_proj", "query", "key", "value"})


def attention_projections(model: nn.Module) -> list[str]:
    """The linear layers of queries, keys and values in all layers of both towers, by their names.

    Not those of a head that pools (SigLIP's, AIMv2's), which stands behind the layers.

    Args:
        model: a dual encoder.

    Raises:
        ValueError: if the model is of no known family, or a tower has none.
    """

    def is_one(name: str, module: nn.Module) -> bool:
        *above, last = name.split(".")
        return isinstance(module, nn.Linear) and last in PROJECTIONS and any(part.isdigit() for part in above)

    return _in_both_towers(model, is_one, "linear layers of queries, keys and values, as transformers' attention has")


def layer_norms(model: nn.Module) -> list[str]:
    """The normalisations over a token's width, LayerNorm or RMSNorm, of both towers, by their names.

    Args:
        model: a dual encoder.

    Raises:
        ValueError: if the model is of no known family, or a tower has none.
    """

    def is_one(name: str, module: nn.Module) -> bool:
        return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")

    return _in_both_towers(model, is_one, "LayerNorm or RMSNorm")


def _in_both_towers(model: nn.Module, is_one: Callable[[str, nn.Module], bool], what: str) -> list[str]:
    family = find_family(model)
    every: list[str] = []
    for side, parts in {"text": family.text_parts, "vision": family.image_parts}.items():
        modules = [each for part in parts for each in model.get_submodule(part).named_modules(prefix=part)]
        found = [name for name, module in modules if is_one(name, module)]
        if not found:
            tower = type(model.get_submodule(parts[0])).__name__
            raise ValueError(
                f"Both towers must have {what}: the {side} tower {tower} of {type(model).__name__} has none."
            )
        every += found
    return every
