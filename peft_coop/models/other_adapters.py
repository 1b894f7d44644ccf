"""Adapters of other methods beside a prompt, a LoRA for example: which layers they have, and which of them are active.

A prompt and a LoRA work in one model at the same time: a prompt is chosen among the prompts, and an adapter of another
method among those of its own method. Tested with PEFT 0.21.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

from peft import PeftConfig, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer, onload_layer
from peft.tuners.tuners_utils import delete_adapter as delete_from_layers
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from .backup import taken_back_on_failure
from .saved_tensors import CONTAINER


def layer_class(config: PeftConfig) -> type[BaseTunerLayer]:
    """The class of the layers that hold the adapters of a config's method."""
    return PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type].tuner_layer_cls


def is_layer_of(module: nn.Module, config: PeftConfig) -> bool:
    """Whether a module is a layer that holds adapters of a config's method."""
    return isinstance(module, layer_class(config))


def active_adapters(model: nn.Module, layer_cls: type[BaseTunerLayer] = BaseTunerLayer) -> list[str]:
    """Names of the active adapters in the layers of a class, each once."""
    layers = (module for module in model.modules() if isinstance(module, layer_cls))
    held = ((layer, layer._all_available_adapter_names()) for layer in layers)
    return list(dict.fromkeys(name for layer, names in held for name in layer.active_adapters if name in names))


def activate(
    model: nn.Module, names: Sequence[str], layer_cls: type[BaseTunerLayer], inference_mode: bool = False
) -> None:
    """Choose the active adapters of one method; those of other methods stay as they are.

    Args:
        model: the base model.
        names: the adapters.
        layer_cls: the class of the method's layers.
        inference_mode: whether the chosen ones are frozen.
    """
    for module in model.modules():
        if isinstance(module, layer_cls):
            if module.merged:
                warnings.warn("The merged adapters are unmerged, since other ones are chosen.", stacklevel=2)
                module.unmerge()
            module.set_adapter(list(names), inference_mode=inference_mode)
    activate_saved_modules(model, names, inference_mode)


def activate_saved_modules(model: nn.Module, chosen: Collection[str] = (), inference_mode: bool = False) -> None:
    """Let each module of `modules_to_save` follow the active adapters of every method."""
    active = set(active_adapters(model))
    for module in model.modules():
        if not isinstance(module, AuxiliaryTrainingWrapper):
            continue
        wanted = sorted(active & module._adapters)
        if wanted != list(module.active_adapters) or (wanted and wanted[0] in chosen):
            module.set_adapter(wanted, inference_mode=inference_mode)


def add_beside(model: nn.Module, adapter_name: str, config: PeftConfig, low_cpu_mem_usage: bool = False) -> None:
    """Add an adapter of another method to a model that holds a prompt.

    The first adapter of its method is active at once; a further one is not, as everywhere in PEFT.

    Raises:
        ValueError: if the method cannot stand beside another one, or finds no module; the model is left as it was.
    """
    layer_cls = layer_class(config)
    before = active_adapters(model, layer_cls)
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    config.base_model_name_or_path = model.__dict__.get("name_or_path") or None
    with taken_back_on_failure(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        inject_adapter_in_model(config, model, adapter_name, low_cpu_mem_usage)
    # PEFT has made the new one the only active adapter of its method, and of the modules to save.
    if before:
        activate(model, before, layer_cls)
    else:
        activate_saved_modules(model)
    for weight, was_trained in trained:
        weight.requires_grad = was_trained
    if not (before or config.inference_mode):
        train_biases(model, getattr(config, "bias", "none"), layer_cls)


def train_biases(model: nn.Module, which: str, layer_cls: type[BaseTunerLayer]) -> None:
    """Train the base model's biases that an adapter of another method asks for and saves.

    Args:
        model: the base model.
        which: as PEFT's configs have it: "none", "all", or those of the method's own layers only ("lora_only").
        layer_cls: the class of the method's layers.
    """
    if which == "all":
        biases = [
            weight
            for name, weight in model.named_parameters()
            if name.endswith(".bias") and f".{CONTAINER}." not in name
        ]
    else:
        layers = [module for module in model.modules() if which != "none" and isinstance(module, layer_cls)]
        biases = [layer.bias for layer in layers if layer.bias is not None]
    for bias in biases:
        bias.requires_grad = True


def delete_beside(model: nn.Module, adapter_name: str, config: PeftConfig) -> None:
    """Take an adapter of another method out of its layers."""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    delete_from_layers(model, adapter_name, tuner.prefix, tuner.tuner_layer_cls)


def merge_beside(model: nn.Module, names: Sequence[str], layer_cls: type[BaseTunerLayer], safe_merge: bool) -> None:
    """Add adapters of other methods to the base weights that they change.

    Args:
        model: the base model.
        names: the adapters.
        layer_cls: the class of the layers that are left out, those of the prompts.
        safe_merge: whether to check for NaN first.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, layer_cls):
            with onload_layer(module):
                module.merge(safe_merge=safe_merge, adapter_names=list(names))


def unmerge_beside(model: nn.Module, layer_cls: type[BaseTunerLayer]) -> None:
    """Undo `merge_beside`."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, layer_cls):
            with onload_layer(module):
                module.unmerge()
