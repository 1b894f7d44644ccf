"""What a saved adapter's tensors must be before one of them is copied into a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layer import CoOpEmbeddings


def adapter_parameters(model: nn.Module, adapter_name: str) -> dict[str, nn.Parameter]:
    """The learnable parts of an adapter, by their full names in `model`."""
    return {
        f"{path}.{container}.{name}": parameter
        for path, layer in model.named_modules()
        if isinstance(layer, CoOpEmbeddings)
        for container in layer.adapter_layer_names
        for name, parameter in getattr(layer, container).named_parameters()
        if name.split(".")[0] == adapter_name
    }


def check_saved_tensors(parameters: dict[str, nn.Parameter], state_dict: dict[str, Tensor]) -> None:
    """Check saved tensors against an adapter's parameters.

    Args:
        parameters: the adapter's, by their full names.
        state_dict: what was saved, under the same names; beside it modules of `modules_to_save`.

    Raises:
        ValueError: if a tensor is missing or left over, or has another shape.
    """
    saved = {key for key in state_dict if ".modules_to_save." not in key}
    learned = {key for key in saved if ".coop_" in key}
    if learned != set(parameters):
        raise ValueError(
            f"The saved adapter does not fit its config: the weights are {', '.join(sorted(saved)) or 'none'} and "
            f"should be {', '.join(sorted(parameters))}. `adapter_config.json` and the weights are not of one adapter."
        )
    if saved != learned:
        raise ValueError(
            f"The saved adapter holds weights of the base model: {', '.join(sorted(saved - learned))}. Loaded, they "
            "would replace the model's own. What belongs to an adapter is what it learned and the modules of its "
            "`modules_to_save`."
        )
    for key, parameter in parameters.items():
        if state_dict[key].shape != parameter.shape:
            whom, advice = misfit(key, state_dict[key].shape, parameter.shape)
            raise ValueError(
                f"The saved adapter does not fit {whom}: {key} is {tuple(state_dict[key].shape)} in the file and "
                f"{tuple(parameter.shape)} here. {advice}"
            )


def misfit(key: str, saved: torch.Size, here: torch.Size) -> tuple[str, str]:
    """Whom a tensor of another shape does not fit, the model or its own config, and what to do."""
    ends_in_a_width = not key.endswith("bias") and "linear2" not in key  # the last axis is one of the model's widths
    if ends_in_a_width and saved[-1] == here[-1]:
        return "its config", "Was `adapter_config.json` changed, or is it of another adapter?"
    return "this model", "Load it on the base model that it was trained with."
