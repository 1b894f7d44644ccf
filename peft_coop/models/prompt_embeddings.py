"""The layer around a text tower's embeddings that holds every adapter's prompt."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..methods import Prompt
from ..methods.config import DECISION_FIELDS, shown_apart
from ..towers import SplicedEmbeddings, TextTower
from .class_texts import ClassTexts
from .label_names import LabelNames

# How settings are changed of a prompt that is there.
CHANGED_BY = {"class_names": "`set_classes`", **dict.fromkeys(DECISION_FIELDS, "`set_decision`")}
CLASS_NAMES = "class_names"  # the argument by which a call of any method chooses its classes
KEPT_CALLS = 2  # lists of classes that calls have chosen: those of training, and of evaluation between


class PromptEmbeddings(SplicedEmbeddings, BaseTunerLayer):
    """A text tower's embeddings, and beside them each adapter's prompt.

    Args:
        base_layer: the tower's own embeddings.
        token_embedding: name of the table of token embeddings in them.
        label_names: where the active adapter's class names are published.

    Attributes:
        learned_prompts: each adapter's method with all that it learns.
        class_texts: the prompts of each adapter's classes, where it has classes.
        call_texts: those of the classes that the latest calls have chosen, by their names.
        memory: bytes that encoding prompts may keep for the backward pass; None: see `TextTower.encode`.
    """

    adapter_layer_names = ("learned_prompts",)
    other_param_names = ("class_texts", "call_texts")

    def __init__(self, base_layer: nn.Module, token_embedding: str, label_names: LabelNames):
        super().__init__(base_layer, token_embedding)
        self.learned_prompts = nn.ModuleDict()
        self.class_texts: dict[str, ClassTexts] = {}
        self.call_texts: dict[str, dict[tuple[str, ...], ClassTexts]] = {}
        self.label_names = label_names
        self.memory: int | None = None
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: list[str] = []

    def clear_cache(self) -> None:
        """Forget all that is kept of the adapters' prompts."""
        self.call_texts.clear()
        for texts in self.class_texts.values():
            texts.clear()

    def _apply(self, fn: Callable, recurse: bool = True) -> PromptEmbeddings:
        # A model that is rounded and put back (`model.half().float()`) may find its weights where they were before.
        self.clear_cache()
        return super()._apply(fn, recurse)

    def update_layer(self, adapter_name: str, prompt: Prompt, texts: ClassTexts | None) -> None:
        """Add an adapter, or replace one.

        Args:
            adapter_name: its name.
            prompt: what it learns.
            texts: the prompts of its classes, if it has classes yet.
        """
        self.learned_prompts[adapter_name] = prompt  # first, since torch refuses some names
        self.class_texts.pop(adapter_name, None)
        self.call_texts.pop(adapter_name, None)
        if texts is not None:
            self.class_texts[adapter_name] = texts
        self._move_adapter_to_device_of_base_layer(adapter_name)

    @property
    def current_adapter(self) -> str | None:
        """The adapter in use; None where none is left.

        Raises:
            ValueError: if several are active at once.
        """
        active = [name for name in self.active_adapters if name in self.learned_prompts]
        if len(active) > 1:
            raise ValueError(f"One prompt at a time can be active, got {active}: choose one with `set_adapter`.")
        return active[0] if active else None

    @property
    def required_adapter(self) -> str:
        """The adapter in use.

        Raises:
            ValueError: if there is none.
        """
        name = self.current_adapter
        if name is None:
            way_out = (
                f"choose one of {list(self.learned_prompts)} with `set_adapter`, or " if self.learned_prompts else ""
            )
            raise ValueError(f"No adapter is active: {way_out}add one with `add_adapter` or `load_adapter`.")
        return name

    @property
    def prompt(self) -> Prompt:
        """The prompt in use.

        Raises:
            ValueError: if no adapter is active.
        """
        return self.prompt_of(self.required_adapter)

    @property
    def texts(self) -> ClassTexts:
        """The prompts of the classes of the adapter in use.

        Raises:
            ValueError: if no adapter is active, or it has no classes.
        """
        name = self.required_adapter
        if name not in self.class_texts:
            raise ValueError(
                f"Adapter {name!r} has no classes: give `class_names` in its config, or call "
                "`model.set_classes([...])`."
            )
        return self.class_texts[name]

    def texts_of_call(self, tower: TextTower, arguments: Mapping[str, Any]) -> ClassTexts:
        """The prompts of the classes that a call chooses, or of the classes of the adapter in use.

        Args:
            tower: reads the prompts.
            arguments: what the call gives of `class_names` or the method's `call_arguments`; empty if it chooses none.

        Raises:
            ValueError: if no adapter is active, or there are no such classes.
        """
        return self._chosen_texts(tower, arguments) if arguments else self.texts

    @torch.compiler.disable  # what is laid out here once are no tensors of the call
    def _chosen_texts(self, tower: TextTower, arguments: Mapping[str, Any]) -> ClassTexts:
        names = tuple(self._names_of_call(arguments))
        own = self.class_texts.get(self.required_adapter)
        if own is not None and names == tuple(own.class_names):
            return own
        kept = self.call_texts.get(self.required_adapter, {})
        texts = kept.get(names) or ClassTexts(names, self.prompt, tower)
        latest = {**{name: each for name, each in kept.items() if name != names}, names: texts}
        # A new dictionary, since calls of other threads read the one that was there.
        self.call_texts[self.required_adapter] = dict(list(latest.items())[-KEPT_CALLS:])
        return texts

    def _names_of_call(self, arguments: Mapping[str, Any]) -> list[str]:
        if CLASS_NAMES not in arguments:
            return self.prompt.classes_of_call(**arguments)
        own = self.class_texts.get(self.required_adapter)
        names = self.prompt.class_names(arguments[CLASS_NAMES])
        self.prompt.check_classes(names, None if own is None else own.class_names)
        return names

    def prompt_of(self, adapter_name: str) -> Prompt:
        """An adapter's prompt."""
        return cast(Prompt, self.learned_prompts[adapter_name])

    def use_classes(self, texts: ClassTexts) -> None:
        """Change the classes of the adapter in use.

        Raises:
            ValueError: if its prompt cannot have other classes, or is trained and cannot be with these.
        """
        name, prompt = self.required_adapter, self.prompt
        own = self.class_texts[name].class_names if name in self.class_texts else None
        prompt.check_classes(texts.class_names, own)
        if any(weight.requires_grad for weight in prompt.parameters()):
            prompt.check_taught(texts.class_names)
        self.class_texts[name] = texts
        prompt.settings.class_names = list(texts.class_names)
        self.publish_labels()

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Choose the adapter in use; the model's label names follow."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self.publish_labels()

    def publish_labels(self) -> None:
        """Write the active adapter's class names into the model's config."""
        active = [name for name in self.active_adapters if name in self.class_texts]
        if active:
            problem_type = self.prompt_of(active[0]).settings.problem_type
            self.label_names.publish(self.class_texts[active[0]].class_names, problem_type)
        else:
            self.label_names.publish(None)

    def settle_configs(self, configs: Mapping[str, PeftConfig]) -> None:
        """Give back to the adapters' configs what was changed in them since: the prompts did not follow.

        Args:
            configs: the model's, by the adapters' names.
        """
        for name in self.learned_prompts:
            config, made_of = configs[name], self.prompt_of(name).settings
            for setting in own_settings(made_of):
                now, then = getattr(config, setting), getattr(made_of, setting)
                if now != then:
                    shown, shown_then = shown_apart(now, then)
                    way = CHANGED_BY.get(setting, "an adapter of its own")
                    warnings.warn(
                        f"`{setting}` of adapter {name!r} was changed in its config to {shown}, which the model does "
                        f"not follow: saved is {shown_then}, as the model has it. What changes it is {way}.",
                        stacklevel=4,
                    )
                    setattr(config, setting, deepcopy(then))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Not possible, see `raise_merge_error`."""
        raise_merge_error()

    def unmerge(self) -> None:
        """Not possible, see `raise_merge_error`."""
        raise_merge_error()

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        weight = base_layer.get_submodule(self.token_embedding_name).weight
        return cast(torch.device, weight.device), cast(torch.dtype, weight.dtype)


def own_settings(config: PeftConfig) -> list[str]:
    """The fields that a prompt is made of, as against what PEFT writes into every config."""
    return sorted({field.name for field in fields(config)} - {field.name for field in fields(PeftConfig)})


def prompt_in_use(model: nn.Module) -> tuple[PromptEmbeddings, str]:
    """The layer that holds a model's learned prompts, and the name of the adapter in use.

    Args:
        model: what `get_peft_model` or `PeftModel.from_pretrained` returned.

    Raises:
        TypeError: if the model was never given a learned prompt.
        ValueError: if none of its adapters is active, or several are.
    """
    layer = getattr(model, "prompt_layer", None)
    if layer is None:
        raise TypeError(f"A model with a learned prompt is needed; got {type(model).__name__}.")
    return layer, layer.required_adapter


def raise_merge_error(others: Sequence[str] = ()) -> None:
    """Say why a prompt cannot be merged.

    Args:
        others: names of adapters of other methods, which can be.

    Raises:
        NotImplementedError: always.
    """
    way_out = f" The other adapters can be merged by name: `merge_adapter({list(others)})`." if others else ""
    raise NotImplementedError(
        "A learned prompt cannot be merged into the base model: its vectors are inputs of the model's towers, like "
        "words, and there is no weight that they could be added to. Keep the adapter (tens of kilobytes), or use "
        f"`unload()` to get the base model back without it.{way_out}"
    )
