"""The text of our part of a model card: what the adapter is, how to use it, its results, classes and settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

from huggingface_hub import EvalResult
from peft import PeftConfig, PeftModel

from ..markdown import escape, table
from ..methods import METHODS, PromptConfig
from ..models.base_model_names import is_hub_id

SHOWN_CLASSES = 50
SHOWN_TEMPLATES = 3
UNKNOWN_DATASET = "unknown"
# Shown elsewhere in the card, or a fact of the machine that saved the adapter.
NOT_SETTINGS = {field.name for field in fields(PeftConfig)} | {"class_names", "tokenizer_name_or_path"}

SNIPPET = """\
```python
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, {model_class}

{imports}

base_model = {base_model}
adapter = {adapter}
clip = {model_class}.from_pretrained(base_model)
model = PeftModel.from_pretrained(clip, adapter{arguments})
{beside}{set_classes}processor = AutoImageProcessor.from_pretrained(base_model)

{example}
```
"""


def render(model: PeftModel, adapter_id: str, results: Sequence[EvalResult]) -> str:
    """Write our part of the card.

    Args:
        model: the model whose adapters the card describes.
        adapter_id: the repository's id on the Hub, or the name of the folder.
        results: what the table of results shows; none leaves it out.
    """
    sections = [introduction(model), usage(model, adapter_id)]
    if results:
        sections.append(results_table(results))
    prompts = prompts_of(model)
    if others := others_of(model):
        sections.append(beside_the_prompt(others))
    for name, config in prompts.items():
        of_adapter = f" of {code(name)}" if len(prompts) > 1 else ""
        sections += [f"## Classes{of_adapter}\n\n{classes_of(config)}"]
        sections += [f"## Settings{of_adapter}\n\n{settings_table(config)}"]
    return "\n\n".join(section.strip() for section in sections)


def introduction(model: PeftModel) -> str:
    """One paragraph: the base model, and per adapter the method and what it classifies into."""
    base, prompts = hub_base_model(model), prompts_of(model)
    of_base = f"[{base}](https://huggingface.co/{base})" if base else f"a {type(model.get_base_model()).__name__}"
    frozen = f"The vectors stand {where_vectors_stand(prompts.values())}; {what_of_clip(model)}."
    if len(prompts) == 1:
        [config] = prompts.values()
        return f"A prompt for {of_base}, learned with {summary(config)}. {frozen}"
    lines = [f"- {code(name)}, in {place(name)}: {summary(config)}" for name, config in prompts.items()]
    return f"{len(lines)} prompts for {of_base}, each an adapter. {frozen}\n\n" + "\n".join(lines)


def where_vectors_stand(configs: Iterable[PromptConfig]) -> str:
    """In which tower, in words; of several adapters in which of them any has some."""
    configs = list(configs)
    in_texts = any(METHODS[config.method].prompt.changes_text for config in configs)
    in_images = any(config.changes_vision for config in configs)
    places = {"where a hand-written prompt has its words": in_texts, "among an image's tokens": in_images}
    return " and ".join(words for words, is_so in places.items() if is_so)


def prompts_of(model: PeftModel) -> dict[str, PromptConfig]:
    """The prompts among a model's adapters, by name."""
    return {name: config for name, config in model.peft_config.items() if isinstance(config, PromptConfig)}


def others_of(model: PeftModel) -> dict[str, PeftConfig]:
    """The adapters of other methods, by name."""
    return {name: config for name, config in model.peft_config.items() if not isinstance(config, PromptConfig)}


def what_of_clip(model: PeftModel) -> str:
    """Half a sentence: what became of the base model's own weights."""
    if others_of(model):
        return "the model's own weights are changed by the adapters beside it, see below"
    saved = sorted({name for config in prompts_of(model).values() for name in config.modules_to_save or ()})
    if saved:
        return f"of the model's own weights, {', '.join(map(code, saved))} were trained, too, and are saved with it"
    return "the model's own weights are unchanged"


def place(adapter_name: str) -> str:
    """Where an adapter is saved, in words."""
    return f"the folder {code(adapter_name)}" if subfolder(adapter_name) else "this folder"


def beside_the_prompt(others: Mapping[str, PeftConfig]) -> str:
    """The adapters of other methods: they are needed for the numbers that the prompt was trained for."""
    lines = [f"- {code(name)}, in {place(name)}: {config.peft_type.value}" for name, config in others.items()]
    return "## Beside the prompt\n\nThese work together with the prompt:\n\n" + "\n".join(lines)


def summary(config: PromptConfig) -> str:
    """The method and the number of vectors and classes, in a few words."""
    method, n_vectors = METHODS[config.method], config.n_vectors
    vectors = "learned vectors" if n_vectors is None else f"{n_vectors} learned vector{'' if n_vectors == 1 else 's'}"
    of_what = " per class" if config.has_vectors_per_class else ""
    n_cls = len(config.class_names or ())
    classes = f"{n_cls:,} {'class' if n_cls == 1 else 'classes'}" if n_cls else "no classes yet"
    return f"{method.link}: {' '.join(filter(None, [vectors + of_what, method.summary]))}, {classes}"


def usage(model: PeftModel, adapter_id: str) -> str:
    """A snippet that runs as printed, and how to reach the other adapters."""
    base = hub_base_model(model)
    prompts = prompts_of(model)
    first, *others = sorted(prompts, key=lambda name: name != "default")
    arguments = "" if first == "default" else f", adapter_name={quote(first)}, subfolder={quote(first)}"
    beside = "".join(f"{load_line(name)}  # works together with the prompt\n" for name in others_of(model))
    has_classes = prompts[first].class_names is not None
    set_classes = "" if has_classes else 'model.set_classes(["cat", "dog"])  # classes of yours\n'
    in_folder = "" if "/" in adapter_id else "  # or this repository's id on the Hub"
    text = f"## How to use it\n\n{needs(prompts.values())}\n\n" + SNIPPET.format(
        imports="\n".join(imports(prompts.values())),
        model_class=type(model.get_base_model()).__name__,
        base_model=quote(base) if base else '"path/to/clip"  # the model that the adapter was trained with',
        adapter=quote(adapter_id) + in_folder,
        arguments=arguments,
        beside=beside,
        set_classes=set_classes,
        example=METHODS[prompts[first].method].prompt.task_head.example(prompts[first]),
    )
    if others:
        loads = [load_line(name) for name in others]
        switch = f"model.set_adapter({quote(others[0])})  # from now on this one classifies"
        text += "\nThe other prompts are loaded beside it:\n\n```python\n" + "\n".join([*loads, switch]) + "\n```\n"
    return text


def own_modules(configs: Iterable[PromptConfig]) -> list[str]:
    """The modules of methods that are no part of this package, whose import registers them."""
    package = __name__.partition(".")[0]
    modules = {type(config).__module__ for config in configs}
    return sorted(name for name in modules if name.partition(".")[0] != package)


def needs(configs: Iterable[PromptConfig]) -> str:
    """What must be installed to load the adapters."""
    own = own_modules(configs)
    if not own:
        return "This needs the package `peft-coop`."
    here = {name: "the code that its author ran" if name == "__main__" else f"the module {code(name)}" for name in own}
    return f"This needs the package `peft-coop` and {', '.join(here.values())}, which registers the method."


def imports(configs: Iterable[PromptConfig]) -> list[str]:
    """The lines that let PEFT know of the adapters' methods."""
    own = own_modules(configs)
    lines = ["import peft_coop  # without it PEFT does not know this kind of adapter"]
    lines += [f"import {name}  # calls `peft_coop.register_method`" for name in own if name != "__main__"]
    if "__main__" in own:
        lines.append("# Define and register the method here, with `peft_coop.register_method`.")
    return lines


def load_line(adapter_name: str) -> str:
    """The line of Python that loads one more adapter."""
    folder = f", subfolder={quote(adapter_name)}" if subfolder(adapter_name) else ""
    return f"model.load_adapter(adapter, {quote(adapter_name)}{folder})"


def results_table(results: Sequence[EvalResult]) -> str:
    """A table of measured values; shares of 1, such as an accuracy, are given as they were measured."""
    rows = []
    for result in results:
        known = result.dataset_name and result.dataset_name != UNKNOWN_DATASET
        on_what = f" on {escape(result.dataset_name)}" if known else ""
        value = result.metric_value
        shown = f"{value:.4f}" if isinstance(value, float) else escape(str(value))
        rows.append((escape(result.metric_name or result.metric_type) + on_what, shown))
    return "## Results\n\n" + table(("Metric", "Value"), rows)


def classes_of(config: PromptConfig) -> str:
    """The classes, and which others there can be."""
    return "\n\n".join(filter(None, [class_list(config.class_names), METHODS[config.method].other_classes]))


def class_list(class_names: Sequence[str] | None) -> str:
    """The first classes, and how many more there are."""
    if not class_names:
        return 'None are saved with it: set yours with `model.set_classes(["cat", "dog"])`.'
    n_cls = len(class_names)
    shown = " · ".join(escape(name) for name in class_names[:SHOWN_CLASSES])
    if n_cls <= SHOWN_CLASSES:
        return f"{n_cls}, in the order of the logits: {shown}"
    return (
        f"The first {SHOWN_CLASSES} of {n_cls:,}, in the order of the logits: {shown} · … and "
        f"{n_cls - SHOWN_CLASSES:,} more. All of them are in `adapter_config.json`."
    )


def settings_table(config: PromptConfig) -> str:
    """The method's own settings by the names under which a user gives them, with the help texts of the config."""
    own = [field for field in fields(config) if field.name not in NOT_SETTINGS]
    rows = [(f"`{field.name}`", escape(shorten(getattr(config, field.name))), help_of(field)) for field in own]
    return table(("Setting", "Value", "Meaning"), rows)


def help_of(field: Field) -> str:
    """A config field's help text, which is Markdown already."""
    return field.metadata.get("help", "").replace("|", r"\|")


def shorten(value: Any) -> str:
    """A setting's value as Python writes it; of a long list the first entries and the number of the others."""
    if not isinstance(value, list) or len(value) <= SHOWN_TEMPLATES:
        return repr(value)
    return ", ".join(map(repr, value[:SHOWN_TEMPLATES])) + f" and {len(value) - SHOWN_TEMPLATES} more"


def hub_base_model(model: PeftModel) -> str | None:
    """The base model's id on the Hub; None if it has none, since a path on this machine is private."""
    name = getattr(model.get_base_model(), "name_or_path", None)
    return name if is_hub_id(name) else None


def subfolder(adapter_name: str) -> str | None:
    """Where PEFT saves an adapter: every adapter but "default" in a folder of its own."""
    return None if adapter_name == "default" else adapter_name


def code(name: str) -> str:
    """An adapter's name as code, or as plain text where it has backticks."""
    return escape(name) if "`" in name else f"`{' '.join(name.split())}`"


def quote(text: str) -> str:
    """A Python string, in double quotes."""
    return json.dumps(text, ensure_ascii=False)
