"""The tuner: puts CoOp's layer into a dual encoder, and takes it out again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from ..methods import CoOpConfig
from ..methods.base import DEFAULT_N_CTX
from ..models import (
    LabelNames,
    become_classifier,
    cease_to_be_classifier,
    remember_before_prompts,
    taken_back_on_failure,
    warn_of_another_base,
)
from ..prompts import PromptBuilder, find_family, gaussian_context, install_text_side, remove_text_side
from .beside import (
    activate,
    active_adapters,
    add_beside,
    delete_beside,
    is_layer_of,
    layer_class,
    merge_beside,
    unmerge_beside,
)
from .layer import CoOpEmbeddings, raise_merge_error
from .saved_modules import check_not_shared, check_nothing_inside, check_saved_modules
from .saved_tensors import PREFIX, adapter_tensors, check_saved_tensors


class CoOpModel(BaseTuner):
    """Learns the context of a CLIP classifier's prompts; the model itself stays frozen.

    Args:
        model: a Hugging Face dual encoder, `CLIPModel` or `MetaClip2Model`.
        peft_config: a `CoOpConfig`.
        adapter_name: the adapter's name.

    Raises:
        ValueError: if the model is of another family, or the config does not fit it; the model is left as it was.

    Reference: CoOp (arXiv:2109.01134), CoCoOp (arXiv:2203.05557).
    """

    prefix = "coop_"
    tuner_layer_cls = CoOpEmbeddings

    def _prepare_adapter_config(self, peft_config: CoOpConfig, model_config: dict) -> CoOpConfig:
        return peft_config

    def __init__(self, model: nn.Module, peft_config: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        before = getattr(model, "peft_config", {})
        if adapter_name in before and not isinstance(before[adapter_name], CoOpConfig):
            raise ValueError(
                f"The model has an adapter {adapter_name!r} already, of the method "
                f"{before[adapter_name].peft_type.value}: "
                'give the prompt a name of its own, as in `get_peft_model(model, config, adapter_name="prompt")` or '
                '`PeftModel.from_pretrained(model, folder, adapter_name="prompt")`.'
            )
        with taken_back_on_failure(model) as backup:
            super().__init__(model, peft_config, adapter_name, *args, **kwargs)
        remember_before_prompts(model, backup)

    def _prepare_model(self, peft_config: CoOpConfig, model: nn.Module) -> None:
        family = find_family(model)
        check_saved_modules(peft_config.modules_to_save, model, family.embeddings_path)
        others = [name for name in self.peft_config if self._layer_class(name) is not CoOpEmbeddings]
        check_not_shared(peft_config.modules_to_save, model, others)
        check_nothing_inside(model, family.embeddings_path)

    @staticmethod
    def _check_target_module_exists(peft_config: CoOpConfig, key: str) -> bool:
        return key == peft_config.target_modules

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter, and make the model a classifier."""
        # A copy: the user's own may change, or serve other adapters.
        self.peft_config[adapter_name] = deepcopy(self.peft_config[adapter_name])
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        become_classifier(model)

    def _create_and_replace(
        self,
        peft_config: CoOpConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        # Everything that can be wrong is found before the model is touched.
        embeddings = target.base_layer if isinstance(target, CoOpEmbeddings) else target
        builder = make_builder(peft_config, self.model, embeddings)
        prompts = builder.build(peft_config.class_names) if peft_config.class_names is not None else None
        ctx = start_context(peft_config, builder, embeddings)
        sizes = meta_net_sizes(peft_config, self.model, ctx.shape[-1])

        layer = target if isinstance(target, CoOpEmbeddings) else CoOpEmbeddings(target, LabelNames(self.model.config))
        peft_config.n_ctx = builder.n_ctx
        layer.update_layer(adapter_name, peft_config, builder, prompts, ctx, sizes)
        setattr(parent, target_name, layer)
        install_text_side(parent)
        if peft_config.loaded_from:
            warn_of_another_base(peft_config.base_model_name_or_path, getattr(self.model, "name_or_path", None))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Choose the active prompt, or an adapter of another method; the other methods' adapters stay as they are."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        chosen: dict[type, list[str]] = {}
        for name in names:
            chosen.setdefault(self._layer_class(name), []).append(name)
        for layer_cls, of_method in (chosen or {CoOpEmbeddings: []}).items():
            activate(self.model, of_method, layer_cls, inference_mode)
        prompts = chosen.get(CoOpEmbeddings, [])
        if prompts or not names:
            self.active_adapter = prompts

    def add_beside(self, adapter_name: str, config: PeftConfig, low_cpu_mem_usage: bool = False) -> None:
        """Add an adapter of another method, a LoRA for example, see `beside.add_beside`.

        Raises:
            ValueError: if the method cannot stand beside a prompt, or nothing fits; the model is left as it was.
        """
        others = [name for name in self.peft_config if self._layer_class(name) is not layer_class(config)]
        check_not_shared(getattr(config, "modules_to_save", None), self.model, others)
        add_beside(self.model, adapter_name, config, low_cpu_mem_usage)

    def active_beside(self) -> list[str]:
        """Names of the active adapters of other methods."""
        return [name for name in active_adapters(self.model) if self._layer_class(name) is not CoOpEmbeddings]

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete a prompt, or an adapter of another method."""
        if self._layer_class(adapter_name) is CoOpEmbeddings:
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
        if not names or any(self._layer_class(name) is CoOpEmbeddings for name in names):
            raise_merge_error([name for name in self.peft_config if self._layer_class(name) is not CoOpEmbeddings])
        merge_beside(self.model, names, CoOpEmbeddings, safe_merge)

    def unmerge_adapter(self) -> None:
        """Take merged adapters out of the base weights again.

        Raises:
            NotImplementedError: if there are only prompts.
        """
        if all(self._layer_class(name) is CoOpEmbeddings for name in self.peft_config):
            raise_merge_error()
        unmerge_beside(self.model, CoOpEmbeddings)

    def _layer_class(self, adapter_name: str) -> type:
        config = self.peft_config.get(adapter_name)
        return CoOpEmbeddings if config is None else layer_class(config)

    def unload(self) -> nn.Module:
        """Take the adapters out and return the base model, with its own class, keys and label names."""
        layer = self.model.get_submodule(find_family(self.model).embeddings_path)
        model = super().unload()
        cease_to_be_classifier(model)
        remove_text_side(getattr(model, find_family(model).text_model))
        layer.label_names.publish(None)
        return model

    def _check_merge_allowed(self) -> None:
        raise_merge_error([name for name in self.peft_config if self._layer_class(name) is not CoOpEmbeddings])

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: CoOpConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        check_saved_tensors({key: tensor for _, key, tensor in adapter_tensors(model, adapter_name)}, remapped)
        return remapped

    @staticmethod
    def check_saved(model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor]) -> None:
        """Check tensors against a prompt, by their names in a file.

        Args:
            model: a base model that holds the prompt.
            adapter_name: the prompt.
            state_dict: the tensors; their shapes are enough.

        Raises:
            ValueError: if one is missing, left over or of another shape.
        """
        expected = {key: tensor for key, _, tensor in adapter_tensors(model, adapter_name)}
        check_saved_tensors(expected, {key.removeprefix(PREFIX): tensor for key, tensor in state_dict.items()})


def make_builder(config: CoOpConfig, model: nn.Module, embeddings: nn.Module) -> PromptBuilder:
    """Gather what an adapter's prompts have in common, and settle `n_ctx`.

    Raises:
        ValueError: if `n_ctx` contradicts the number of tokens in `ctx_init`.
    """
    if config.tokenizer_name_or_path is not None and os.path.isdir(config.tokenizer_name_or_path):
        config.tokenizer_name_or_path = os.path.abspath(config.tokenizer_name_or_path)  # saved, it is known as a path
    builder = PromptBuilder(
        tokenizer_source=(config.tokenizer_name_or_path, getattr(model, "name_or_path", None)),
        vocab_size=embeddings.token_embedding.num_embeddings,
        max_length=embeddings.position_embedding.num_embeddings,
        n_ctx=config.n_ctx or DEFAULT_N_CTX,
        position=config.class_token_position,
        class_specific=config.class_specific_context,
        templates=config.templates,
    )
    if config.ctx_init is not None:
        n_tokens = len(start_tokens(config.ctx_init, builder))
        if config.n_ctx not in (None, n_tokens):
            raise ValueError(
                f"`n_ctx={config.n_ctx}` contradicts `ctx_init={config.ctx_init!r}`, which has {n_tokens} tokens: set "
                f"`n_ctx` to {n_tokens} or leave it out, or set `ctx_init=None` to start from random vectors."
            )
        builder.n_ctx = n_tokens
    return builder


def start_tokens(words: str, builder: PromptBuilder) -> list[int]:
    """Token ids of the words that the context starts from."""
    [ids] = builder.encode([words.replace("_", " ").strip()])
    return ids


def start_context(config: CoOpConfig, builder: PromptBuilder, embeddings: nn.Module) -> Tensor:
    """The context vectors before training, `[M, D]`, or `[C, M, D]` when class-specific.

    Raises:
        ValueError: if the context is class-specific and there are no classes.
    """
    shape: tuple[int, ...] = (builder.n_ctx, embeddings.token_embedding.embedding_dim)
    if config.class_specific_context:
        if config.class_names is None:
            raise ValueError("A class-specific context needs `class_names`: it has one set of vectors per class.")
        shape = (len(config.class_names), *shape)
    if config.ctx_init is None:
        return gaussian_context(*shape)
    weight = embeddings.token_embedding.weight
    words = weight[torch.tensor(start_tokens(config.ctx_init, builder), device=weight.device)].detach()
    return words.expand(shape).clone()


def meta_net_sizes(config: CoOpConfig, model: nn.Module, text_width: int) -> tuple[int, int, int] | None:
    """Projection width, hidden units and text width of the Meta-Net, or None where there is none.

    Raises:
        ValueError: if no hidden unit would be left.
    """
    if not config.meta_net:
        return None
    projection_dim = model.config.projection_dim
    hidden_units = projection_dim // config.meta_net_reduction
    if hidden_units < 1:
        raise ValueError(
            f"`meta_net_reduction={config.meta_net_reduction}` leaves the Meta-Net no hidden unit: this model's "
            f"projection has {projection_dim} dimensions, so it can be {projection_dim} at most."
        )
    return projection_dim, hidden_units, text_width
