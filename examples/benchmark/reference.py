"""The padded form that the tree is measured against: every prompt 77 positions, all of them computed.

Plain PyTorch on the same Hugging Face tower. CoCoOp takes one image at a time, as the original implementation does.
"""

import torch
from transformers.masking_utils import create_causal_mask

LENGTH = 77


class PaddedReference:
    """Prompts padded to 77 positions.

    Args:
        clip: the dual encoder.
        sequences: `PromptSequences`.
    """

    def __init__(self, clip, sequences):
        self.clip = clip
        padded = torch.tensor([[*ids, *[ids[-1]] * (LENGTH - len(ids))] for ids in sequences.ids])
        self.is_learned = padded >= sequences.vocab_size
        self.token_ids = padded.masked_fill(self.is_learned, 0)
        self.rows = (padded - sequences.vocab_size).masked_fill(~self.is_learned, 0)
        self.eos = torch.tensor([len(ids) - 1 for ids in sequences.ids])

    def features(self, vectors, part=slice(None)):
        """Text features `[C, P]` of the classes in `part`, from vectors `[R, D]`."""
        text = self.clip.text_model
        tokens = text.embeddings.token_embedding(self.token_ids[part])
        embeds = torch.where(self.is_learned[part][..., None], vectors[self.rows[part]], tokens)
        states = text.embeddings(inputs_embeds=embeds)
        mask = create_causal_mask(config=text.config, inputs_embeds=states, attention_mask=None, past_key_values=None)
        states = text.encoder(inputs_embeds=states, attention_mask=mask, is_causal=True).last_hidden_state
        at_eos = states[torch.arange(len(states)), self.eos[part]]
        return self.clip.text_projection(text.final_layer_norm(at_eos))

    def step(self, vectors, classes_at_once):
        """Forward and backward of all classes, in parts where they do not fit into memory at once."""
        for start in range(0, len(self.eos), classes_at_once):
            part = slice(start, start + classes_at_once)
            objective(self.features(vectors, part)).backward()

    def step_per_image(self, vectors):
        """CoCoOp's forward and backward for vectors `[B, R, D]`, one image after the other."""
        for one in vectors:
            objective(self.features(one)).backward()


def objective(features):
    """A scalar that depends on every feature's direction."""
    return torch.nn.functional.normalize(features.float(), dim=-1)[..., :3].sum()
