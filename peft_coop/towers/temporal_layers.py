"""Layers that let the frames of a video see each other: those of CLIP's towers, with weights of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer


def temporal_layers(width: int, n_layers: int, n_heads: int, dropout: float = 0.0) -> nn.ModuleList:
    """Pre-norm transformer layers with QuickGELU and four times the width between, as torch starts such layers.

    Args:
        width: of the features.
        n_layers: how many.
        n_heads: of each one's attention.
        dropout: the share of attention weights that training leaves out.

    Raises:
        ValueError: if the width cannot be shared out among the heads.
    """
    if width % n_heads:
        raise ValueError(f"`temporal_heads` must divide the width of the features, {width}, got {n_heads}.")
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=n_heads,
        hidden_act="quick_gelu",
        attention_dropout=dropout,
        attn_implementation="sdpa",
    )
    layers = nn.ModuleList(CLIPEncoderLayer(config) for _ in range(n_layers))
    for layer in layers:
        _start_as_torch(layer.self_attn, width)
    return layers


def _start_as_torch(attention: nn.Module, width: int) -> None:
    """Start an attention as `nn.MultiheadAttention` does, which draws queries, keys and values as one matrix."""
    bound = math.sqrt(6 / (width + 3 * width))
    for name in ("q_proj", "k_proj", "v_proj"):
        nn.init.uniform_(attention.get_submodule(name).weight, -bound, bound)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        nn.init.zeros_(attention.get_submodule(name).bias)


def read_frames(layers: nn.ModuleList, frames: Tensor) -> Tensor:
    """Pass the features of frames through the layers, all of a video's frames visible to each.

    Args:
        layers: from `temporal_layers`.
        frames: `[B, T, P]`.

    Returns:
        `[B, T, P]`.
    """
    for layer in layers:
        frames = layer(frames, None)
        frames = frames if isinstance(frames, torch.Tensor) else frames[0]
    return frames
