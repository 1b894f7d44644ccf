"""The nearest words of a context as a table in text, and as a picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..markdown import escape, table
from .interpretation import ContextWords, NearWord, by_number
from .reports.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARK = "*"
MAX_PANELS = 6
PANELS_IN_A_ROW = 2
LONGEST_LABEL = 18
LONGEST_TITLE = 40
# From near to far; light enough for black text.
COLOURS = ("#7db8da", "#f6fafd")
ROW_HEIGHT = 0.27


def format_words(words: Sequence[ContextWords], markdown: bool = False) -> str:
    """A table of the nearest words and their distances, a row per vector.

    Args:
        words: what `nearest_words` found.
        markdown: Markdown and not plain text. Whole words are bold there, and have a star in plain text.
    """
    if markdown:
        return _markdown(words)
    parts = []
    for class_name, group in by_class(words):
        title = [] if class_name is None else [class_name]
        rows = [[_plain_cell(word) for word in each.words] for each in group]
        widths = [max(display_width(cell) for cell in column) for column in zip(*rows, strict=True)]
        names = [label_of(each) for each in group]
        longest = max(4, *map(display_width, names))
        lines = [
            " " * (longest - display_width(name))
            + "  ".join([name, *(pad(cell, width) for cell, width in zip(row, widths, strict=True))])
            for name, row in zip(names, rows, strict=True)
        ]
        parts.append("\n".join([*title, *(line.rstrip() for line in lines)]))
    return "\n\n".join([*parts, f"{MARK} a whole word; the others are pieces of words"])


def by_class(words: Sequence[ContextWords]) -> list[tuple[str | None, list[ContextWords]]]:
    """The entries of each class, or place, together; one begins where counting does, since names may be equal."""
    groups: list[tuple[str | None, list[ContextWords]]] = []
    for each in words:
        if not groups or groups[-1][0] != each.title or groups[-1][1][-1].index >= each.index:
            groups.append((each.title, []))
        groups[-1][1].append(each)
    return groups


def label_of(each: ContextWords) -> str:
    """What a vector is called in its group: by the word that it stands for, or by its number."""
    return each.stands_for or str(each.index + 1)


def _plain_cell(word: NearWord) -> str:
    return f"{word.text}{MARK if word.is_whole_word else ''} {word.distance:.4f}"


def _markdown(words: Sequence[ContextWords]) -> str:
    has_titles = any(each.title is not None for each in words)
    heading = "class" if any(each.class_name is not None for each in words) else "place"
    n_words = max((len(each.words) for each in words), default=0)
    header = [*([heading] if has_titles else []), "vector", *(f"word {rank + 1}" for rank in range(n_words))]
    rows = []
    for each in words:
        cells = [f"{_markdown_word(word)} {word.distance:.4f}" for word in each.words]
        rows.append([*([escape(each.title or "")] if has_titles else []), escape(label_of(each)), *cells])
    return table(header, rows)


def _markdown_word(word: NearWord) -> str:
    return f"**{escape(word.text)}**" if word.is_whole_word else escape(word.text)


def display_width(text: str) -> int:
    """How many columns a terminal takes for a text."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def pad(text: str, width: int) -> str:
    """A text filled with spaces to a number of columns."""
    return text + " " * (width - display_width(text))


def plot_words(words: Sequence[ContextWords], path: str | Path) -> None:
    """Draw the nearest words as a table whose cells are the darker the nearer the word; a panel for every class.

    Args:
        words: what `nearest_words` found, of one context or of up to six classes.
        path: the picture to write, a PNG or what else matplotlib knows by the name's ending.

    Raises:
        ValueError: if there are no words or too many classes, or matplotlib cannot write such a file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = by_class(words)
    if not 1 <= len(groups) <= MAX_PANELS:
        raise ValueError(
            f"A picture has room for 1 to {MAX_PANELS} classes, got {len(groups)}: choose some with the `class_names` "
            "of `nearest_words`."
        )
    columns = min(len(groups), PANELS_IN_A_ROW)
    rows = -(-len(groups) // columns)
    n_ctx, n_words = max(len(group) for _, group in groups), len(words[0].words)
    labels = {word.text: drawable(word.text) for each in words for word in each.words}
    cell_width = 0.55 + 0.075 * max(map(len, labels.values()))
    size = (columns * (0.55 + n_words * cell_width) + 0.9, rows * (0.6 + n_ctx * ROW_HEIGHT) + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    distances = [word.distance for each in words for word in each.words]
    for panel, (class_name, group) in zip(panels, groups, strict=False):
        image = _draw_panel(panel, group, labels, (min(distances), max(distances)))
        if class_name is not None:
            panel.set_title(
                drawable(class_name, LONGEST_TITLE), fontsize=10, fontweight="bold", loc="left", parse_math=False
            )
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    _finish(figure, image, panels)
    save_figure(figure, path)


def _draw_panel(panel: Axes, group: list[ContextWords], labels: dict[str, str], limits: tuple[float, float]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    cells = [[word.distance for word in each.words] for each in group]
    # A list: older matplotlib reads a tuple of two as one colour and how opaque it is.
    colours = LinearSegmentedColormap.from_list("near to far", list(COLOURS))
    image = panel.imshow(cells, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for row, each in enumerate(group):
        for column, word in enumerate(each.words):
            weight = "bold" if word.is_whole_word else "normal"
            panel.text(column - 0.46, row, labels[word.text], weight=weight, fontsize=8, va="center", parse_math=False)
            panel.text(
                column + 0.46, row, f"{word.distance:.3f}", fontsize=6.5, color="#444444", va="center", ha="right"
            )
    panel.set_xticks(range(len(cells[0])), [f"{rank + 1}" for rank in range(len(cells[0]))])
    panel.set_yticks(range(len(group)), [drawable(label_of(each)) for each in group], parse_math=False)
    panel.tick_params(length=0, labelsize=8)
    panel.spines[:].set_visible(False)
    for edge in range(1, len(group)):
        panel.axhline(edge - 0.5, color="white", linewidth=1)
    for edge in range(1, len(cells[0])):
        panel.axvline(edge - 0.5, color="white", linewidth=1)
    return image


def _finish(figure: Figure, image: Any, panels: Any) -> None:
    figure.supxlabel("nearest words, by rank (bold: whole words)", fontsize=9)
    figure.supylabel("learned vector", fontsize=9)
    bar = figure.colorbar(image, ax=list(panels), aspect=30, fraction=0.03, pad=0.015)
    bar.set_label("Euclidean distance", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def drawable(text: str, longest: int = LONGEST_LABEL) -> str:
    """A text as matplotlib's font can draw it: characters that it lacks become their numbers, a long text is cut."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [get_font(findfont(FontProperties(weight=weight))) for weight in ("normal", "bold")]
    drawn = "".join(each if all(font.get_char_index(ord(each)) for font in fonts) else by_number(each) for each in text)
    return drawn if len(drawn) <= longest else f"{drawn[: longest - 1]}…"
