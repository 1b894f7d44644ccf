"""What a saved adapter's tensors must be before one of them is copied into a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from .prompt_embeddings import PromptEmbeddings

PREFIX = "base_model.model."  # of all keys in PEFT's files
CONTAINER = "learned_prompts"  # of all adapters' prompts in the layer that holds them


def saved_name(held: str, adapter_name: str, prefix: str) -> str:
    """The name in a file of what an adapter learned: its name in the model without the adapter's.

    Args:
        held: such as "text_model.embeddings.learned_prompts.default.ctx"; other names are returned as they are.
        adapter_name: the adapter.
        prefix: of its method, such as "coop_": the example becomes "text_model.embeddings.coop_ctx".
    """
    return held.replace(f".{CONTAINER}.{adapter_name}.", f".{prefix}", 1)


def adapter_tensors(model: nn.Module, adapter_name: str, prefix: str) -> Iterator[tuple[str, str, Tensor]]:
    """All tensors of an adapter: what it learned, and its copies of the modules of `modules_to_save`.

    Args:
        model: a model that holds it.
        adapter_name: the adapter.
        prefix: of its method.

    Yields:
        The name in a file, the name in `model`, and the tensor.
    """
    for path, module in model.named_modules():
        if isinstance(module, PromptEmbeddings):
            # What PEFT saves: the parameters, and the buffers but for those that are not persistent.
            for name, tensor in module.prompt_of(adapter_name).state_dict(keep_vars=True).items():
                held = f"{path}.{CONTAINER}.{adapter_name}.{name}"
                yield saved_name(held, adapter_name, prefix), held, tensor
        elif isinstance(module, AuxiliaryTrainingWrapper):
            tensors = module.state_dict()
            for saved, held in module.adapter_state_dict_load_map(adapter_name).items():
                yield f"{path}.{saved}", f"{path}.{held}", tensors[held]


def check_saved_tensors(expected: Mapping[str, Tensor], saved: Mapping[str, Tensor], prefix: str) -> None:
    """Check saved tensors against an adapter's.

    Args:
        expected: the adapter's.
        saved: what is to be loaded, under the same names.
        prefix: of its method.

    Raises:
        ValueError: if a tensor is missing or left over, or has another shape.
    """
    missing, foreign = expected.keys() - saved.keys(), saved.keys() - expected.keys()
    if missing or any(f".{prefix}" in key for key in foreign):
        raise ValueError(
            f"The saved adapter does not fit its config: the weights are {', '.join(sorted(saved)) or 'none'} and "
            f"should be {', '.join(sorted(expected))}. `adapter_config.json` and the weights are not of one adapter."
        )
    if foreign:
        raise ValueError(
            f"The saved adapter holds weights of the base model: {', '.join(sorted(foreign))}. Loaded, they "
            "would replace the model's own. What belongs to an adapter is what it learned and the modules of its "
            "`modules_to_save`."
        )
    for key, tensor in expected.items():
        if saved[key].shape != tensor.shape:
            whom, advice = misfit(key, saved[key].shape, tensor.shape, prefix)
            raise ValueError(
                f"The saved adapter does not fit {whom}: {key} is {tuple(saved[key].shape)} in the file and "
                f"{tuple(tensor.shape)} here. {advice}"
            )


def misfit(key: str, saved: torch.Size, here: torch.Size, prefix: str) -> tuple[str, str]:
    """Whom a tensor of another shape does not fit, the model or its own config, and what to do."""
    # The last axis is one of the model's widths, but for biases; copies of the model's modules have only such axes.
    if f".{prefix}" in key and not key.endswith("bias") and saved[-1:] == here[-1:]:
        return "its config", "Was `adapter_config.json` changed, or is it of another adapter?"
    return "this model", "Load it on the base model that it was trained with."
