"""The class that a base model has while it holds prompts: how it becomes a classifier, and itself again afterwards."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

from ..methods import METHODS
from .adapter_files import BEFORE_PROMPTS
from .backup import Backup
from .classifier import PromptClassifierMixin


def become_classifier(model: nn.Module) -> None:
    """Give `model` a subclass of its own class whose forward is the classifier's; a no-op if it has it.

    The subclass keeps name, qualified name and module, so that transformers' look-ups by name, saved configs and
    pickles see the class that the model had. This is how the Trainer, pipelines and FSDP find the right forward.
    """
    model.config.keys_to_ignore_at_inference = beside_logits()
    if isinstance(model, PromptClassifierMixin):
        return
    base_class: Any = type(model)
    model.__class__ = classifier_class(base_class)
    model._images_given_as = "pixel_values"


def beside_logits() -> list[str]:
    """Outputs of all methods that `Trainer.predict` must not collect beside the logits."""
    of_heads = (name for method in METHODS.values() for name in method.prompt.task_head.beside_logits)
    return list(dict.fromkeys([*of_heads, "class_names"]))


def cease_to_be_classifier(model: nn.Module) -> None:
    """Undo `become_classifier`; a no-op if it was not done."""
    if not isinstance(model, PromptClassifierMixin):
        return
    model.__class__ = type(model).__base_class__
    model.config.__dict__.pop("keys_to_ignore_at_inference", None)
    for name in ("_images_given_as", BEFORE_PROMPTS):
        model.__dict__.pop(name, None)


def remember_before_prompts(model: nn.Module, backup: Backup) -> None:
    """Keep what a model was before its first prompt, for the case that the prompt's weights turn out not to fit.

    Args:
        model: the base model, with a prompt in it.
        backup: what it was.
    """
    if len(model.prompt_layer.learned_prompts) == 1:
        setattr(model, BEFORE_PROMPTS, backup)


@cache
def classifier_class(base_class: Any) -> Any:
    """The classifier's subclass of `base_class`, one for each."""

    def __reduce_ex__(self: Any, protocol: Any) -> tuple:
        _, arguments, *rest = super(PromptClassifierMixin, self).__reduce_ex__(protocol)
        return (new_classifier, (base_class, *arguments[1:]), *rest)

    names = {"__module__": base_class.__module__, "__qualname__": base_class.__qualname__}
    body = {**names, "__doc__": base_class.__doc__, "__reduce_ex__": __reduce_ex__, "__base_class__": base_class}
    return type(base_class.__name__, (PromptClassifierMixin, base_class), body)


def new_classifier(base_class: Any, *arguments: Any) -> nn.Module:
    """Make an empty classifier of a base class, for pickle to fill."""
    subclass = classifier_class(base_class)
    return subclass.__new__(subclass, *arguments)
