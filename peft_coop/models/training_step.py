"""What a training step shows a method, the frozen model beside the one that is trained included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor
from transformers.utils import ModelOutput

from ..methods import Step
from ..towers import cosine_logits, is_vision_frozen, normalize, scale_and_bias, text_tower
from .adapter_files import warn_of_moving_base
from .class_texts import ClassTexts
from .mixed_batch import without_adapters

if TYPE_CHECKING:
    from .classifier import PromptClassifierMixin

T = TypeVar("T")

# Adapters are switched off for a whole model, for all threads that call it.
_switching = threading.RLock()


def training_step(
    model: PromptClassifierMixin,
    outputs: ModelOutput,
    images: Any,
    labels: Tensor | None,
    vectors: Tensor,
    dtype: torch.dtype,
    pixel_values: Tensor | None,
    of_images: dict[str, Any],
    texts: ClassTexts,
) -> Step:
    """What a method's further terms of the loss are computed from.

    Shapes: B images, C classes, V learnable vectors, D text width.

    Args:
        model: the classifier.
        outputs: its logits and features.
        images: what its head has made of the images.
        labels: `[B]`; None where the loss is computed outside the model.
        vectors: `[V, D]` or `[B, V, D]`, as the prompt gave them for this step.
        dtype: what the texts were computed in.
        pixel_values: the images; None where features were given.
        of_images: what else the vision tower was given.
        texts: the prompts of the classes.
    """

    @torch.no_grad()
    def zero_shot_image_embeds() -> Tensor:
        if not is_vision_frozen(model):
            warn_of_moving_base(model)
        if pixel_values is None or not is_changed(model):
            return images.detach()
        with frozen_model(model):
            return model.prompt_layer.prompt.task_head.embed_images(model, pixel_values, None, **of_images)

    return Step(
        logits=cast(Tensor, outputs.logits),
        labels=labels,
        image_embeds=images,
        text_embeds=cast(Tensor, outputs.text_embeds),
        vectors=vectors,
        dtype=dtype,
        zero_shot_text_embeds=lambda: zero_shot_text_embeds(model, texts),
        teacher_text_embeds=lambda: teacher_text_embeds(model, texts),
        zero_shot_image_embeds=zero_shot_image_embeds,
        compare=lambda images, texts: cosine_logits(images, texts, *scale_and_bias(model, images)),
    )


@torch.no_grad()
def zero_shot_text_embeds(model: PromptClassifierMixin, texts: ClassTexts) -> Tensor:
    """Features `[C, P]` of classes in the frozen model with `zero_shot_template`, L2-normalised."""
    if not model.text_is_frozen:
        warn_of_moving_base(model)
    with frozen_model(model):
        return normalize(texts.zero_shot_features(text_tower(model)))


@torch.no_grad()
def teacher_text_embeds(model: PromptClassifierMixin, texts: ClassTexts) -> Tensor:
    """Features `[C, P]` of classes in the frozen model with the method's teacher texts, L2-normalised."""
    if not model.text_is_frozen:
        warn_of_moving_base(model)
    with frozen_model(model):
        return normalize(texts.teacher_features(model.prompt_layer.prompt, text_tower(model)))


@torch.no_grad()
def zero_shot_embeds_of_given(model: PromptClassifierMixin, input_ids: Tensor) -> Tensor:
    """Features `[N, P]` of given texts `[N, L]` in the frozen model, L2-normalised."""
    tower = text_tower(model)
    prompts = tower.prepare(model.prompt_layer.prompt.reader.as_given(input_ids))
    with frozen_model(model):
        return normalize(tower.encode(prompts))


def has_adapters_beside(model: PromptClassifierMixin) -> bool:
    """Whether something of the base model is changed by adapters: another method's, or modules that are trained."""
    kinds = BaseTunerLayer, AuxiliaryTrainingWrapper
    return any(isinstance(module, kinds) and module is not model.prompt_layer for module in model.modules())


def is_changed(model: PromptClassifierMixin) -> bool:
    """Whether adapters change what the base model makes of a hand-written prompt or of an image."""
    return model.prompt_layer.prompt.settings.changes_vision or has_adapters_beside(model)


def one_thread_at_a_time(call: Callable[..., T]) -> Callable[..., T]:
    """Let a model's call wait for those of other threads where these read the frozen model in evaluation, too.

    So it is with vectors that are made of the classes' features in the frozen model, and adapters beside the prompt,
    which must be off for these features and on for the call.
    """

    @wraps(call)
    def alone(model: PromptClassifierMixin, *args: Any, **kwargs: Any) -> T:
        name = model.prompt_layer.current_adapter
        switches = name is not None and model.prompt_layer.prompt_of(name).has_class_vectors
        if not switches or torch.compiler.is_compiling() or not has_adapters_beside(model):
            return call(model, *args, **kwargs)
        with _switching:
            return call(model, *args, **kwargs)

    return alone


@contextmanager
def frozen_model(model: PromptClassifierMixin) -> Iterator[None]:
    """The base model as it was before any adapter, for a while: what is trained beside the prompt drops nothing."""
    if not is_changed(model):
        yield
        return
    in_training = [module for module in model.modules() if module.training]
    with without_adapters(model):
        try:
            for module in in_training:
                module.training = False
            yield
        finally:
            for module in in_training:
                module.training = True
