"""Parts of the base model that are trained and saved with a prompt: what they can be."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn


def check_saved_modules(names: Sequence[str] | None, model: nn.Module, embeddings_path: str) -> None:
    """Check `modules_to_save` before the model is touched.

    Args:
        names: the ends of the modules' dotted names, as PEFT matches them.
        model: the base model.
        embeddings_path: the module that the prompt's layer stands at.

    Raises:
        ValueError: if a name matches no module, one that holds the prompt itself or other adapters, or part of another
            one that is named.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    named: dict[str, str] = {}
    for name in names or ():
        found = [path for path in modules if path.endswith(name) and not is_inside_an_adapter(path, modules)]
        if not found:
            kind = "a weight and no module" if name in dict(model.named_parameters()) else "in it nowhere"
            raise ValueError(
                f"`modules_to_save` names {name!r}, which is {kind}. Name modules of {type(model).__name__}, such as "
                "'visual_projection' or 'text_model.final_layer_norm'."
            )
        for path in found:
            check_saved_module(name, path, modules[path], embeddings_path)
            named[path] = name
    for path in named:
        within = next((other for other in named if path.startswith(f"{other}.")), None)
        if within is not None:
            raise ValueError(
                f"`modules_to_save` names {named[path]!r}, and {path!r} is part of {within!r}, which it names as "
                f"{named[within]!r}: leave one of the two out. Trained twice, it could not be loaded again."
            )


def check_saved_module(name: str, path: str, module: nn.Module, embeddings_path: str) -> None:
    """Check one module that `modules_to_save` matches.

    Raises:
        ValueError: if it cannot be trained beside the prompt.
    """
    around = f"{embeddings_path}.".startswith(f"{path}.")
    if around or path.startswith(f"{embeddings_path}."):
        raise ValueError(
            f"`modules_to_save` names {name!r}, and {path!r} {'holds' if around else 'is held by'} the layer that the "
            "prompt stands in. Name other parts of the model: of the text tower the encoder, its layers and the final "
            "norm, as in 'text_model.encoder'."
        )
    if any(
        isinstance(part, BaseTunerLayer) or (part is not module and isinstance(part, AuxiliaryTrainingWrapper))
        for part in module.modules()
    ):
        raise ValueError(
            f"`modules_to_save` names {name!r}, and {path!r} holds other adapters: train either them or the module."
        )


def check_not_shared(names: Sequence[str] | None, model: nn.Module, others: Collection[str]) -> None:
    """Check that no module of `modules_to_save` is trained by an adapter of another method: only one can be active.

    Args:
        names: the ends of the modules' dotted names.
        model: the base model.
        others: the adapters of other methods.

    Raises:
        ValueError: if one is.
    """
    for path, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper) and path.endswith(tuple(names or ())):
            shared = sorted(module._adapters & set(others))
            if shared:
                raise ValueError(
                    f"`modules_to_save` names {path!r}, which adapter {shared[0]!r} of another method trains already: "
                    "one of the two can have it."
                )


def is_inside_an_adapter(path: str, modules: dict[str, nn.Module]) -> bool:
    """Whether a module belongs to an adapter, or to one's copy of a module."""
    parents = (path.rsplit(".", count)[0] for count in range(1, path.count(".") + 1))
    return any(isinstance(modules[parent], BaseTunerLayer | AuxiliaryTrainingWrapper) for parent in parents)


def check_nothing_inside(model: nn.Module, embeddings_path: str) -> None:
    """Check that no adapter of another method stands inside the embeddings, where it could not be saved for itself.

    Raises:
        ValueError: if one does.
    """
    modules = model.get_submodule(embeddings_path)
    held = modules.base_layer if isinstance(modules, BaseTunerLayer) else modules
    inside = [path for path, module in held.named_modules() if isinstance(module, BaseTunerLayer)]
    if inside:
        raise ValueError(
            f"Another adapter stands at {', '.join(f'{embeddings_path}.{path}' for path in inside)}, inside of the "
            "layer that a prompt needs: leave it out of `target_modules`, or `unload()` the adapter."
        )


def check_used_together(model: nn.Module, adapter_name: str) -> None:
    """Check that the modules that an active prompt has trained are in use with it.

    Adapters that PEFT's own functions put in switch off those that others have: not without a word.

    Args:
        model: the model.
        adapter_name: the prompt's.

    Raises:
        ValueError: if one is not.
    """
    for path, module in model.named_modules():
        is_a_part = isinstance(module, AuxiliaryTrainingWrapper) and adapter_name in module._adapters
        if is_a_part and adapter_name not in module.active_adapters:
            raise ValueError(
                f"Adapter {adapter_name!r} is active, and what it has trained of {path!r} is not, since another "
                f"adapter was put in: call `set_adapter({adapter_name!r})`. `model.add_adapter` puts one in without "
                "that."
            )
