"""The tuner: puts the layer that holds prompts into a dual encoder, and takes it out again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from ..methods import PromptConfig, find_method
from ..methods.config import SEVERAL_LABELS
from ..towers import close_vision_tower, find_family, open_vision_tower, text_tower
from .backup import taken_back_on_failure
from .class_texts import ClassTexts
from .classifier import PromptClassifierMixin
from .classifier_class import become_classifier, cease_to_be_classifier, remember_before_prompts
from .decisions import checked_decision, chosen_decision
from .label_names import LabelNames
from .modules_to_save import check_not_shared, check_nothing_inside, check_saved_modules
from .other_adapters import (
    activate,
    active_adapters,
    add_beside,
    delete_beside,
    is_layer_of,
    layer_class,
    merge_beside,
    unmerge_beside,
)
from .prompt_embeddings import PromptEmbeddings, own_settings, raise_merge_error
from .saved_tensors import PREFIX, adapter_tensors, check_saved_tensors, saved_name


class PromptTuner(BaseTuner):
    """Learns prompts of a dual encoder's classifier, by any method; the model itself stays frozen.

    Each method has a subclass, see `tuner_class`, which differs in the prefix of what is saved.

    Args:
        model: a Hugging Face dual encoder, one of `towers.FAMILIES`.
        peft_config: the config of a method.
        adapter_name: the adapter's name.

    Raises:
        ValueError: if the model is of another family, or the config does not fit it; the model is left as it was.
    """

    prefix: str
    tuner_layer_cls = PromptEmbeddings

    def _prepare_adapter_config(self, peft_config: PromptConfig, model_config: dict) -> PromptConfig:
        return peft_config

    def __init__(self, model: nn.Module, peft_config: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        find_family(model)  # refuses what is no dual encoder, before PEFT asks it for parts that it has not
        before = getattr(model, "peft_config", {})
        if adapter_name in before and not isinstance(before[adapter_name], PromptConfig):
            raise ValueError(
                f"The model has an adapter {adapter_name!r} already, of the method "
                f"{before[adapter_name].peft_type.value}: "
                'give the prompt a name of its own, as in `get_peft_model(model, config, adapter_name="prompt")` or '
                '`PeftModel.from_pretrained(model, folder, adapter_name="prompt")`.'
            )
        with taken_back_on_failure(model) as backup:
            super().__init__(model, peft_config, adapter_name, *args, **kwargs)
        remember_before_prompts(model, backup)

    def _prepare_model(self, peft_config: PromptConfig, model: nn.Module) -> None:
        family = find_family(model)
        check_saved_modules(peft_config.modules_to_save, model, family.embeddings)
        others = [name for name in self.peft_config if self._layer_class(name) is not PromptEmbeddings]
        check_not_shared(peft_config.modules_to_save, model, others)
        check_nothing_inside(model, family.embeddings)

    def _check_target_module_exists(self, peft_config: PromptConfig, key: str) -> bool:
        return key == find_family(self.model).embeddings

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter, and make the model a classifier."""
        # A copy: the user's own may change, or serve other adapters.
        self.peft_config[adapter_name] = deepcopy(self.peft_config[adapter_name])
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        become_classifier(model)
        model.keep_frozen_parts_still()  # of a model that was in training mode before

    def _create_and_replace(
        self,
        peft_config: PromptConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        # Everything that can be wrong is found before the model is touched.
        if peft_config.tokenizer_name_or_path is not None and os.path.isdir(peft_config.tokenizer_name_or_path):
            peft_config.tokenizer_name_or_path = os.path.abspath(peft_config.tokenizer_name_or_path)
        label_names = target.label_names if isinstance(target, PromptEmbeddings) else LabelNames(self.model.config)
        is_left_open = peft_config.problem_type is None and peft_config.loaded_from is None
        if is_left_open and label_names.own_problem_type == SEVERAL_LABELS:
            peft_config.problem_type = SEVERAL_LABELS
            peft_config.check_problem_type()
        tower = text_tower(self.model)
        prompt = find_method(peft_config.method).prompt(deepcopy(peft_config), self.model)
        texts = None if peft_config.class_names is None else ClassTexts(peft_config.class_names, prompt, tower)
        if texts is not None:
            checked_decision(prompt, texts.class_names, chosen_decision(peft_config), tower)
        if texts is not None and not peft_config.inference_mode:
            prompt.check_taught(texts.class_names)
        for setting in own_settings(peft_config):  # what was left open
            setattr(peft_config, setting, deepcopy(getattr(prompt.settings, setting)))

        layer = target
        if not isinstance(layer, PromptEmbeddings):
            family = find_family(self.model)
            layer = PromptEmbeddings(target, family.token_embedding, label_names)
        if peft_config.changes_vision:
            open_vision_tower(self.model)
        prompt.task_head.prepare(self.model)
        layer.update_layer(adapter_name, prompt, texts)
        setattr(parent, target_name, layer)
        tower.install()

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """As PEFT, which leaves buffers out: a batch norm's statistics are of the dtype of its weights."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        layer = self.model.get_submodule(find_family(self.model).embeddings)
        if autocast_adapter_dtype and isinstance(layer, PromptEmbeddings) and adapter_name in layer.learned_prompts:
            for module in layer.prompt_of(adapter_name).modules():
                for name, buffer in module.named_buffers(recurse=False):
                    if buffer.dtype in (torch.float16, torch.bfloat16):
                        setattr(module, name, buffer.float())

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Choose the active prompt, or an adapter of another method; the other methods' adapters stay as they are.

        In training mode, what is trained from now on is in training mode, and what no longer is in evaluation mode.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        chosen: dict[type, list[str]] = {}
        for name in names:
            chosen.setdefault(self._layer_class(name), []).append(name)
        for layer_cls, of_method in (chosen or {PromptEmbeddings: []}).items():
            activate(self.model, of_method, layer_cls, inference_mode)
        prompts = chosen.get(PromptEmbeddings, [])
        if prompts or not names:
            self.active_adapter = prompts
        self._settle_modes()

    def enable_adapter_layers(self) -> None:
        """As PEFT; in training mode, what is trained again is in training mode."""
        super().enable_adapter_layers()
        self._settle_modes()

    def _settle_modes(self) -> None:
        """Put what is trained now into training mode: `train` was called when it was frozen."""
        if self.model.training and isinstance(self.model, PromptClassifierMixin):
            self.model.train()

    def add_beside(self, adapter_name: str, config: PeftConfig, low_cpu_mem_usage: bool = False) -> None:
        """Add an adapter of another method, a LoRA for example, see `other_adapters.add_beside`.

        Raises:
            ValueError: if the method cannot stand beside a prompt, or nothing fits; the model is left as it was.
        """
        others = [name for name in self.peft_config if self._layer_class(name) is not layer_class(config)]
        check_not_shared(getattr(config, "modules_to_save", None), self.model, others)
        add_beside(self.model, adapter_name, config, low_cpu_mem_usage)

    def active_beside(self) -> list[str]:
        """Names of the active adapters of other methods."""
        return [name for name in active_adapters(self.model) if self._layer_class(name) is not PromptEmbeddings]

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete a prompt, or an adapter of another method."""
        if self._layer_class(adapter_name) is PromptEmbeddings:
            super().delete_adapter(adapter_name)
            return
        config = self.peft_config[adapter_name]
        if any(adapter_name in layer.merged_adapters for layer in self.model.modules() if is_layer_of(layer, config)):
            raise ValueError(f"Adapter {adapter_name!r} is merged: call `unmerge_adapter()` before it is deleted.")
        del self.peft_config[adapter_name]
        delete_beside(self.model, adapter_name, config)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters of other methods, a LoRA for example, into the base model; the prompt stays a prompt.

        Args:
            adapter_names: the adapters; they must be named, since a prompt cannot be merged.
            safe_merge: whether to check for NaN first.

        Raises:
            NotImplementedError: if no name is given, or the name of a prompt.
        """
        names = adapter_names or []
        if not names or any(self._layer_class(name) is PromptEmbeddings for name in names):
            raise_merge_error([name for name in self.peft_config if self._layer_class(name) is not PromptEmbeddings])
        merge_beside(self.model, names, PromptEmbeddings, safe_merge)

    def unmerge_adapter(self) -> None:
        """Take merged adapters out of the base weights again.

        Raises:
            NotImplementedError: if there are only prompts.
        """
        if all(self._layer_class(name) is PromptEmbeddings for name in self.peft_config):
            raise_merge_error()
        unmerge_beside(self.model, PromptEmbeddings)

    def _layer_class(self, adapter_name: str) -> type:
        config = self.peft_config.get(adapter_name)
        return PromptEmbeddings if config is None else layer_class(config)

    def unload(self) -> nn.Module:
        """Take the adapters out and return the base model, with its own class, keys and label names."""
        layer = self.model.get_submodule(find_family(self.model).embeddings)
        model = super().unload()
        cease_to_be_classifier(model)
        text_tower(model).remove()
        close_vision_tower(model)
        layer.label_names.publish(None)
        return model

    def _check_merge_allowed(self) -> None:
        raise_merge_error([name for name in self.peft_config if self._layer_class(name) is not PromptEmbeddings])

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PromptConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        known = list(adapter_tensors(model, adapter_name, cls.prefix))
        saved_names = {held: saved for saved, held, _ in known}
        given = {saved_names.get(key, key): tensor for key, tensor in remapped.items()}
        check_saved_tensors({saved: tensor for saved, _, tensor in known}, given, cls.prefix)
        return remapped

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        saved = saved_name(key, adapter_name, cls.prefix)
        return super()._remove_adapter_name_from_key(key, adapter_name) if saved == key else saved

    @classmethod
    def held_tensors(cls, model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Check saved tensors against a prompt, and give them their names in the model.

        Args:
            model: a base model that holds the prompt.
            adapter_name: the prompt.
            state_dict: the tensors by their names in a file; their shapes are enough.

        Raises:
            ValueError: if one is missing, left over or of another shape.
        """
        saved = {key.removeprefix(PREFIX): tensor for key, tensor in state_dict.items()}
        known = list(adapter_tensors(model, adapter_name, cls.prefix))
        check_saved_tensors({key: tensor for key, _, tensor in known}, saved, cls.prefix)
        return {held: saved[key] for key, held, _ in known}

    def __reduce_ex__(self, protocol: Any) -> tuple:
        _, arguments, *rest = super().__reduce_ex__(protocol)
        return (new_tuner, (self.prefix, *arguments[1:]), *rest)


@cache
def tuner_class(prefix: str) -> type[PromptTuner]:
    """The tuner of a method.

    Args:
        prefix: what the names of saved weights begin with, such as "coop_".
    """
    return type(
        "PromptTuner", (PromptTuner,), {"prefix": prefix, "__module__": __name__, "__doc__": PromptTuner.__doc__}
    )


def new_tuner(prefix: str, *arguments: Any) -> PromptTuner:
    """Make an empty tuner, for pickle to fill."""
    subclass = tuner_class(prefix)
    return subclass.__new__(subclass, *arguments)
