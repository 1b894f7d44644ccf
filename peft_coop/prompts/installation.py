"""What is exchanged in a text tower's layers while a prompt is learned, and put back afterwards."""

from torch import nn
from transformers.activations import QuickGELUActivation

from .activation import LeanQuickGELU
from .attention import TreeAttentionConfig


def install_text_side(text_model: nn.Module) -> None:
    """Let a text tower's layers read packed trees, and keep less for the backward pass; a no-op if they do."""
    for layer in text_model.encoder.layers:
        if not isinstance(layer.self_attn.config, TreeAttentionConfig):
            layer.self_attn.config = TreeAttentionConfig(layer.self_attn.config)
        if isinstance(layer.mlp.activation_fn, QuickGELUActivation):
            layer.mlp.activation_fn = LeanQuickGELU(layer.mlp.activation_fn)


def remove_text_side(text_model: nn.Module) -> None:
    """Undo `install_text_side`."""
    for layer in text_model.encoder.layers:
        if isinstance(layer.self_attn.config, TreeAttentionConfig):
            layer.self_attn.config = layer.self_attn.config.config
        if isinstance(layer.mlp.activation_fn, LeanQuickGELU):
            layer.mlp.activation_fn = layer.mlp.activation_fn.original
