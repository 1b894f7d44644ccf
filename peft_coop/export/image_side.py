"""A dual encoder's image side as it works now, without adapters: a copy, the model itself is left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from ..towers import find_family, vision_parts


def image_side_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers of what an image passes through, adapters merged; copies, by their names in the model.

    Active adapters of other methods than a prompt (a LoRA) are merged, whether they were before or not; while adapters
    are disabled, they are left out.

    Args:
        model: the dual encoder.

    Raises:
        ValueError: if an active adapter cannot be merged, or the weights are not plain and in memory.
    """
    check_in_memory(*vision_parts(model))
    holder = nn.Module()
    for name in find_family(model).image_parts:
        holder.add_module(name, settled(name, deepcopy(model.get_submodule(name))))
    return {name: tensor.detach() for name, tensor in holder.state_dict().items()}


def check_in_memory(*modules: nn.Module) -> None:
    """Check that the weights of modules are there to be copied.

    Raises:
        ValueError: if one is on no device, or quantised.
    """
    for module in modules:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_meta:
                raise ValueError(
                    f"The weights of {type(module).__name__} are not in memory ({name!r} is on the device 'meta'), so "
                    "that there is nothing to export: load the model without offloading, on one device."
                )
            if type(tensor) not in (Tensor, nn.Parameter):  # bitsandbytes' and torchao's; or a part of one
                raise ValueError(
                    f"The weights of {type(module).__name__} are no plain tensors ({name!r} is a "
                    f"{type(tensor).__name__}): load the model without quantisation, on one device. What is exported "
                    "can be quantised."
                )


@torch.no_grad()
def settled(path: str, module: nn.Module) -> nn.Module:
    """A module without the adapters in it, which is another one where it is an adapter's layer itself.

    Args:
        path: its name in the model, for errors.
        module: a copy of one's own: it is changed.

    Raises:
        ValueError: if an active adapter cannot be merged.
    """
    if "_orig_mod" in module._modules:  # around what `torch.compile` was given
        return settled(path, module.get_submodule("_orig_mod"))
    if isinstance(module, AuxiliaryTrainingWrapper):
        wrapper = cast(Any, module)
        if hasattr(wrapper, "token_adapter"):  # trainable tokens: of a table of embeddings
            return _merged(path, wrapper.token_adapter)
        is_used = wrapper.active_adapters and not wrapper.disable_adapters
        return settled(
            path, wrapper.modules_to_save[wrapper.active_adapters[0]] if is_used else wrapper.original_module
        )
    if isinstance(module, BaseTunerLayer):
        return _merged(path, cast(Any, module))
    for name, child in list(module.named_children()):
        plain = settled(f"{path}.{name}", child)
        if plain is not child:
            setattr(module, name, plain)
    return module


def _merged(path: str, layer: Any) -> nn.Module:
    """What an adapter's layer wraps, with the active adapters merged into it.

    Raises:
        ValueError: if they cannot be.
    """
    layer.base_layer = settled(path, layer.base_layer)  # first, since an adapter may stand in another one's layer
    try:
        if layer.disable_adapters:
            if layer.merged:
                layer.unmerge()
            return layer.get_base_layer()
        if hasattr(layer, "unload_and_optionally_merge_module"):
            return layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        if not layer.merged:
            layer.merge(safe_merge=False, adapter_names=None)
    except (NotImplementedError, AttributeError, ValueError) as error:
        raise ValueError(
            f"The adapter at {path!r} cannot be merged into the image side: {error}. Delete it, or choose another one."
        ) from error
    return layer.get_base_layer()


def changes_of_image_side(model: nn.Module) -> Iterator[str]:
    """What adapters have changed of the image side, for a sentence; nothing if it is the base model's own.

    Args:
        model: the dual encoder, with a prompt in use.
    """
    layer = model.prompt_layer
    if not layer.disable_adapters and layer.prompt.settings.changes_vision:
        yield "learned prompts in its vision tower"
    for part in vision_parts(model):
        for module in part.modules():
            if isinstance(module, AuxiliaryTrainingWrapper):
                if module.active_adapters and not module.disable_adapters:
                    yield f"the modules of adapter {module.active_adapters[0]!r} (`modules_to_save`)"
            elif isinstance(module, BaseTunerLayer):
                if module.merged:
                    yield f"adapter {module.merged_adapters[0]!r}, merged into its vision tower"
                elif not module.disable_adapters and _held(module):
                    yield f"adapter {_held(module)[0]!r} in its vision tower"
    layers = [module for part in vision_parts(model) for module in part.modules() if isinstance(module, BaseTunerLayer)]
    for name, config in model.peft_config.items():
        trained = getattr(config, "bias", "none")  # in place, so that they stay where the adapter is switched off
        if trained == "all" or (
            trained != "none" and any(name in each._all_available_adapter_names() for each in layers)
        ):
            yield f"biases that adapter {name!r} has trained"


def _held(layer: Any) -> list[str]:
    """The active adapters that a layer holds."""
    return [name for name in layer.active_adapters if name in layer._all_available_adapter_names()]
