"""Draw `docs/images/token-tree.svg`: four prompts one by one, and as the tree that this package computes.

python docs/scripts/draw_token_tree.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from peft_coop.prompts import NameTokens
from peft_coop.prompts.sequences import context_sequences
from peft_coop.prompts.tree import build_tree

OUTPUT = Path(__file__).parents[1] / "images" / "token-tree.svg"
NAMES = ("red fox", "red panda", "grey wolf", "grey seal")
N_CTX = 4
PADDED = 77
FRAME, VECTOR, NAME = "#e4e7ec", "#f6b26b", "#9fc5e8"
WORDS = ["red", "fox", "panda", "grey", "wolf", "seal", "."]
BEGIN, END, VOCABULARY = 7, 8, 9


class Specials:
    """What stands at both ends of a text; every word is one token here, as it is in CLIP's vocabulary."""

    pad_token_id = END

    @staticmethod
    def framed(ids):
        """Ids between BOS and EOS."""
        return (BEGIN, *ids, END)


def sequences():
    """The four prompts as ids."""
    tokens = [NameTokens(name, tuple(map(WORDS.index, [*name.split(), "."])), 2) for name in NAMES]
    return context_sequences(tokens, Specials(), VOCABULARY, N_CTX, "end", False)


def prompts() -> list[tuple[str, ...]]:
    """The four prompts as words."""
    context = [f"v{place}" for place in range(1, N_CTX + 1)]
    return [("BOS", *context, *name.split(), ".", "EOS") for name in NAMES]


def nodes() -> dict[tuple[str, ...], float]:
    """Every distinct prefix with its height: the mean of the prompts that begin with it."""
    found: dict[tuple[str, ...], list[int]] = {}
    for row, words in enumerate(prompts()):
        for end in range(1, len(words) + 1):
            found.setdefault(words[:end], []).append(row)
    return {prefix: sum(rows) / len(rows) for prefix, rows in found.items()}


def box(axes: Axes, column: float, row: float, word: str) -> None:
    """One position of a prompt."""
    colour = VECTOR if word.startswith("v") else FRAME if word in ("BOS", "EOS", ".") else NAME
    style = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "facecolor": colour, "edgecolor": "#5f6b7a", "lw": 0.6}
    axes.add_patch(mpl.patches.FancyBboxPatch((column - 0.36, row - 0.27), 0.72, 0.54, **style))
    axes.text(column, row, word, ha="center", va="center", fontsize=8, color="#1c2430")


def draw_one_by_one(axes: Axes) -> None:
    """Each prompt by itself, with the padding of the original behind it."""
    for row, words in enumerate(prompts()):
        for column, word in enumerate(words):
            box(axes, column, row, word)
        axes.text(len(words) - 0.4, row, f"+ {PADDED - len(words)}", va="center", fontsize=9, color="#5f6b7a")
    trimmed = sum(map(len, prompts()))
    axes.set_title(
        f"one by one: {len(NAMES) * PADDED} positions with padding, {trimmed} without", fontsize=10, loc="left"
    )


def draw_tree(axes: Axes) -> None:
    """The prefixes that are different, each once, joined to what stands before them."""
    heights = nodes()
    for prefix, height in heights.items():
        if len(prefix) > 1:
            before = heights[prefix[:-1]]
            axes.plot([len(prefix) - 2, len(prefix) - 1], [before, height], color="#5f6b7a", lw=0.8, zorder=0)
        box(axes, len(prefix) - 1, height, prefix[-1])
    computed = build_tree(sequences()).n_computed
    if computed != len(heights):
        raise ValueError(f"The picture has {len(heights)} positions and the package computes {computed}.")
    axes.set_title(f"as a tree: {computed} positions, the same numbers", fontsize=10, loc="left")


def main() -> None:
    """Draw both, with the same scale."""
    plt.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "token tree", "font.family": "DejaVu Sans"})
    figure, (first, second) = plt.subplots(2, 1, figsize=(5.4, 4.4), layout="constrained")
    for axes, draw in ((first, draw_one_by_one), (second, draw_tree)):
        draw(axes)
        axes.set(xlim=(-0.5, 9.4), ylim=(3.6, -0.6), aspect="auto")
        axes.axis("off")
    figure.savefig(OUTPUT, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
