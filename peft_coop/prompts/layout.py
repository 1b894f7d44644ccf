"""Prompts as plain sequences of ids over an extended vocabulary.

The ids `0 … V-1` are the tower's own tokens; id `V + r` is row `r` of a table of learnable vectors. Every function here
works on integers alone.

Reference: CoOp (arXiv:2109.01134), whose M is `n_ctx`; the paper's [CLASS] is the class-name tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .class_names import clean_name
from .tokens import NameTokens, PromptTokenizer

CLASS_TOKEN_POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True)
class PromptSequences:
    """Prompts, each from BOS to EOS, over the extended vocabulary.

    Attributes:
        ids: one tuple of ids per prompt; the last id of each is EOS, where the text feature is read.
        vocab_size: V, the first id that stands for a learnable vector.
    """

    ids: tuple[tuple[int, ...], ...]
    vocab_size: int


def around_context(name: Sequence[int], rest: Sequence[int], ctx: Sequence[int], position: str) -> list[int]:
    """Lay out one prompt's inner part.

    Args:
        name: ids of the class name.
        rest: ids that follow the name, the full stop as a rule.
        ctx: ids of the context vectors.
        position: "end" gives `ctx name rest`, "middle" half of the context (rounded down) before the name and the
            other half after it, "front" `name ctx rest`.
    """
    before = {"end": len(ctx), "middle": len(ctx) // 2, "front": 0}[position]
    return [*ctx[:before], *name, *ctx[before:], *rest]


def context_sequences(
    names: Sequence[NameTokens],
    tokenizer: PromptTokenizer,
    vocab_size: int,
    n_ctx: int,
    position: str = "end",
    class_specific: bool = False,
) -> PromptSequences:
    """Build the prompts `BOS context name . EOS` of some classes.

    Args:
        names: the C classes.
        tokenizer: gives BOS and EOS.
        vocab_size: V of the text tower.
        n_ctx: M, the number of context vectors in a prompt.
        position: where the class name stands, see `around_context`.
        class_specific: class `k` uses rows `k*M … k*M + M-1` of the table, and not rows `0 … M-1` like every other.
    """
    prompts = []
    for index, name in enumerate(names):
        first = vocab_size + (index * n_ctx if class_specific else 0)
        ctx = range(first, first + n_ctx)
        inner = around_context(name.ids[: name.name_length], name.ids[name.name_length :], ctx, position)
        prompts.append((tokenizer.bos_token_id, *inner, tokenizer.eos_token_id))
    return PromptSequences(tuple(prompts), vocab_size)


def template_sequences(
    class_names: Sequence[str], template: str, tokenizer: PromptTokenizer, vocab_size: int
) -> PromptSequences:
    """Build hand-written prompts: every class name in the `{}` of `template`."""
    texts = tokenizer.encode([template.replace("{}", clean_name(name)) for name in class_names])
    prompts = ((tokenizer.bos_token_id, *ids, tokenizer.eos_token_id) for ids in texts)
    return PromptSequences(tuple(prompts), vocab_size)


def spliced_sequences(
    texts: Sequence[Sequence[int]], tokenizer: PromptTokenizer, vocab_size: int, n_ctx: int, position: str = "end"
) -> PromptSequences:
    """Put the context into prompts that are given as token ids without BOS and EOS.

    A full stop that ends the text stays outside the name, as in `context_sequences`; where no full stop ends it, the
    whole text is the name.
    """
    [full_stop] = tokenizer.encode(["."])
    names = []
    for ids in texts:
        ends_in_stop = len(ids) > 1 and [ids[-1]] == full_stop
        names.append(NameTokens("", tuple(ids), len(ids) - ends_in_stop))
    return context_sequences(names, tokenizer, vocab_size, n_ctx, position)


def check_lengths(sequences: PromptSequences, descriptions: Sequence[str], limit: int, n_ctx: int = 0) -> None:
    """Check that every prompt fits the tower's positions.

    Args:
        sequences: the prompts.
        descriptions: what each prompt is about, for the message.
        limit: `max_position_embeddings` of the tower.
        n_ctx: how many of a prompt's ids are context vectors.

    Raises:
        ValueError: naming the longest prompt, its parts, the limit and the way out.
    """
    longest = max(range(len(sequences.ids)), key=lambda index: len(sequences.ids[index]))
    length = len(sequences.ids[longest])
    if length <= limit:
        return
    text_length = length - n_ctx - 2
    room = limit - text_length - 2
    if not n_ctx:
        way_out = f"shorten the text to {limit - 2} tokens or less"
    elif room >= 1:
        way_out = f"lower `n_ctx` to {room} or less"
    else:
        way_out = "shorten the name"
    raise ValueError(
        f"The prompt for {descriptions[longest]!r} needs {length} tokens (context {n_ctx}, name and full stop "
        f"{text_length}, BOS and EOS 2), but this text tower reads {limit}: {way_out}."
    )
