"""What transformers' own `load_adapter` and `save_pretrained` of a model do not check; `PeftModel`'s share it."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, cast

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.modeling_utils import load_state_dict

from ..methods import PromptConfig
from .backup import taken_back_on_failure
from .base_model_names import warn_of_another_base

if TYPE_CHECKING:
    from torch.nn import Module as _Module  # what it is mixed into
else:
    _Module = object

BEFORE_PROMPTS = "_before_prompts"


class AdapterFilesMixin(_Module):
    """Loading and saving of a dual encoder that holds prompt adapters, by transformers' own methods.

    Tested with transformers 5.23.
    """

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Load a trained adapter, as transformers does; if that fails, the model is left as it was.

        Raises:
            ValueError: if a prompt's weights do not fit its config or the model, or are not its own.
        """
        with taken_back_on_failure(self):
            self.__dict__.pop(BEFORE_PROMPTS, None)  # there are prompts that must stay
            return super().load_adapter(*args, **kwargs)

    @staticmethod
    def _load_pretrained_model(
        model: nn.Module,
        state_dict: dict[str, Tensor] | None,
        checkpoint_files: list[str] | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Check what `load_adapter` is about to copy into a model; the adapter is in it already.

        The first prompt is loaded by the base model's own `load_adapter`, which becomes ours only on the way:
        a folder without weights fails before that, and leaves the new prompt in a model that had none.
        """
        before = model.__dict__.pop(BEFORE_PROMPTS, None)
        try:
            state_dict, checkpoint_files = under_their_names(model, state_dict, checkpoint_files)
            load = super(AdapterFilesMixin, type(model))._load_pretrained_model
            return load(model, state_dict, checkpoint_files, *args, **kwargs)
        except BaseException:
            if before is not None:
                before.restore()
            raise

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save, as transformers does: the active adapter, where adapters were added by transformers' methods."""
        if self._hf_peft_config_loaded:
            self.settle_adapters()
        return super().save_pretrained(save_directory, *args, **kwargs)

    def settle_adapters(self) -> None:
        """Make the adapters ready to be saved: their configs say what the model has, and what is lost is named."""
        unsaved = unsaved_weights(self)
        if unsaved:
            shown = ", ".join(unsaved[:5]) + (f" and {len(unsaved) - 5} more" if len(unsaved) > 5 else "")
            warnings.warn(
                f"These weights of the base model are trained and are not saved with the adapters: {shown}. Name their "
                "modules in the config's `modules_to_save`, or save the base model's own weights, too.",
                stacklevel=3,
            )
        self.prompt_layer.settle_configs(self.peft_config)


def under_their_names(
    model: nn.Module, state_dict: dict[str, Tensor] | None, checkpoint_files: list[str] | None
) -> tuple[dict[str, Tensor] | None, list[str] | None]:
    """Check what is to be loaded into the adapter that was put into a model last, if it is a prompt.

    Returns:
        Both as they are; of a prompt, the tensors by their names in the model, and no files.

    Raises:
        ValueError: if one is missing, left over or of another shape.
    """
    name, config = next(reversed(getattr(model, "peft_config", {}).items()), (None, None))
    if not isinstance(config, PromptConfig):
        return state_dict, checkpoint_files
    warn_of_another_base(config.base_model_name_or_path, getattr(model, "name_or_path", None))
    if state_dict is None:
        parts = [load_state_dict(file, map_location="cpu") for file in checkpoint_files or ()]
        state_dict = {key: tensor for part in parts for key, tensor in part.items()}
    tuner = cast(Any, PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type])
    return tuner.held_tensors(model, name, state_dict), None


def warn_of_moving_base(model: nn.Module) -> None:
    """Warn if what a method holds its prompt to, the base model without adapters, is itself being trained."""
    trained = unsaved_weights(model)
    if trained:
        warnings.warn(
            f"The method compares with the frozen model, and {trained[0]!r} of the base model is trained, so that it "
            "moves along: train parts of the model by a LoRA or by `modules_to_save`, which leave it as it was.",
            stacklevel=2,
        )


def unsaved_weights(model: nn.Module) -> list[str]:
    """Names of the weights that are trained and belong to no adapter, so that saving the adapters leaves them out."""
    biases_are_saved = any(getattr(config, "bias", "none") != "none" for config in model.peft_config.values())
    modules = dict(model.named_modules())
    return [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad
        and not belongs_to_an_adapter(name, modules)
        and not (biases_are_saved and name.endswith("bias"))
    ]


def belongs_to_an_adapter(name: str, modules: dict[str, nn.Module]) -> bool:
    """Whether a weight is an adapter's own, by its dotted name."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        above, part = modules[".".join(parts[:depth])], parts[depth]
        if isinstance(above, BaseTunerLayer) and part != "base_layer":
            return True
        if isinstance(above, AuxiliaryTrainingWrapper) and part != "original_module":
            return True
    return False
