"""What a call of a prompt classifier asks for: the base model's own answer, or which classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..methods import METHODS
from ..towers import text_tower
from .class_texts import ClassTexts
from .prompt_embeddings import CLASS_NAMES, PromptEmbeddings

if TYPE_CHECKING:
    from .classifier import PromptClassifierMixin


def is_base_models_call(
    layer: PromptEmbeddings,
    input_ids: Tensor | None,
    image_embeds: Tensor | None,
    adapter_names: Sequence[str] | None,
) -> bool:
    """Whether a call is the base model's own: without an adapter, or with texts and all adapters disabled.

    Raises:
        ValueError: if there are adapters, none is active, and no texts are given.
    """
    if adapter_names is not None:
        if input_ids is not None:
            raise ValueError("`adapter_names` choose classes, and `input_ids` name other ones: give one of them.")
        return False
    if layer.current_adapter is None:
        if input_ids is None and layer.learned_prompts:
            raise ValueError(
                f"No adapter is active: choose one of {list(layer.learned_prompts)} with `set_adapter`, or give "
                "`input_ids` for the base model's own call."
            )
        return True
    return input_ids is not None and layer.disable_adapters and image_embeds is None


def take_class_arguments(layer: PromptEmbeddings, kwargs: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Take what chooses the classes of a call out of its arguments.

    Args:
        layer: the prompts.
        kwargs: the arguments.
        **others: those that choose classes whatever the method is.

    Raises:
        ValueError: if something else chooses them, too.
    """
    known = (CLASS_NAMES, *layer.prompt.call_arguments) if layer.current_adapter is not None else ()
    others_have = {name for method in METHODS.values() for name in method.prompt.call_arguments}
    foreign = {CLASS_NAMES, *others_have} - set(known)
    unread = sorted(name for name in foreign if kwargs.get(name) is not None)
    if unread:
        raise ValueError(f"The adapter's method has no classes to choose by `{'`, `'.join(unread)}`.")
    given = {name: kwargs.pop(name) for name in known if name in kwargs}
    given = {name: value for name, value in given.items() if value is not None}
    choosing = [*given, *(name for name, value in others.items() if value is not None)]
    if given and len(choosing) > 1:
        raise ValueError(f"`{choosing[0]}` and `{choosing[1]}` both choose the classes: give one of them.")
    return given


def classes_of_call(
    model: PromptClassifierMixin, labels: Tensor | None, of_call: Mapping[str, Any]
) -> tuple[ClassTexts, Tensor | None]:
    """The texts of the classes that a call, or a training step by itself, is about; and its labels among them.

    Args:
        model: the classifier.
        labels: of the images, as the call has them.
        of_call: what `take_class_arguments` gave.
    """
    layer = model.prompt_layer
    learns = labels is not None or torch.is_grad_enabled()
    if not of_call and learns and model.training and not layer.disable_adapters:
        of_call = layer.prompt.arguments_of_step(labels)
    texts = layer.texts_of_call(text_tower(model), of_call)
    if labels is None or not of_call or CLASS_NAMES in of_call:
        return texts, labels
    return texts, layer.prompt.labels_of_call(labels, **of_call)
