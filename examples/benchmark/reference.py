"""The forms that the tree is measured against: every prompt as long as the longest allowed, or as the longest given.

Plain PyTorch on the same Hugging Face tower.
"""

import torch
from transformers.masking_utils import create_causal_mask

LENGTH = 77
POSITIONS_AT_ONCE = 100 * LENGTH  # more does not fit into memory together


class Reference:
    """Prompts of one length, all positions computed.

    Args:
        clip: the dual encoder.
        sequences: `PromptSequences`.
        length: to which prompts are filled up; default: the longest prompt's.
    """

    def __init__(self, clip, sequences, length=None):
        self.clip = clip
        self.length = length or max(map(len, sequences.ids))
        filled = torch.tensor([[*ids, *[ids[-1]] * (self.length - len(ids))] for ids in sequences.ids])
        self.is_learned = filled >= sequences.vocab_size
        self.token_ids = filled.masked_fill(self.is_learned, 0)
        self.rows = (filled - sequences.vocab_size).masked_fill(~self.is_learned, 0)
        self.eos = torch.tensor([len(ids) - 1 for ids in sequences.ids])

    def features(self, vectors, part=slice(None)):
        """Text features `[..., C, P]` of the classes in `part`, from vectors `[..., R, D]`."""
        text = self.clip.text_model
        tokens = text.embeddings.token_embedding(self.token_ids[part])
        embeds = torch.where(self.is_learned[part][..., None], vectors[..., self.rows[part], :], tokens)
        states = text.embeddings(inputs_embeds=embeds.flatten(0, -3))
        mask = create_causal_mask(config=text.config, inputs_embeds=states, attention_mask=None, past_key_values=None)
        states = text.encoder(inputs_embeds=states, attention_mask=mask, is_causal=True).last_hidden_state
        at_eos = states[torch.arange(len(states)), self.eos[part].repeat(len(states) // len(self.eos[part]))]
        return self.clip.text_projection(text.final_layer_norm(at_eos)).unflatten(0, embeds.shape[:-2])

    def step(self, vectors):
        """Forward and backward of all classes, in parts where they do not fit into memory at once."""
        at_once = POSITIONS_AT_ONCE // self.length
        for start in range(0, len(self.eos), at_once):
            objective(self.features(vectors, slice(start, start + at_once))).backward()

    def step_by_images(self, vectors, images_at_once=None):
        """CoCoOp's forward and backward for vectors `[B, R, D]`.

        Args:
            vectors: of each image.
            images_at_once: default: as many as fit into memory.
        """
        at_once = images_at_once or max(1, POSITIONS_AT_ONCE // (self.length * len(self.eos)))
        for some in vectors.split(at_once):
            objective(self.features(some)).backward()


def objective(features):
    """A scalar that depends on every feature's direction."""
    return torch.nn.functional.normalize(features.float(), dim=-1)[..., :3].sum()
