"""The page: what stands where, and which of `Visits` answers what. The only file here that imports Gradio's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ..markdown import escape
from .entries import ACCEPTED, SUFFIXES
from .learning import MOST_EXAMPLES, Examples
from .markup import examples_table
from .visits import Visits

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
# Fonts of the visitor's own machine: none is loaded.
THEME = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
EPOCHS, MOST_EPOCHS = 100, 200


class Page:
    """The page and its events.

    Args:
        visits: answers.
        title: of the page.
    """

    def __init__(self, visits: Visits, title: str):
        self.visits = visits
        self.given = [(one.title, str(place)) for place, one in enumerate(visits.shelf.given)]
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 86400)) as self.blocks:
            self.examples = gr.State(Examples())
            self.learned = gr.State(None, delete_callback=visits.shelf.remove)
            gr.Markdown(f"# {escape(title)}")
            self.choice = gr.Dropdown(self.given, value="0", label="Prompt", filterable=False, elem_id="choice")
            with gr.Tab("Classify"):
                self._lay_out_classify()
            with gr.Tab("Learn"):
                self._lay_out_learn()
            with gr.Tab("Nearest words"):
                self._lay_out_words()
            self._connect()

    def _lay_out_classify(self) -> None:
        first = self.visits.shelf.given[0]
        with gr.Row():
            with gr.Column(min_width=300):
                self.file = gr.File(label="Picture", file_types=list(SUFFIXES), height=130, elem_id="picture")
                gr.HTML(f'<p class="pc-note">{ACCEPTED}.</p>', padding=False, apply_default_css=False)
                self.preview = gr.Image(
                    label="Preview", interactive=False, height=220, visible=False, buttons=[], elem_id="preview"
                )
                self.names = gr.Textbox(
                    "\n".join(first.class_names),
                    label="Class names, one on each line",
                    lines=6,
                    max_lines=12,
                    elem_id="names",
                )
            with gr.Column(min_width=300):
                self.result = gr.HTML(
                    self.visits.classify("0", None, None, self.names.value),
                    elem_id="result",
                    padding=False,
                    apply_default_css=False,
                )

    def _lay_out_learn(self) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                self.new_name = gr.Textbox(label="Class name", max_lines=1, elem_id="new-name")
                self.new_pictures = gr.File(
                    label=f"Pictures of it, up to {MOST_EXAMPLES}",
                    file_count="multiple",
                    file_types=list(SUFFIXES),
                    height=170,
                    elem_id="new-pictures",
                )
                self.add = gr.Button("Add the class", elem_id="add")
            with gr.Column(min_width=300):
                self.classes = gr.HTML(
                    examples_table(Examples()), elem_id="classes", padding=False, apply_default_css=False
                )
                self.epochs = gr.Slider(1, MOST_EPOCHS, EPOCHS, step=1, label="Passes over the pictures")
                self.learn = gr.Button("Learn a prompt", variant="primary", elem_id="learn")
                self.state = gr.HTML(elem_id="state", padding=False, apply_default_css=False)
                self.download = gr.DownloadButton("Download the prompt", visible=False, elem_id="download")
                self.again = gr.Button("Start over", size="sm", elem_id="again")

    def _lay_out_words(self) -> None:
        with gr.Row():
            self.whole_words = gr.Checkbox(label="Whole words only", elem_id="whole-words")
            self.show_words = gr.Button("Show the words nearest to the learned vectors", elem_id="show-words")
        self.words = gr.HTML(elem_id="words", elem_classes="pc-words", padding=False, apply_default_css=False)

    def _connect(self) -> None:
        asked = [self.choice, self.learned, self.file, self.names]
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        live: dict[str, Any] = {**hidden, "trigger_mode": "always_last"}
        classify = self.visits.classify
        self.file.change(self._show, [self.file], [self.preview], **hidden)
        # An event for each: of one of several triggers, "always_last" keeps the first.
        self.file.change(classify, asked, [self.result], **live)
        self.names.change(classify, asked, [self.result], **live)
        chosen = self.choice.input(self.visits.class_names, [self.choice, self.learned], [self.names], **hidden)
        chosen.then(classify, asked, [self.result], **hidden).then(lambda: "", None, [self.words], **hidden)
        to_add = [self.examples, self.new_name, self.new_pictures]
        self.add.click(self._add, to_add, [self.examples, self.classes, self.new_name, self.new_pictures], **hidden)
        self.again.click(
            lambda: (Examples(), examples_table(Examples()), ""),
            None,
            [self.examples, self.classes, self.state],
            **hidden,
        )
        after = [self.learned, self.state, self.choice, self.names, self.download]
        self.blocks.unload(self._leave)
        self.learn.click(self._learn, [self.examples, self.epochs, self.learned], after, api_visibility="private").then(
            classify, asked, [self.result], **hidden
        )
        asked_words = [self.choice, self.learned, self.whole_words]
        gr.on(
            [self.show_words.click, self.whole_words.input],
            self.visits.nearest_words,
            asked_words,
            [self.words],
            **hidden,
        )

    def _show(self, file: str | None) -> Any:
        picture = self.visits.preview(file)
        return gr.update(value=picture, visible=picture is not None)

    def _add(self, examples: Examples, name: str | None, pictures: list[str] | None) -> tuple[Any, ...]:
        more, added, table = self.visits.add_class(examples, name, pictures)
        return (more, table, "", None) if added else (more, table, gr.skip(), gr.skip())

    def _leave(self, request: gr.Request) -> None:
        self.visits.leave(request.session_hash)

    def _learn(self, examples: Examples, epochs: float, before: str | None, request: gr.Request) -> tuple[Any, ...]:
        found = self.visits.learn(examples, epochs, before, request.session_hash)
        if found.names is None:
            return found.key, found.message, gr.skip(), gr.skip(), gr.skip()
        choice = gr.update(choices=[*self.given, ("Learned here", "learned")], value="learned")
        return found.key, found.message, choice, found.names, gr.update(value=found.archive, visible=True)
