"""Sequences over the extended vocabulary and learnable vectors, to text features."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from .layout import PromptSequences
from .towers import TextTowerFamily

# Positions encoded at once where no gradient is needed; bounds the memory of CoCoOp and of long class lists.
MAX_POSITIONS = 65536


class PaddedPrompts:
    """Prompts as tensors: every sequence padded to the longest EOS.

    What stands after EOS does not matter, since the towers are causal; the padding repeats EOS.

    Shapes: C prompts, L the longest one's tokens.

    Attributes:
        token_ids: `[C, L]`, ids of the tower's vocabulary, 0 where a learnable vector stands.
        rows: `[C, L]`, row in the table of learnable vectors, 0 where a token stands.
        is_learned: `[C, L]`, where a learnable vector stands.
        eos_positions: `[C]`.
    """

    def __init__(self, sequences: PromptSequences):
        longest = max(len(ids) for ids in sequences.ids)
        padded = torch.tensor([[*ids, *[ids[-1]] * (longest - len(ids))] for ids in sequences.ids])
        self.is_learned = padded >= sequences.vocab_size
        self.token_ids = padded.masked_fill(self.is_learned, 0)
        self.rows = (padded - sequences.vocab_size).masked_fill(~self.is_learned, 0)
        self.eos_positions = torch.tensor([len(ids) - 1 for ids in sequences.ids])
        self._copies: dict[torch.device, PaddedPrompts] = {}

    def to(self, device: torch.device) -> PaddedPrompts:
        """These prompts on `device`: themselves, or a copy that is made once and kept.

        They stay where they are, since replicas of the model on other devices read them at the same time.
        """
        if self.token_ids.device == device:
            return self
        if device not in self._copies:
            self._copies[device] = self._copied_to(device)
        return self._copies[device]

    def _copied_to(self, device: torch.device) -> PaddedPrompts:
        other = copy(self)
        for name in ("is_learned", "token_ids", "rows", "eos_positions"):
            setattr(other, name, getattr(self, name).to(device))
        return other

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_copies": {}}  # copies and pickles start without


def encode_prompts(
    model: nn.Module, family: TextTowerFamily, prompts: PaddedPrompts, vectors: Tensor | None = None
) -> Tensor:
    """Encode prompts with the text tower of a dual encoder.

    Shapes: C prompts, L tokens, R learnable vectors, D text width, P projection width, B images.

    Args:
        model: the dual encoder.
        family: where its parts are.
        prompts: the prompts, on any device.
        vectors: `[R, D]`, or `[B, R, D]` for one set per image; None where no prompt has a learnable vector.

    Returns:
        Text features, projected and not normalised: `[C, P]`, or `[B, C, P]` for one set per image.
    """
    text_model = getattr(model, family.text_model)
    tokens = getattr(text_model, family.embeddings).token_embedding
    prompts = prompts.to(tokens.weight.device)
    embeds = tokens(prompts.token_ids)  # [C, L, D]
    if vectors is not None:
        learned = vectors.to(embeds)[..., prompts.rows, :]  # [C, L, D] or [B, C, L, D]
        embeds = torch.where(prompts.is_learned[..., None], learned, embeds)
    flat = embeds.flatten(0, -3)  # [C, L, D] or [B*C, L, D]
    eos_positions = prompts.eos_positions.repeat(len(flat) // len(prompts.eos_positions))
    features = _encode_in_chunks(model, family, flat, eos_positions)
    return features.unflatten(0, embeds.shape[:-2])


def _encode_in_chunks(model: nn.Module, family: TextTowerFamily, embeds: Tensor, eos_positions: Tensor) -> Tensor:
    needs_grad = torch.is_grad_enabled() and embeds.requires_grad
    size = len(embeds) if needs_grad else max(1, MAX_POSITIONS // embeds.shape[1])
    pairs = zip(embeds.split(size), eos_positions.split(size), strict=True)
    return torch.cat([_encode(model, family, *pair) for pair in pairs])


def _encode(model: nn.Module, family: TextTowerFamily, embeds: Tensor, eos_positions: Tensor) -> Tensor:
    """Run `[N, L, D]` through the tower and read `[N, P]` where EOS stands, `[N]`."""
    text_model = getattr(model, family.text_model)
    hidden_states = getattr(text_model, family.embeddings)(inputs_embeds=embeds)  # adds the positions
    mask = create_causal_mask(
        config=text_model.config, inputs_embeds=hidden_states, attention_mask=None, past_key_values=None
    )
    hidden_states = text_model.encoder(
        inputs_embeds=hidden_states, attention_mask=mask, is_causal=True
    ).last_hidden_state
    at_eos = hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), eos_positions]
    return getattr(model, family.text_projection)(text_model.final_layer_norm(at_eos))
