"""Attention over keys from outside a row: how a text tower's own layers read a prompt tree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "prompt_tree"
KeysAndValues = tuple[Tensor, Tensor]


@dataclass
class TreeKeys:
    """What one layer's attention gets and gives beside its own row.

    Shapes: N rows, H heads, S keys, E width of a head.

    Attributes:
        outside: keys and values that stand before the row's own, each `[N, H, S, E]`, or `[1, H, S, E]` for all rows.
        kept: if not None, the row's own keys and values are appended here.
        own: if not None, keys and values to use for the row's own, which are those of fewer nodes then.
    """

    outside: Sequence[KeysAndValues] = ()
    kept: list[KeysAndValues] | None = None
    own: KeysAndValues | None = None

    def join(self, key: Tensor, value: Tensor) -> KeysAndValues:
        """Put the outside keys and values before the row's own, and keep these if asked to."""
        if self.own is not None:
            key, value = self.own
        if self.kept is not None:
            self.kept.append((key, value))
        if not self.outside:
            return key, value
        keys, values = zip(*self.outside, strict=True)
        n_rows = len(key)
        return (
            torch.cat([*(each.expand(n_rows, -1, -1, -1) for each in keys), key], dim=2),
            torch.cat([*(each.expand(n_rows, -1, -1, -1) for each in values), value], dim=2),
        )


class TreeAttentionConfig:
    """A text tower's config as its attention modules see it: all as it is, but the attention's name is ours.

    Args:
        config: the tower's own config, whose attention implementation does the work.
    """

    _attn_implementation = NAME

    def __init__(self, config: Any):
        self.config = config

    def __getattr__(self, name: str) -> Any:
        if name == "config":
            raise AttributeError(name)
        return getattr(self.config, name)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    tree: TreeKeys | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as the tower's config says, with the keys that `tree` brings; without it, plainly."""
    implementation = module.config.config._attn_implementation
    if tree is not None:
        key, value = tree.join(key, value)
        if implementation != "eager":
            implementation = "sdpa"  # the flash kernels take no mask of one's own
    if implementation == "eager":
        attend = sys.modules[type(module).__module__].eager_attention_forward
    else:
        attend = ALL_ATTENTION_FUNCTIONS[implementation]
        if implementation != "sdpa":  # the flash kernels read the implementation from the module's config
            module = copy(module)
            module.config = module.config.config
    return attend(module, query, key, value, attention_mask, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(NAME, tree_attention)


def install_tree_attention(text_model: nn.Module) -> None:
    """Let a text tower's attention take keys from outside; a no-op if it does."""
    for layer in text_model.encoder.layers:
        if not isinstance(layer.self_attn.config, TreeAttentionConfig):
            layer.self_attn.config = TreeAttentionConfig(layer.self_attn.config)


def remove_tree_attention(text_model: nn.Module) -> None:
    """Undo `install_tree_attention`."""
    for layer in text_model.encoder.layers:
        if isinstance(layer.self_attn.config, TreeAttentionConfig):
            layer.self_attn.config = layer.self_attn.config.config
