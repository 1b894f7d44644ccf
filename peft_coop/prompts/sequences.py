"""Prompts as plain sequences of ids over an extended vocabulary.

The ids `0 … V-1` are the tower's own tokens; id `V + r` is row `r` of a table of learnable vectors. Every function here
works on integers alone.

Reference: CoOp (arXiv:2109.01134), whose M is `n_ctx`; the paper's [CLASS] is the class-name tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .tokens import NameTokens, PromptTokenizer

CLASS_TOKEN_POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True)
class PromptSequences:
    """Prompts over the extended vocabulary, each with the special tokens around it.

    Attributes:
        ids: one tuple of ids per prompt; a causal tower reads the text feature at the last one, EOS.
        vocab_size: V, the first id that stands for a learnable vector.
        pad_token_id: what shorter prompts are filled up with where a tower wants them alike.
        parts: whether from some layer on each prompt has vectors of its own, which the others' do not share.
    """

    ids: tuple[tuple[int, ...], ...]
    vocab_size: int
    pad_token_id: int = 0
    parts: bool = False


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
    """Build the prompts of some classes: `BOS context name . EOS`, or what else the tokenizer puts around a text.

    Args:
        names: the C classes.
        tokenizer: gives what stands around a text.
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
        prompts.append(tokenizer.framed(inner))
    return PromptSequences(tuple(prompts), vocab_size, tokenizer.pad_token_id)


def text_sequences(texts: Sequence[str], tokenizer: PromptTokenizer, vocab_size: int) -> PromptSequences:
    """Build hand-written prompts."""
    framed = tuple(map(tokenizer.framed, tokenizer.encode(texts)))
    return PromptSequences(framed, vocab_size, tokenizer.pad_token_id)


def spliced_sequences(
    texts: Sequence[Sequence[int]], tokenizer: PromptTokenizer, vocab_size: int, n_ctx: int, position: str = "end"
) -> PromptSequences:
    """Put the context into prompts that are given as token ids without BOS and EOS.

    A full stop that ends the text stays outside the name, as in `context_sequences`; where no full stop ends it, the
    whole text is the name.
    """
    name, with_stop = tokenizer.encode(["cat", "cat."])
    stop = with_stop[len(name) :]  # none where the tokenizer drops it
    names = []
    for ids in texts:
        ends_in_stop = bool(stop) and len(ids) > len(stop) and list(ids[-len(stop) :]) == stop
        names.append(NameTokens("", tuple(ids), len(ids) - len(stop) * ends_in_stop))
    return context_sequences(names, tokenizer, vocab_size, n_ctx, position)


def check_lengths(
    sequences: PromptSequences,
    descriptions: Sequence[str],
    limit: int,
    n_ctx: int = 0,
    n_special: int = 2,
    setting: str = "`n_ctx`",
    template: str | None = None,
) -> None:
    """Check that every prompt fits the tower's positions.

    Args:
        sequences: the prompts.
        descriptions: what each prompt is about, for the message.
        limit: `max_position_embeddings` of the tower.
        n_ctx: how many of a prompt's ids are context vectors.
        n_special: how many stand around the text: BOS and EOS.
        setting: what says how many context vectors there are, for the message.
        template: the text that the names stand in, where there is one, for the message.

    Raises:
        ValueError: naming the longest prompt, its parts, the limit and the way out.
    """
    longest = max(range(len(sequences.ids)), key=lambda index: len(sequences.ids[index]))
    length = len(sequences.ids[longest])
    if length <= limit:
        return
    text_length = length - n_ctx - n_special
    room = limit - text_length - n_special
    if template is not None:
        way_out = f"shorten the name or the template to {limit - n_special} tokens together"
    elif not n_ctx:
        way_out = f"shorten the text to {limit - n_special} tokens or less"
    elif room >= 1:
        way_out = f"lower {setting} to {room} or less"
    else:
        way_out = "shorten the name"
    about = f"{descriptions[longest]!r}" + (f" in the template {template!r}" if template is not None else "")
    raise ValueError(
        f"The prompt for {about} needs {length} tokens (context {n_ctx}, name and full stop "
        f"{text_length}, special tokens {n_special}), but this text tower reads {limit}: {way_out}."
    )
