"""What is measured, and the numbers that follow from a case without running it."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from peft_coop.prompts import NameTokens
from peft_coop.prompts.sequences import context_sequences
from peft_coop.prompts.tree import build_tree

HERE = Path(__file__).parent
VOCAB = 49408
WIDTH, LAYERS = 512, 12


@dataclass(frozen=True)
class Case:
    """One row of the table; `images` is CoCoOp's batch, 0 for CoOp."""

    data: str
    n_cls: int
    n_ctx: int = 16
    position: str = "end"
    class_specific: bool = False
    images: int = 0

    @property
    def label(self) -> str:
        method = (
            f"CoCoOp, batch {self.images}" if self.images else "class-specific" if self.class_specific else "unified"
        )
        return f"{self.data} ({self.n_cls}), {method}, {self.position}, M = {self.n_ctx}"

    @property
    def n_vectors(self) -> int:
        return self.n_ctx * (self.n_cls if self.class_specific else 1)


class Specials:
    """BOS and EOS of CLIP's tokenizer."""

    pad_token_id = 49407

    @staticmethod
    def framed(ids):
        return (49406, *ids, 49407)


def load_names() -> dict[str, list[NameTokens]]:
    """Class names of eleven datasets, tokenised by CLIP's tokenizer."""
    tokens = json.loads((HERE / "class_tokens.json").read_text())
    return {data: [NameTokens(*row) for row in rows] for data, rows in tokens.items()}


def many_names(count: int) -> list[NameTokens]:
    """Names for more classes than a list has: pairs of ImageNet's."""
    names = load_names()["ImageNet"]
    pairs = []
    for distance in range(len(names)):
        for index, first in enumerate(names):
            if len(pairs) == count:
                return pairs
            second = names[(index + distance) % len(names)]
            if distance == 0:
                pairs.append(first)
            else:
                ids = (*first.ids[: first.name_length], *second.ids)
                pairs.append(NameTokens(f"{first.name} {second.name}", ids, first.name_length + second.name_length))
    return pairs


def sequences_of(case: Case):
    names = many_names(case.n_cls) if case.data == "pairs" else load_names()[case.data][: case.n_cls]
    return context_sequences(names, Specials(), VOCAB, case.n_ctx, case.position, case.class_specific)


def make_vectors(case: Case) -> torch.Tensor:
    """Learnable vectors, `[R, D]` or, for CoCoOp, `[B, R, D]`."""
    shape = (case.images, case.n_vectors, WIDTH) if case.images else (case.n_vectors, WIDTH)
    return (torch.randn(shape) * 0.02).requires_grad_()


def counts(case: Case, sequences) -> dict[str, int]:
    """Positions: padded, trimmed to the longest prompt, computed by the rows, distinct prefixes, and of a later step.

    Names before the context are computed in the first step only.
    """
    tree = build_tree(sequences)
    images = case.images or 1
    return {
        "padded": images * 77 * case.n_cls,
        "trimmed": images * max(map(len, sequences.ids)) * case.n_cls,
        "tree": images * tree.n_computed,
        "ideal": images * tree.n_nodes,
        "step": images * (tree.n_nodes - (names_first(sequences) if tree.frozen.ids.size else 0)),
    }


def names_first(sequences) -> int:
    """Distinct prefixes without a learnable vector."""
    prefixes = {ids[:end] for ids in map(tuple, sequences.ids) for end in range(1, len(ids) + 1)}
    return sum(max(prefix) < VOCAB for prefix in prefixes)


def flops(positions: int) -> int:
    """Multiplications and additions of a forward and backward pass through frozen layers, attention not counted."""
    return positions * LAYERS * 12 * WIDTH * WIDTH * 2 * 2


def table_cases() -> list[Case]:
    names = load_names()
    every_list = [Case(data, len(rows)) for data, rows in names.items()]
    settings = [
        Case("Caltech101", 100, n_ctx, position, class_specific)
        for class_specific in (False, True)
        for position in ("end", "middle", "front")
        for n_ctx in (16, 4)
    ]
    cocoop = [Case("OxfordPets", 37, 4, images=images) for images in (1, 8, 32)]
    return list(dict.fromkeys([*settings, Case("FGVCAircraft", 100), *cocoop, *every_list]))
