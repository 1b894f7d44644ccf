"""What a module's output depends on beside its inputs: the key of everything that is kept of an output."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.optim.optimizer import register_optimizer_step_post_hook

# Layers of these packages compute from their weights and from what their plain attributes say.
KNOWN = ("torch", "transformers", "peft", "peft_coop")
# Attributes of every module. Whether it is in training counts where it drops out.
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# Hooks of these record outputs and change none.
RECORDING = ("transformers",)
# Rates of dropout.
DROPOUT = {"p", "dropout", "attention_dropout"}
# Of a module whose call is not the forward of its class, and of a replica of `nn.DataParallel`.
REPLACED = {"forward", "_is_replica"}
ORDINARY = (nn.Parameter, Tensor)
STEPS = "_optimizer_steps"
PLAIN = frozenset({bool, int, float, str, type(None)})


@dataclass(frozen=True, eq=False)
class ModuleState:
    """A state of some modules; equal to a later one if their outputs for equal inputs are the same.

    Attributes:
        settings: see `module_settings`.
        versions: identity, address, dtype, version and optimizer steps of every weight and buffer.
        tensors: these weights and buffers. As long as they are held, no other tensor can get their identities.
        requires_grad: whether one of them does.
    """

    settings: tuple[Hashable, ...]
    versions: tuple[Hashable, ...]
    tensors: tuple[Tensor, ...]
    requires_grad: bool

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModuleState):
            return NotImplemented
        return self.versions == other.versions and self.settings == other.settings

    __hash__ = None  # type: ignore[assignment]


def module_state(*modules: nn.Module, without: nn.Module | None = None) -> ModuleState | None:
    """The present state of some modules and all that they hold.

    A weight counts as changed if it is another tensor, lies elsewhere, has another dtype, or was changed in place, by
    an optimizer or otherwise. A change in place through `.data` leaves no trace. Adapters that are disabled have no
    part.

    Args:
        modules: the roots.
        without: a module that is left out, with all that it holds.

    Returns:
        The state; None where it cannot be known: see `module_settings`, and weights of a special kind (quantised,
        sharded, traced, made in inference mode).
    """
    _count_optimizer_steps()
    every_module = _walk(modules, without)
    settings = _settings(every_module)
    if settings is None:
        return None
    tensors = [
        tensor
        for module in every_module
        for held in (module._parameters, module._buffers)
        for tensor in held.values()
        if tensor is not None
    ]
    if not all(type(tensor) in ORDINARY for tensor in tensors):
        return None
    try:
        versions = tuple(
            [(id(each), each.data_ptr(), each.dtype, each._version, vars(each).get(STEPS)) for each in tensors]
        )
    except (RuntimeError, NotImplementedError):  # no storage, or no version
        return None
    requires_grad = any(tensor.requires_grad for tensor in tensors)
    return ModuleState(settings, versions, tuple(tensors), requires_grad)


def module_settings(*modules: nn.Module) -> tuple[Hashable, ...] | None:
    """Classes of some modules and all that they hold, and what is plain in their attributes: numbers, texts, flags.

    So of a PEFT layer which adapters are active, their scale, whether they are merged or disabled.

    Args:
        modules: the roots.

    Returns:
        The settings, which are the same in every process; None where they cannot be known: a hook or a layer of
        somebody else's, a forward that was replaced, dropout in training, a replica of `nn.DataParallel`.
    """
    return _settings(_walk(modules, None))


@cache
def _count_optimizer_steps() -> None:
    """Write the steps of every optimizer beside its weights: fused kernels do not count a weight's version up."""

    @torch.compiler.disable  # a compiled step calls it, and does not trace it
    def count(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                vars(weight)[STEPS] = vars(weight).get(STEPS, 0) + 1

    register_optimizer_step_post_hook(count)


def _walk(modules: tuple[nn.Module, ...], without: nn.Module | None) -> list[nn.Module]:
    every_module = list(modules)
    for module in every_module:  # which grows
        children = _own_of_disabled(module) or module._modules.values()
        every_module.extend([child for child in children if child is not None and child is not without])
    return every_module


def _own_of_disabled(module: nn.Module) -> list[nn.Module]:
    """The base model's own module within one of PEFT's whose adapters are disabled: it alone is called."""
    if not vars(module).get("_disable_adapters"):
        return []
    if isinstance(module, BaseTunerLayer) and not module.merged_adapters:
        return [module.base_layer]
    return [module.original_module] if isinstance(module, ModulesToSaveWrapper) else []


def _settings(modules: list[nn.Module]) -> tuple[Hashable, ...] | None:
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return None
    settings: list[Hashable] = []
    for module in modules:
        attributes = vars(module)
        own = attributes.keys() - OF_EVERY_MODULE
        name, package = _origin(module.__class__)
        if (
            package not in KNOWN
            or own & REPLACED
            or "parametrizations" in module._modules
            or not _only_recorded(module)
        ):
            return None
        if module.training and any(attributes[rate] for rate in own & DROPOUT):
            return None
        settings.append(name)
        for key in sorted(own):
            value = attributes[key]
            settings.append((key, value if type(value) in PLAIN else _plain(value)))
    return tuple(settings)


@cache
def _origin(kind: type) -> tuple[str, str]:
    """The full name of a class, and its package."""
    return f"{kind.__module__}.{kind.__qualname__}", kind.__module__.partition(".")[0]


def _only_recorded(module: nn.Module) -> bool:
    """Whether a module's hooks leave its inputs and outputs as they are."""
    if not (module._forward_hooks or module._forward_pre_hooks):
        return True
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return all((getattr(hook, "__module__", None) or "").partition(".")[0] in RECORDING for hook in hooks)


def _plain(value: Any) -> Hashable:
    """Numbers and texts, and collections of them, as a key; anything else counts as its type."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is dict:
        return tuple([(str(key), _plain(each)) for key, each in value.items()])
    if kind in (list, tuple):
        return tuple([_plain(each) for each in value])
    if kind in (set, frozenset):
        return tuple(sorted(map(repr, value)))
    return _origin(value.__class__)[0]
