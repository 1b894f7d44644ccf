"""What classes learn from one image: a transformer decoder from text features to those of the image's places."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.02
MLP_RATIO = 4


class ContextDecoder(nn.Module):
    """Reads an image for every class, and says what to add to the class's text feature.

    Shapes: B images, K classes, N tokens of an image, P projection width.

    Args:
        projection_dim: P.
        width: of the decoder.
        n_layers: its layers.
        n_heads: heads of its attention; `width` is a multiple of it.
        dropout: the share left out behind each attention, and within and behind each layer's MLP.

    Reference: DenseCLIP (arXiv:2112.01518), "post-model prompting".
    """

    def __init__(
        self, projection_dim: int, width: int = 256, n_layers: int = 3, n_heads: int = 4, dropout: float = 0.1
    ):
        super().__init__()
        self.memory_proj = nn.Sequential(
            nn.LayerNorm(projection_dim), nn.Linear(projection_dim, width), nn.LayerNorm(width)
        )
        self.text_proj = nn.Sequential(nn.LayerNorm(projection_dim), nn.Linear(projection_dim, width))
        self.decoder = nn.ModuleList([DecoderLayer(width, n_heads, dropout) for _ in range(n_layers)])
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, projection_dim))
        self.apply(start)

    def forward(self, text: Tensor, memory: Tensor) -> Tensor:
        """What is to be added to the text features, before it is scaled.

        Args:
            text: `[B, K, P]`, text features, not normalised.
            memory: `[B, N, P]`, an image's global feature and those of its places, not normalised.

        Returns:
            `[B, K, P]`.
        """
        states, memory = self.text_proj(text), self.memory_proj(memory)
        for layer in self.decoder:
            states = layer(states, memory)
        return self.out_proj(states)


class DecoderLayer(nn.Module):
    """Attention among the classes, attention to the image, and an MLP; each adds to what its norm has read.

    Args:
        width: of the states.
        n_heads: heads of both attentions.
        dropout: see `ContextDecoder`.
    """

    def __init__(self, width: int, n_heads: int, dropout: float):
        super().__init__()
        self.self_attn = Attention(width, n_heads, dropout)
        self.cross_attn = Attention(width, n_heads, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        hidden = width * MLP_RATIO
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, memory: Tensor) -> Tensor:
        """States of the classes `[B, K, width]`, after they have read the image's `[B, N, width]`."""
        normed = self.norm1(states)
        states = states + self.self_attn(normed, normed)
        states = states + self.cross_attn(self.norm2(states), memory)
        return states + self.dropout(self.mlp(self.norm3(states)))


class Attention(nn.Module):
    """Attention whose queries, keys and values have no bias; what it gives is left out in part, its weights never.

    Args:
        width: of the states.
        n_heads: heads; `width` is a multiple of it.
        dropout: the share left out.

    Raises:
        ValueError: if the width cannot be shared out.
    """

    def __init__(self, width: int, n_heads: int, dropout: float):
        super().__init__()
        if width % n_heads:
            raise ValueError(f"A width of {width} cannot be shared out to {n_heads} heads: give a multiple of them.")
        self.n_heads = n_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, states: Tensor, memory: Tensor) -> Tensor:
        """What states `[B, K, width]` find in a memory `[B, N, width]`."""
        query, key, value = self.q_proj(states), self.k_proj(memory), self.v_proj(memory)
        query, key, value = (each.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for each in (query, key, value))
        found = F.scaled_dot_product_attention(query, key, value)  # [B, heads, K, width / heads]
        return self.proj_drop(self.proj(found.transpose(1, 2).flatten(2)))


def start(module: nn.Module) -> None:
    """Draw a linear layer's weights as the original does; norms start as torch's own."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
