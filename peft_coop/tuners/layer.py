"""The layer around a text tower's embeddings that holds every adapter's learnable parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ..methods import CoOpConfig
from ..models import LabelNames
from ..prompts import ClassPrompts, PromptBuilder, shift_by_image

# What a prompt is made of, as against what PEFT writes into every config.
SETTINGS = sorted({field.name for field in fields(CoOpConfig)} - {field.name for field in fields(PeftConfig)})


class CoOpEmbeddings(nn.Module, BaseTunerLayer):
    """A text tower's embeddings, and beside them the context vectors and Meta-Nets of each adapter.

    Called, it is the wrapped module. The learnable parts are read by the classifier's forward.

    Args:
        base_layer: the tower's own embeddings.
        label_names: where the active adapter's class names are published.

    Attributes:
        memory: bytes that encoding prompts may keep for the backward pass; None: see `encode_prompts`.
    """

    adapter_layer_names = ("coop_ctx", "coop_meta_net_linear1", "coop_meta_net_linear2")
    other_param_names = ("coop_builders", "coop_prompts", "coop_configs")

    def __init__(self, base_layer: nn.Module, label_names: LabelNames):
        super().__init__()
        self.base_layer = base_layer
        self.coop_ctx = nn.ParameterDict()
        self.coop_meta_net_linear1 = nn.ModuleDict()
        self.coop_meta_net_linear2 = nn.ModuleDict()
        self.coop_builders: dict[str, PromptBuilder] = {}
        self.coop_prompts: dict[str, ClassPrompts] = {}
        self.coop_configs: dict[str, CoOpConfig] = {}  # as they were when the adapters were made
        self.label_names = label_names
        self.memory: int | None = None
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter: list[str] = []

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Embed as the wrapped module does."""
        return self.base_layer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def clear_cache(self) -> None:
        """Forget all that is kept of the adapters' prompts."""
        for prompts in self.coop_prompts.values():
            prompts.clear()

    def _apply(self, fn: Callable, recurse: bool = True) -> CoOpEmbeddings:
        # A model that is rounded and put back (`model.half().float()`) may find its weights where they were before.
        self.clear_cache()
        return super()._apply(fn, recurse)

    def update_layer(
        self,
        adapter_name: str,
        config: CoOpConfig,
        builder: PromptBuilder,
        prompts: ClassPrompts | None,
        ctx: Tensor,
        meta_net_sizes: tuple[int, int, int] | None,
    ) -> None:
        """Add an adapter.

        Args:
            adapter_name: its name.
            config: its settings.
            builder: what its prompts have in common.
            prompts: the prompts of its classes, if it has classes yet.
            ctx: the context vectors at the start, `[M, D]`, or `[C, M, D]` when class-specific.
            meta_net_sizes: projection width, hidden units and text width of the Meta-Net; None for none.
        """
        self.coop_ctx[adapter_name] = nn.Parameter(ctx)  # first, since torch refuses some names
        for parts in (self.coop_meta_net_linear1, self.coop_meta_net_linear2, self.coop_prompts):
            if adapter_name in parts:  # of an adapter that this one replaces
                del parts[adapter_name]
        if meta_net_sizes is not None:
            projection_dim, hidden_units, text_width = meta_net_sizes
            self.coop_meta_net_linear1[adapter_name] = nn.Linear(projection_dim, hidden_units)
            self.coop_meta_net_linear2[adapter_name] = nn.Linear(hidden_units, text_width)
        self.coop_configs[adapter_name] = deepcopy(config)
        self.coop_builders[adapter_name] = builder
        if prompts is not None:
            self.coop_prompts[adapter_name] = prompts
        self._move_adapter_to_device_of_base_layer(adapter_name)

    @property
    def current_adapter(self) -> str | None:
        """The adapter in use; None where none is left.

        Raises:
            ValueError: if several are active at once.
        """
        active = [name for name in self.active_adapters if name in self.coop_ctx]
        if len(active) > 1:
            raise ValueError(f"One prompt at a time can be active, got {active}: choose one with `set_adapter`.")
        return active[0] if active else None

    @property
    def _required_adapter(self) -> str:
        name = self.current_adapter
        if name is None:
            raise ValueError("No adapter is active: add one with `add_adapter`, or choose one with `set_adapter`.")
        return name

    @property
    def is_conditional(self) -> bool:
        """Whether the adapter in use shifts its context by each image."""
        return self.current_adapter in self.coop_meta_net_linear1

    def context(self, image_embeds: Tensor | None = None) -> Tensor:
        """The table of learnable vectors of the adapter in use.

        Shapes: B images, C classes, M context vectors, R = M rows (C*M when class-specific), D text width.

        Args:
            image_embeds: `[B, P]`, L2-normalised; needed by a Meta-Net and otherwise ignored.

        Returns:
            `[R, D]`, or `[B, R, D]` with a Meta-Net.
        """
        name = self._required_adapter
        ctx = self.coop_ctx[name].flatten(0, -2)
        if not self.is_conditional:
            return ctx
        if image_embeds is None:
            raise ValueError(f"The context of adapter {name!r} depends on the image: give `image_embeds`.")
        linear1, linear2 = self.coop_meta_net_linear1[name], self.coop_meta_net_linear2[name]
        return shift_by_image(ctx, image_embeds.to(linear1.weight), linear1, linear2)

    def set_classes(self, class_names: Sequence[str]) -> list[str]:
        """Change the classes of the adapter in use and return their names.

        Raises:
            ValueError: if its context is class-specific and the names are not its own.
        """
        name = self._required_adapter
        builder = self.coop_builders[name]
        prompts = builder.build(class_names)
        if builder.class_specific and prompts.class_names != self.coop_prompts[name].class_names:
            raise ValueError(
                f"Adapter {name!r} has a class-specific context: it holds vectors for "
                f"{self.coop_prompts[name].class_names} and none for {prompts.class_names}. "
                "Train a unified context (`class_specific_context=False`) to change the classes."
            )
        self.coop_prompts[name] = prompts
        self.coop_configs[name].class_names = list(prompts.class_names)
        self.publish_labels()
        return prompts.class_names

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Choose the adapter in use; the model's label names follow."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self.publish_labels()

    def publish_labels(self) -> None:
        """Write the active adapter's class names into the model's config."""
        active = [name for name in self.active_adapters if name in self.coop_prompts]
        self.label_names.publish(self.coop_prompts[active[0]].class_names if active else None)

    def settle_configs(self, configs: Mapping[str, PeftConfig]) -> None:
        """Give back to the adapters' configs what was changed in them since: the prompts did not follow.

        Args:
            configs: the model's, by the adapters' names.
        """
        for name, made_of in self.coop_configs.items():
            config = configs[name]
            for setting in SETTINGS:
                now, then = getattr(config, setting), getattr(made_of, setting)
                if now != then:
                    way = "`set_classes`" if setting == "class_names" else "an adapter of its own"
                    warnings.warn(
                        f"`{setting}` of adapter {name!r} was changed in its config to {now!r}, which the model does "
                        f"not follow: saved is {then!r}, as the model has it. What changes it is {way}.",
                        stacklevel=4,
                    )
                    setattr(config, setting, deepcopy(then))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Not possible, see `raise_merge_error`."""
        raise_merge_error()

    def unmerge(self) -> None:
        """Not possible, see `raise_merge_error`."""
        raise_merge_error()

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        weight = base_layer.token_embedding.weight
        return weight.device, weight.dtype


def raise_merge_error(others: Sequence[str] = ()) -> None:
    """Say why a prompt cannot be merged.

    Args:
        others: names of adapters of other methods, which can be.

    Raises:
        NotImplementedError: always.
    """
    way_out = f" The other adapters can be merged by name: `merge_adapter({list(others)})`." if others else ""
    raise NotImplementedError(
        "A learned prompt cannot be merged into the base model: its context vectors are inputs of the text tower, like "
        "words, and there is no weight that they could be added to. Keep the adapter (tens of kilobytes), or use "
        f"`unload()` to get the base model back without it.{way_out}"
    )
