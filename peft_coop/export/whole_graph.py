"""A model with a prompt as one graph, whatever its task is: vision tower, what the adapter has learned, decision."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ..models import OTHER, decided_logits, prompt_in_use
from ..models.class_features import encode_classes
from ..models.class_texts import ClassTexts
from ..models.modules_to_save import check_used_together
from ..towers import find_family, open_vision_tower, text_tower, vision_parts
from .classifier import fields_of_labels
from .fixed_classes import in_evaluation, text_features
from .graphs import Graph, num_weights
from .image_side import check_in_memory, settled


class WholeGraph(Graph):
    """A dual encoder under its active adapter, with its classes, as they are now, and what it decides by.

    The texts' features are a constant, unless the prompt reads each image: then the text tower is in the graph, too.
    Adapters of other methods on the image side are merged in the copy. While adapters are disabled, it is zero-shot.

    Args:
        model: the dual encoder with a prompt; left as it is.

    Attributes:
        model: the copy.
        labels: of the logits.
        text_features: `[C, P]`, of the classes and of other names, not normalised; None where each image has its own.

    Raises:
        TypeError, ValueError: if there is no active adapter, it has no classes, or another one cannot be merged.
    """

    rounded = "model"

    def __init__(self, model: nn.Module):
        super().__init__()
        layer, name = prompt_in_use(model)
        check_used_together(model, name)
        decision, names = model.decision, layer.texts.class_names
        others = tuple(decision["other_names"] or ())
        self.labels = [*names, *([OTHER] if others else [])]
        self.n_cls, self.temperature = len(names), decision["calibration_temperature"]
        problem_type = None if layer.disable_adapters else layer.prompt.settings.problem_type
        self.fields = fields_of_labels(self.labels, problem_type)
        self.fields |= {"min_probability": decision["min_probability"], "n_others": len(others)}
        reads_images = layer.prompt.needs_images and not layer.disable_adapters
        with torch.no_grad(), in_evaluation(model):
            features = None if reads_images else text_features(model, others)
        self.model: Any = copied(model)
        self.register_buffer("text_features", features)
        self.texts = (
            ClassTexts([*names, *others], self.model.prompt_layer.prompt, text_tower(self.model))
            if reads_images
            else None
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See `Graph.forward`: of images `[B, 3, H, W]`, of videos `[B, T, 3, H, W]`."""
        model, layer = self.model, self.model.prompt_layer
        prompt: Any = None if layer.disable_adapters else layer.prompt
        dtype = next(vision_parts(model)[0].parameters()).dtype
        images = model._embed_images(pixel_values.to(dtype), None, {})
        features = self.text_features
        if self.texts is not None:
            features = encode_classes(model, self.texts, prompt, prompt.vectors(images))
        logits = layer.prompt.task_head.compare(model, prompt, images, features).logits
        return decided_logits(logits, self.n_cls, self.temperature)

    def input_shape(self, image: Sequence[int]) -> tuple[int, ...]:
        """See `Graph.input_shape`."""
        prompt = self.model.prompt_layer.prompt
        return prompt.task_head.input_shape(prompt.settings, image)

    def check_image_processor(self, image_processor: Any) -> None:
        """See `Graph.check_image_processor`."""
        self.model.prompt_layer.prompt.task_head.check_image_processor(image_processor)

    def config(self, image: Sequence[int]) -> PretrainedConfig:
        """See `Graph.config`."""
        prompt = self.model.prompt_layer.prompt
        return prompt.task_head.graph_config(
            prompt.settings, image, encoder_model_type=self.encoder_type, **self.fields
        )

    def round_to(self, dtype: torch.dtype) -> None:
        """See `Graph.round_to`: the towers; the scale of the logits, and what the prompt has learned, stay."""
        family = find_family(self.model)
        for part in (*family.image_parts, *family.text_parts):
            self.model.get_submodule(part).to(dtype)
        self.model.prompt_layer.learned_prompts.float()

    @property
    def encoder_type(self) -> str:
        """See `Graph.encoder_type`."""
        return self.model.config.model_type

    @property
    def made_of(self) -> str:
        """See `Graph.made_of`."""
        return type(self.model.prompt_layer.prompt).__name__

    @property
    def num_weights(self) -> int:
        """See `Graph.num_weights`."""
        if self.texts is not None:
            return num_weights(self.model)
        return num_weights(*vision_parts(self.model), self.model.prompt_layer.prompt)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model, with other adapters merged into its image side.

    Raises:
        ValueError: if one cannot be merged, or the weights are not in memory.
    """
    check_in_memory(model)
    own = deepcopy(model).requires_grad_(False)
    for name in find_family(own).image_parts:
        setattr(own, name, settled(name, own.get_submodule(name)))
    prompt = own.prompt_layer.prompt
    prompt.task_head.prepare(own)
    if prompt.settings.changes_vision:
        open_vision_tower(own)
    return own
