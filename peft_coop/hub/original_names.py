"""The class names of an original checkpoint, which holds them as token embeddings only."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ..prompts import PromptTokenizer
from ..towers import token_embedding
from .original_file import OriginalCheckpoint

# Relative to an embedding's length. Half precision is off by 0.0005, bfloat16 by 0.004; the next token is far away.
TOLERANCE = 0.02
ROWS_AT_ONCE = 256

# Decoding sets spaces between tokens: "boeing 7 3 7 - 2 0 0", "kite ( bird of prey )". These take them out again.
SPACES = (
    (r"(?<=\d) (?=\d)(?!(?:1 9|2 0) \d \d$)", ""),  # a year at the end is a number of its own
    (r" ?([-'’]+) ?", r"\1"),
    (r"\( ", "("),
    (r" (?=[).,;:!?])", ""),
    (r"(?<=\d\.) (?=\d)", ""),
    (r"(?<=\b[a-z]) (?=\d{1,3}\b)", ""),
)


def recover_class_names(
    checkpoint: OriginalCheckpoint, model: nn.Module, tokenizer: PromptTokenizer, template: str = "{}."
) -> list[str]:
    """Find the class names that a checkpoint was learned with, by their token embeddings.

    They come back as CLIP's tokenizer has them: in lower case, and with spaces where that makes no difference to it
    ("a300 b4" for "A300B4").

    Args:
        checkpoint: what `read_original` returned.
        model: the CLIP that the checkpoint was learned with.
        tokenizer: its tokenizer.
        template: the fixed text behind the context, with {} for the name.

    Raises:
        ValueError: if the file has no `token_suffix`, the embeddings are not this model's, or no text has such tokens.
    """
    names = name_token_ids(checkpoint, model, tokenizer.after[0])
    return [spell(ids, index, checkpoint, tokenizer, template) for index, ids in enumerate(names)]


def matching_token_embedding(checkpoint: OriginalCheckpoint, model: nn.Module) -> nn.Embedding:
    """The token embeddings of a model's text tower.

    Raises:
        ValueError: if they are of another width than the checkpoint's.
    """
    table = token_embedding(model)
    width, expected = checkpoint.ctx.shape[-1], table.embedding_dim
    if width != expected:
        raise ValueError(
            f"{checkpoint.path} is not of this base model: its vectors have {width} dimensions, and the text tower has "
            f"{expected}. Give the CLIP that it was learned with."
        )
    return table


def name_token_ids(checkpoint: OriginalCheckpoint, model: nn.Module, eos_token_id: int) -> list[list[int]]:
    """The tokens of every class's name and full stop.

    Raises:
        ValueError: if the file has no `token_suffix`, or it is not made of this model's embeddings.
    """
    suffix = checkpoint.token_suffix
    if suffix is None:
        raise ValueError(f"{checkpoint.path} has no `token_suffix` to find the class names in: give `class_names`.")
    table = matching_token_embedding(checkpoint, model).weight.detach().float().cpu()
    names: list[list[int]] = [[] for _ in suffix]
    unfinished = list(range(len(suffix)))
    for place in range(suffix.shape[1]):
        ids = _nearest_ids(suffix[unfinished, place], table, f"{checkpoint.path}: token {place} of `token_suffix`")
        for index, token in zip(unfinished, ids, strict=True):
            names[index].append(token)
        unfinished = [index for index in unfinished if names[index][-1] != eos_token_id]
        if not unfinished:
            return [ids[:-1] for ids in names]
    raise ValueError(f"{checkpoint.path}: the prompt of class {unfinished[0]} has no EOS ({eos_token_id}).")


def _nearest_ids(rows: Tensor, table: Tensor, what: str) -> list[int]:
    """The tokens that `rows` `[C, D]` are the embeddings of, in the table `[V, D]`."""
    ids: list[int] = []
    for part in rows.split(ROWS_AT_ONCE):
        distances, tokens = torch.cdist(part, table).min(dim=1)
        if (distances > TOLERANCE * part.norm(dim=1)).any():
            raise ValueError(
                f"{what} is not the embedding of any token of this base model: the checkpoint was learned with another "
                "CLIP, give that one."
            )
        ids += tokens.tolist()
    return ids


def spell(
    ids: list[int], index: int, checkpoint: OriginalCheckpoint, tokenizer: PromptTokenizer, template: str = "{}."
) -> str:
    """The name of class `index`, given the tokens of name and full stop.

    Raises:
        ValueError: if no text was found that has these tokens.
    """

    def decoded(tokens: list[int]) -> str:
        return tokenizer.tokenizer.decode(tokens, clean_up_tokenization_spaces=False).strip()

    # As they are read back, with spaces between tokens: " , a type of pet ."
    before, after = (decoded(tokens) for tokens in tokenizer.encode([part.strip() for part in template.split("{}")]))
    name = decoded(ids).removeprefix(f"{before} ").removesuffix(after).strip()
    closer = name
    for spaced, put_together in SPACES:
        closer = re.sub(spaced, put_together, closer)
    for spelling in (closer, name):
        if spelling and tokenizer.encode([template.replace("{}", spelling)]) == [ids]:
            return spelling
    raise ValueError(
        f"{checkpoint.path}: the name of class {index} cannot be told from its tokens, it is about {name!r}. Give "
        "`class_names`."
    )
