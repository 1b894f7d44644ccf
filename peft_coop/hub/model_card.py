"""The model card: metadata that the Hub reads, and our part of the text, kept between two markers.

Everything outside the markers belongs to the user, or to the Trainer, which writes a card of its own and then asks the
model to complete it.
"""

from __future__ import annotations

import math
import numbers
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped]
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from peft import PeftModel
from transformers import PreTrainedModel

from ..methods import METHODS
from ..models.base_model_names import is_hub_id
from .card_sections import UNKNOWN_DATASET, hub_base_model, others_of, prompts_of, render

BEGIN = "<!-- peft-coop begins: this part is written anew whenever the adapter is saved. Write above or below it. -->"
END = "<!-- peft-coop ends -->"
# From the last beginning before an end, so that a marker that has lost its partner takes no text of the user's along.
OUR_PART = re.compile(rf"<!-- peft-coop begins(?:(?!<!-- peft-coop begins).)*?{re.escape(END)}", flags=re.DOTALL)
ADAPTER_IN_SNIPPET = re.compile(r'^adapter = "([^"\\]+/[^"\\]+)"', flags=re.MULTILINE)
TASK = "image-classification"  # where no adapter says another
BASE_MODEL_TAG = "base_model:adapter:"

# What transformers' Trainer writes into its card.
TRAINER_COMMENT = "according to the information the Trainer had access to"
TRAINER_FIRST_HEADING = "## Model description"
TRAINER_RESULTS = re.compile(
    r"It achieves the following results on the evaluation set:\r?\n((?:- .+?: .+(?:\r?\n|$))+)"
)
TRAINER_ORIGIN = re.compile(
    r"This model (?:was trained from scratch"
    r"|is a fine-tuned version of \[(?P<base>.*?)\]\(https://huggingface\.co/.*?\)) on "
)

# What the Trainer measures beside the model's quality.
NOT_RESULTS = (
    "runtime",
    "_per_second",
    "epoch",
    "step",
    "total_flos",
    "preparation_time",
    "compilation_time",
    "num_input_tokens_seen",
)
METRIC_PREFIXES = ("eval_", "test_")


def update_model_card(
    model: PeftModel,
    output_dir: str | os.PathLike,
    *,
    metrics: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    repo_id: str | None = None,
    tags: Sequence[str] | str | None = None,
) -> None:
    """Write `README.md`, or bring our part and the metadata of the one that is there up to date.

    Args:
        model: the model whose adapters the card describes.
        output_dir: the folder with the adapter.
        metrics: measured results by name, as `trainer.evaluate()` returns them; run times and the like are left out.
            None keeps the results that the card has.
        dataset: what the metrics were measured on: an id on the Hub, or any name.
        repo_id: where the card will stand on the Hub; None: the one that it names already, or the folder's name.
        tags: more tags.

    Raises:
        ValueError: if a metric is no number.
    """
    measured = eval_results(metrics, dataset, task_of(model)) if metrics is not None else []
    path = Path(output_dir) / "README.md"
    name = (repo_id or Path(output_dir).resolve().name).split("/")[-1]
    try:
        card = ModelCard.load(path) if path.exists() else new_card(name)
    except (ValueError, yaml.YAMLError) as error:
        # The adapter is saved right after its card: a slip in hand-written metadata must not cost the weights.
        warnings.warn(f"{path} is left as it is, since its metadata cannot be read: {error}", stacklevel=2)
        return
    data = cast(ModelCardData, card.data)
    listed = trainer_results(card.text, task_of(model))
    # A card that stays here may name a base model by its path, as PEFT's cards do; one for the Hub may not.
    stays_here = repo_id is None and TRAINER_COMMENT not in card.text
    update_metadata(data, model, tags, stays_here)
    add_results(data, measured or ([] if data.eval_results else listed), name)
    in_list = {(result.metric_type, result.metric_value) for result in listed}
    shown = [result for result in data.eval_results or [] if (result.metric_type, rounded(result)) not in in_list]

    earlier = OUR_PART.search(card.text)
    named = ADAPTER_IN_SNIPPET.search(earlier.group()) if earlier else None
    adapter_id = repo_id or (named.group(1) if named else name)
    card.text = put_our_part(correct_origin(card.text), f"{BEGIN}\n\n{render(model, adapter_id, shown)}\n\n{END}")
    path.parent.mkdir(parents=True, exist_ok=True)
    card.save(path)


def new_card(name: str) -> ModelCard:
    """A card with a title and nothing else."""
    metadata = ModelCardData(library_name="peft").to_yaml()
    return ModelCard(f"---\n{metadata}\n---\n\n# {name}\n")


def put_our_part(text: str, part: str) -> str:
    """Replace our part where it stands, or add it: above the Trainer's sections, else at the end."""
    newline = "\r\n" if "\r\n" in text else "\n"
    part = part.replace("\n", newline)
    if OUR_PART.search(text):
        return OUR_PART.sub(lambda _: part, text, count=1)
    above, heading, below = text.partition(f"{newline}{TRAINER_FIRST_HEADING}{newline}")
    return f"{above.rstrip()}{newline * 2}{part}{newline}{heading}{below}"


def correct_origin(text: str) -> str:
    """Put right what the Trainer says of a base model without an id on the Hub: "trained from scratch", or its path."""

    def correct(match: re.Match) -> str:
        return match.group() if is_hub_id(match["base"]) else "This adapter was trained on "

    if TRAINER_COMMENT not in text:
        return text
    return TRAINER_ORIGIN.sub(correct, text, count=1)


def update_metadata(
    data: ModelCardData, model: PeftModel, tags: Sequence[str] | str | None = None, stays_here: bool = False
) -> None:
    """Set what the Hub reads; what the user or the Trainer added stays."""
    data.library_name = "peft"
    data.pipeline_tag = data.pipeline_tag or task_of(model)
    base = hub_base_model(model)
    named = data.base_model if isinstance(data.base_model, list) else [data.base_model]
    kept = [name for name in named if name is not None and is_hub_id(name)]
    if base is not None and base not in kept:
        kept = [base]
    if not kept and stays_here:
        kept = [name for name in [getattr(model.get_base_model(), "name_or_path", None)] if name]
    data.base_model = kept[0] if len(kept) == 1 else kept or None
    ours = [f"{BASE_MODEL_TAG}{base}"] if base else []
    ours += method_tags(model) + list(getattr(model.get_base_model(), "model_tags", None) or [])
    theirs = [tag for tag in data.tags or [] if not is_wrong_base_tag(tag, base)]
    given = [tags] if isinstance(tags, str) else list(tags or [])
    data.tags = list(dict.fromkeys([*theirs, *ours, *given]))


def task_of(model: PeftModel) -> str:
    """The Hub's name of the first prompt's task."""
    configs = sorted(prompts_of(model).items(), key=lambda each: each[0] != "default")
    return METHODS[configs[0][1].method].prompt.task_head.pipeline_tag if configs else TASK


def is_wrong_base_tag(tag: str, base: str | None) -> bool:
    """Whether a tag names another base model than this one, or a path."""
    if not tag.startswith(BASE_MODEL_TAG):
        return False
    named = tag.removeprefix(BASE_MODEL_TAG)
    return named != base if base else not is_hub_id(named)


def method_tags(model: PeftModel) -> list[str]:
    """Tags by which the adapter is found: the base model's type, the methods, the library behind the base model."""
    base = model.get_base_model()
    methods = {config.method for config in prompts_of(model).values()}
    methods |= {config.peft_type.value.lower() for config in others_of(model).values()}
    library = ["transformers"] if isinstance(base, PreTrainedModel) else []
    return [base.config.model_type, *sorted(methods), "peft-coop", "prompt-learning", *library]


def eval_results(metrics: Mapping[str, Any], dataset: str | None = None, task: str = TASK) -> list[EvalResult]:
    """Turn metrics, as the Trainer names them, into entries of the card's `model-index`.

    Args:
        metrics: by name.
        dataset: what they were measured on.
        task: the Hub's name of it.

    Raises:
        ValueError: if a metric is no number.
    """
    results = []
    for key, value in metrics.items():
        if key.endswith(NOT_RESULTS):
            continue
        prefix = next((prefix for prefix in METRIC_PREFIXES if key.startswith(prefix)), "")
        result = EvalResult(
            task_type=task,
            task_name=task.replace("-", " ").capitalize(),
            dataset_type=dataset or UNKNOWN_DATASET,
            dataset_name=dataset or UNKNOWN_DATASET,
            metric_type=key.removeprefix(prefix),
            metric_name=key.removeprefix("eval_").replace("_", " ").strip().capitalize(),
            metric_value=as_number(key, value),
        )
        results.append(result)
    return results


def as_number(name: str, value: Any) -> int | float | str:
    """A plain number of a Python, NumPy or tensor value; "nan" and "inf" as text, which the Hub's JSON can hold.

    Raises:
        ValueError: if it is no number.
    """
    try:
        number = value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError):  # a tensor or an array of several
        number = None
    if not isinstance(number, numbers.Real) or isinstance(number, bool):
        raise ValueError(
            f"`metrics` must be numbers by name, such as {{'accuracy': 0.91}}, got {value!r} for {name!r}."
        )
    number = number if isinstance(number, int) else float(number)
    return number if math.isfinite(number) else str(number)


def trainer_results(text: str, task: str = TASK) -> list[EvalResult]:
    """The results that the Trainer has listed in its card, rounded as it shows them."""
    listed = TRAINER_RESULTS.search(text)
    metrics = {}
    for line in listed[1].splitlines() if listed else []:
        name, _, value = line.removeprefix("- ").rpartition(": ")
        try:
            metrics["eval_" + name.lower().replace(" ", "_")] = float(value)
        except ValueError:  # a metric that is no number stays in the Trainer's list only
            continue
    return eval_results(metrics, task=task)


def add_results(data: ModelCardData, results: Sequence[EvalResult], name: str) -> None:
    """Put results into the metadata in place of those of the same data set."""
    if not results:
        return
    new = {result.unique_identifier for result in results}
    others = [result for result in data.eval_results or [] if result.unique_identifier not in new]
    data.eval_results = [*others, *results]
    data.model_name = data.model_name or name
    dataset = results[0].dataset_name
    if is_hub_id(dataset) and dataset not in (datasets := as_list(data.datasets)):
        data.datasets = [*datasets, dataset]


def as_list(value: list[str] | str | None) -> list[str]:
    """Metadata that may be one value, several or none, as a list."""
    return [value] if isinstance(value, str) else list(value or [])


def rounded(result: EvalResult) -> Any:
    """A result's value as the Trainer's list shows it."""
    value = result.metric_value
    return float(f"{value:.4f}") if isinstance(value, float) else value
