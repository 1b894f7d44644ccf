"""One batch for several prompts: each image is classified by the adapter that is named for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from .prompt_embeddings import PromptEmbeddings

BASE_MODEL = "__base__"  # PEFT's name for the model without its adapters


def classify_mixed(
    model: nn.Module,
    layer: PromptEmbeddings,
    adapter_names: Sequence[str],
    images: Mapping[str, Any],
    classify: Callable[..., ModelOutput],
) -> ModelOutput:
    """Classify the images of each adapter in turn, and put the results into the images' order.

    Shapes: B images, C classes, P projection width.

    Args:
        model: the classifier.
        layer: where its prompts are.
        adapter_names: B names of prompts; "__base__" is zero-shot classification with the active prompt's classes.
        images: by name, pixel values `[B, 3, H, W]` and image features `[B, P]`, one of them None, and what else there
            is of each image.
        classify: classifies the same of some of the images, under the prompt in use.

    Returns:
        Without a loss; `text_embeds` are `[B, C, P]`.

    Raises:
        TypeError, ValueError: if the names are not one prompt per image, or the prompts differ in their task or in
            their numbers of classes.
    """
    given = (images["pixel_values"], images["image_embeds"])
    n_images = max((len(each) for each in given if each is not None), default=None)
    check_names(model, layer, adapter_names, n_images)
    groups = {
        name: torch.tensor([index for index, each in enumerate(adapter_names) if each == name])
        for name in dict.fromkeys(adapter_names)
    }
    parts = []
    for name, indices in groups.items():
        with without_adapters(model) if name == BASE_MODEL else using(model, layer, name):
            part = classify(
                **{key: each[indices] if isinstance(each, Tensor) else each for key, each in images.items()}
            )
        part.text_embeds = part.text_embeds.expand(len(indices), -1, -1)
        parts.append(part)
    check_sizes(dict(zip(groups, parts, strict=True)))
    order = torch.cat(list(groups.values())).argsort()
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return type(parts[0])(**{name: each[order.to(each.device)] for name, each in joined.items()})


def check_sizes(parts: Mapping[str, ModelOutput]) -> None:
    """Check that the adapters' logits are of one size, as those of pixels need not be.

    Args:
        parts: each adapter's.

    Raises:
        ValueError: if they are not.
    """
    sizes = {name: tuple(part.logits.shape[1:]) for name, part in parts.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"The adapters in `adapter_names` give logits of other sizes, {sizes}: call the model for each."
        )


def check_names(model: nn.Module, layer: PromptEmbeddings, adapter_names: Sequence[str], n_images: int | None) -> None:
    """Check the adapters of a mixed batch; that there are no images is for the classifier to say.

    Raises:
        TypeError: if they are no list of names.
        ValueError: if the model is being trained, if there is not one for every image, if one is no prompt, has no
            classes, or has another number of them.
    """
    if isinstance(adapter_names, str) or not isinstance(adapter_names, list | tuple):
        raise TypeError(f"`adapter_names` must be a list with the name of an adapter per image, got {adapter_names!r}.")
    if model.training:
        raise ValueError(
            "`adapter_names` cannot be passed in training mode: call `model.eval()` first, or train one adapter at a "
            "time, with `set_adapter`."
        )
    if not adapter_names or n_images not in (None, len(adapter_names)):
        raise ValueError(
            f"`adapter_names` must name an adapter for each of the {n_images} images, got {len(adapter_names)}."
        )
    unknown = sorted({repr(name) for name in adapter_names if name != BASE_MODEL and name not in layer.learned_prompts})
    if unknown:
        raise ValueError(
            f"`adapter_names` must be prompts of this model, {sorted(layer.learned_prompts)}, or {BASE_MODEL!r}; got "
            f"{', '.join(unknown)}. Adapters of other methods are chosen for a whole batch, with `set_adapter`."
        )
    prompts = {name: layer.prompt if name == BASE_MODEL else layer.prompt_of(name) for name in adapter_names}
    if len({type(prompt.task_head) for prompt in prompts.values()}) > 1:
        tasks = {name: prompt.task_head.task_type for name, prompt in prompts.items()}
        raise ValueError(f"The adapters in `adapter_names` are for different tasks, {tasks}: call the model for each.")
    sizes = {name: number_of_classes(layer, name) for name in prompts}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"The adapters in `adapter_names` have different numbers of classes, {sizes}, and the logits of one batch "
            "have one width: call the model once for each number of classes."
        )


def number_of_classes(layer: PromptEmbeddings, adapter_name: str) -> int:
    """How many classes a prompt has; the base model classifies into those of the active prompt.

    Raises:
        ValueError: if it has none.
    """
    name = layer.current_adapter if adapter_name == BASE_MODEL else adapter_name
    if name not in layer.class_texts:
        raise ValueError(f"Adapter {name!r} has no classes: call `set_classes` while it is active.")
    return len(layer.class_texts[name].class_names)


@contextmanager
def using(model: nn.Module, layer: PromptEmbeddings, adapter_name: str) -> Iterator[None]:
    """Put a prompt into use for a while; what is trained, and the model's label names, stay as they are."""
    before = [(layer, layer._active_adapter)]
    prompts = set(layer.learned_prompts)
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper) and module._adapters & prompts:
            before.append((module, module._active_adapter))
            module._active_adapter = adapter_name if adapter_name in module._adapters else []
    layer._active_adapter = [adapter_name]
    try:
        yield
    finally:
        for module, active in before:
            module._active_adapter = active


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Switch off all adapters for a while; what is trained stays as it is.

    PEFT takes those that are merged out of the weights then, and does not merge them again.
    """
    kinds = BaseTunerLayer, AuxiliaryTrainingWrapper
    before = [(module, module._disable_adapters) for module in model.modules() if isinstance(module, kinds)]
    merged = [(module, list(getattr(module, "merged_adapters", ()))) for module, _ in before]
    for module, _ in before:
        module._disable_adapters = True
    try:
        yield
    finally:
        for module, disabled in before:
            module._disable_adapters = disabled
    lost = sorted({name for module, names in merged if names and not module.merged_adapters for name in names})
    if lost:
        warnings.warn(
            f"What the model computes without its adapters needs its own weights, and {lost} was merged into them: it "
            "is taken out of them, which in half precision leaves a rounding error, and goes on unmerged.",
            stacklevel=2,
        )
