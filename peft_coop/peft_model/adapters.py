"""What a `PeftModel` with prompts does about its adapters: adding, choosing, loading, saving, pushing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import CommitInfo
from peft import PeftConfig, PeftMixedModel, PeftModel
from peft.utils import CONFIG_NAME, AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from torch import nn

from ..export import ClassMatrixForImageClassification, export_classes, to_classifier
from ..hub import eval_results, push_adapters, update_model_card
from ..methods import PromptConfig
from ..methods.config import raise_if_unregistered
from ..models import BEFORE_PROMPTS, AdapterFilesMixin, Backup, warn_of_another_base

TRAINER_STATE_NAME = "trainer_state.json"  # as transformers' Trainer has it, which takes seconds to import


class PeftModelWithPrompts(PeftModel):
    """A dual encoder with learned prompts: what the models of all tasks share.

    What forward takes and returns is documented at `PromptClassifierMixin`, the class of the model inside; the
    classifier's other methods (`set_classes`, `class_names`, `get_text_features`, …) are reached from here as well.
    """

    def __init__(self, model: nn.Module, peft_config: PeftConfig, adapter_name: str = "default", **kwargs: Any):
        if isinstance(model, PeftModel | PeftMixedModel):  # its adapters stay where they are, beside the prompt
            model = model.get_base_model()
            peft_config.base_model_name_or_path = getattr(model, "name_or_path", None) or None
        before = Backup(model)
        super().__init__(model, peft_config, adapter_name, **kwargs)
        self.special_peft_forward_args = {"alora_offsets"}  # without "adapter_names", which our forward takes
        self.get_base_model().__dict__.pop(BEFORE_PROMPTS, None)  # for transformers' own `load_adapter` only
        # `PeftModel.from_pretrained` wraps the base model and then loads the weights. If those turn out not to fit, the
        # base model is what it was before, with the adapters that it had.
        self._loaded_from = getattr(peft_config, "loaded_from", None)
        self._before_wrapping = before if peft_config.inference_mode or self._loaded_from else None

    def get_base_model(self) -> nn.Module:
        """The dual encoder; also after the last adapter was deleted."""
        return self.base_model.model

    def add_adapter(
        self,
        adapter_name: str,
        peft_config: PeftConfig,
        low_cpu_mem_usage: bool = False,
        autocast_adapter_dtype: bool = True,
    ) -> None:
        """Add a prompt, as `PeftModel.add_adapter`, or an adapter of another method beside it, a LoRA for example.

        A further prompt is not active until `set_adapter` chooses it. An adapter of another method works together with
        the active prompt; the first of its method is active at once.

        Args:
            adapter_name: its name, which no other adapter has.
            peft_config: its config.
            low_cpu_mem_usage: make its weights on the meta device; only before saved ones are loaded.
            autocast_adapter_dtype: keep its weights in float32 where the base model's are float16 or bfloat16.

        Raises:
            ValueError: if the name is taken, or the adapter does not fit the model; the model is left as it was.
        """
        if isinstance(peft_config, PromptConfig) or adapter_name in self.peft_config:
            self.peft_type = peft_config.peft_type  # PEFT takes one method per model; ours share one layer
            super().add_adapter(adapter_name, peft_config, low_cpu_mem_usage, autocast_adapter_dtype)
            return
        if peft_config.is_prompt_learning or peft_config.is_adaption_prompt:
            raise ValueError(
                f"{peft_config.peft_type.value} cannot stand beside a learned prompt: PEFT puts it around the model, "
                "and not into its layers. LoRA, for example, can."
            )
        self.base_model.add_beside(adapter_name, peft_config, low_cpu_mem_usage)
        self.base_model._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None:
        """Choose the active prompt; or, by the name of a LoRA for example, the active adapter of that method.

        Prompts and adapters of other methods are chosen apart: the active ones of each work together.

        Args:
            adapter_name: its name.
            inference_mode: whether it is frozen.

        Raises:
            ValueError: if there is no such adapter.
        """
        if adapter_name in self.peft_config and not isinstance(self.peft_config[adapter_name], PromptConfig):
            self.base_model.set_adapter(adapter_name, inference_mode)  # `active_adapter` is the prompt
            return
        super().set_adapter(adapter_name, inference_mode)

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Load a trained adapter, as `PeftModel.load_adapter`; if that fails, the model is left as it was.

        An adapter that the model has is read from its own subfolder, where several were saved together: the Trainer
        names the whole checkpoint when it brings back the best one. From such a checkpoint, and from a subfolder of it,
        the other active adapters come back, too, since they were trained together: transformers before 5.23 names the
        subfolders only, and forgets the adapter that lies beside them.

        Raises:
            ValueError: if the weights cannot be read, or do not fit the config or the model.
        """
        is_new = adapter_name not in self.peft_config
        saved_together = model_id
        is_first = not is_new and self._before_wrapping is not None and self._loaded_from in (None, str(model_id))
        if not is_new and not is_first:
            model_id = own_folder(model_id, adapter_name)
        backup = (is_first and self._before_wrapping) or Backup(self)
        try:
            if not is_new and self._loaded_from != str(model_id):
                self._check_saved_config(model_id, adapter_name, **kwargs)
            result = super().load_adapter(model_id, adapter_name, *args, **kwargs)
            if isinstance(loaded := self.peft_config[adapter_name], PromptConfig) and (is_new or is_first):
                warn_of_another_base(
                    loaded.base_model_name_or_path, getattr(self.get_base_model(), "name_or_path", None)
                )
            if not is_new:
                for other, folder in self._trained_with(adapter_name, saved_together).items():
                    super().load_adapter(folder, other, *args, **kwargs)
        except BaseException as error:
            saved_modules = self._saved_module_keys(adapter_name)
            backup.restore()
            if isinstance(error, KeyError):
                raise_if_unregistered(error, model_id)
            if isinstance(error, KeyError) and error.args[0] in saved_modules:  # PEFT's
                raise ValueError(
                    f"The saved adapter does not fit its config: {error.args[0]} is not among the weights, and is part "
                    "of its `modules_to_save`. `adapter_config.json` and the weights are not of one adapter."
                ) from error
            if isinstance(error, SafetensorError):
                raise ValueError(
                    f"The weights in {str(model_id)!r} cannot be read, the file is damaged: {error}."
                ) from error
            raise
        self._before_wrapping = None
        return result

    def _trained_with(self, adapter_name: str, path: str | os.PathLike) -> dict[str, str]:
        """The other active adapters, and where they lie, if a path is of a Trainer's checkpoint."""
        places = (os.path.abspath(path), os.path.dirname(os.path.abspath(path)))
        checkpoint = next((each for each in places if os.path.isfile(os.path.join(each, TRAINER_STATE_NAME))), None)
        if checkpoint is None:
            return {}
        others = dict.fromkeys([*self.active_adapters, *self.base_model.active_beside()])
        folders = {each: checkpoint if each == "default" else os.path.join(checkpoint, each) for each in others}
        return {
            each: folder
            for each, folder in folders.items()
            if each != adapter_name and os.path.isfile(os.path.join(folder, CONFIG_NAME))
        }

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the adapters, as `PeftModel.save_pretrained`.

        The base model's embeddings are never part of them, so the Hub is not asked what the base model's were. A
        warning names weights that are trained and not saved.
        """
        base = self.get_base_model()
        if isinstance(base, AdapterFilesMixin):  # not where another method has our task type
            base.settle_adapters()
        if len(args) < 3:  # `save_embedding_layers` is the fourth parameter
            kwargs.setdefault("save_embedding_layers", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    def _saved_module_keys(self, adapter_name: str) -> set[str]:
        """What the file of an adapter must hold of its `modules_to_save`."""
        return {
            f"{path}.{key}"
            for path, module in self.named_modules()
            if isinstance(module, AuxiliaryTrainingWrapper)
            for key in module.adapter_state_dict_load_map(adapter_name)
        }

    def _check_saved_config(self, model_id: str | os.PathLike, adapter_name: str, **kwargs: Any) -> None:
        """Check that weights that are loaded over an adapter's are of a prompt that is put together alike."""
        layer = getattr(self.get_base_model(), "prompt_layer", None)
        if layer is None or adapter_name not in layer.learned_prompts:
            return
        given = {name: kwargs[name] for name in ("subfolder", "revision", "cache_dir", "token") if name in kwargs}
        try:
            saved = PeftConfig.from_pretrained(model_id, **given)
        except ValueError as error:
            if "Can't find" not in str(error):  # PEFT's words where there is none
                raise
            return  # the weights' names and shapes are all that can be checked
        differs = layer.prompt_of(adapter_name).settings.first_difference(saved)
        if differs:
            raise ValueError(
                f"The adapter in {str(model_id)!r} does not fit adapter {adapter_name!r}: {differs}. Load it under a "
                "name of its own, or make the model with its config."
            )

    def create_or_update_model_card(
        self,
        output_dir: str | os.PathLike,
        metrics: Mapping[str, Any] | None = None,
        dataset: str | None = None,
        repo_id: str | None = None,
        tags: Sequence[str] | str | None = None,
    ) -> None:
        """Write `README.md`, or bring the one that is there up to date; saving and the Trainer call this.

        Args:
            output_dir: the folder with the adapter.
            metrics: measured results, as `trainer.evaluate()` returns them; None keeps those that the card has.
            dataset: what they were measured on: an id on the Hub, or any name.
            repo_id: where the card will stand on the Hub.
            tags: more tags.

        Whatever else goes wrong is a warning: the weights are saved right after their card, and must not be lost to it.

        Raises:
            ValueError: if a metric is no number.
        """
        eval_results(metrics or {})  # what the caller gave; all that follows is ours
        try:
            if any(isinstance(config, PromptConfig) for config in self.peft_config.values()):
                update_model_card(self, output_dir, metrics=metrics, dataset=dataset, repo_id=repo_id, tags=tags)
            else:
                super().create_or_update_model_card(os.fspath(output_dir))  # another method with our task type
        except Exception as error:
            warnings.warn(
                f"No model card was written into {os.fspath(output_dir)!r}, and the adapters are not affected: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: Mapping[str, Any] | None = None,
        dataset: str | None = None,
        max_shard_size: int | str | None = None,
        **kwargs: Any,
    ) -> CommitInfo:
        """Upload the adapters and their model card in one commit.

        Args:
            repo_id: "user/name", or "name" for a repository of one's own; made if it does not exist.
            metrics: measured results for the card, as `trainer.evaluate()` returns them.
            dataset: what they were measured on: an id on the Hub, or any name.
            max_shard_size: accepted as everywhere in transformers; an adapter is one small file.
            kwargs: `commit_message`, `commit_description`, `private`, `token`, `revision`, `create_pr` and `tags`, as
                in `PreTrainedModel.push_to_hub`; `handler=True` for an inference endpoint's `handler.py` beside it.

        Returns:
            The commit, with its `commit_url`.

        Raises:
            ValueError: if a metric is no number.
        """
        return push_adapters(self, repo_id, metrics=metrics, dataset=dataset, **kwargs)

    def export_classes(self, path: str | os.PathLike) -> None:
        """Write the classes as a matrix of features that NumPy alone reads, see `export.export_classes`."""
        export_classes(self.get_base_model(), path)

    def to_classifier(self) -> ClassMatrixForImageClassification:
        """A plain `PreTrainedModel` that classifies as this one does now, see `export.to_classifier`."""
        return to_classifier(self.get_base_model())


def own_folder(path: str | os.PathLike, adapter_name: str) -> str | os.PathLike:
    """The subfolder of a saved model that holds this adapter, or `path` itself where there is none."""
    folder = os.path.join(path, adapter_name)
    return folder if os.path.isfile(os.path.join(folder, CONFIG_NAME)) else path
