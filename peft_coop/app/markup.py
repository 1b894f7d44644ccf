"""Answers as HTML in which every text of a visitor is text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..evaluation.interpretation import ContextWords
from .classifiers import Answer
from .learning import Examples

SHOWN = 50  # rows of a table


def problem(message: str) -> str:
    """What went wrong, for the visitor to read."""
    return f'<p class="pc-problem" role="alert">{escape(message)}</p>'


def notice(message: str) -> str:
    """What went well."""
    return f'<p class="pc-notice" role="status">{escape(message)}</p>'


def answer_table(answer: Answer, learned_title: str | None) -> str:
    """The answer, and its probabilities beside those of zero-shot CLIP.

    Args:
        answer: of one picture.
        learned_title: over the learned prompt's column; None where there is no learned prompt.
    """
    head = ["Class", *([] if learned_title is None else [learned_title]), "Zero-shot CLIP"]
    body = []
    for row in answer.rows[:SHOWN]:
        shares = ([] if learned_title is None else [row.learned]) + [row.zero_shot]
        cells = "".join(f"<td>{_bar(share)}</td>" for share in shares)
        body.append(f'<tr><th scope="row">{escape(row.label)}</th>{cells}</tr>')
    notes = list(answer.notes)
    if len(answer.rows) > SHOWN:
        notes.append(f"{len(answer.rows) - SHOWN} less likely classes are not shown.")
    told = "".join(f'<p class="pc-note">{escape(note)}</p>' for note in notes)
    return f'<p class="pc-answer">{escape(", ".join(answer.labels) or "none of them")}</p>{_table(head, body)}{told}'


def words_table(vectors: Sequence[ContextWords]) -> str:
    """The nearest words of each vector, with their distances."""
    has_owner = any(vector.title or vector.stands_for for vector in vectors)
    head = ["Vector", *(["Of"] if has_owner else []), "Nearest words, with distance"]
    body = []
    for vector in vectors[:SHOWN]:
        owner = f"<td>{escape(vector.stands_for or vector.title or '')}</td>" if has_owner else ""
        words = " ".join(
            f'<span class="pc-word">{escape(word.text)}{"*" if word.is_whole_word else ""}'
            f"<small>{word.distance:.3f}</small></span>"
            for word in vector.words
        )
        body.append(f'<tr><th scope="row">{vector.index + 1}</th>{owner}<td>{words}</td></tr>')
    more = f" {len(vectors) - SHOWN} more vectors are not shown." if len(vectors) > SHOWN else ""
    marks = f'<p class="pc-note">* marks whole words; the others are parts of longer ones.{more}</p>'
    return f"{_table(head, body)}{marks}"


def examples_table(examples: Examples) -> str:
    """The classes that are to be learned, and how many pictures there are of each."""
    if not examples.classes:
        return '<p class="pc-note">No class yet: two or more are needed.</p>'
    body = [
        f'<tr><th scope="row">{escape(name)}</th><td>{len(pictures)}</td></tr>' for name, pictures in examples.classes
    ]
    return _table(["Class", "Pictures"], body)


def _table(head: Sequence[str], body: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
    return f'<table class="pc-table"><thead><tr>{cells}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _bar(share: float | None) -> str:
    if share is None:
        return "–"
    return f'<span class="pc-bar" style="--share:{share:.4f}"></span><span class="pc-number">{share:.1%}</span>'
