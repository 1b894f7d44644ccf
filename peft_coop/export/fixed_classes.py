"""The classes of an adapter as numbers that stay: a matrix of features, and what makes logits of cosines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import ImageClassificationHead
from ..methods import Prompt
from ..models import prompt_in_use
from ..models.class_features import encode_classes
from ..models.class_texts import ClassTexts
from ..models.modules_to_save import check_used_together
from ..towers import computing_dtype, cosine_logits, normalize, scale_and_bias, text_tower, vision_parts
from .image_side import check_in_memory

AS_A_GRAPH = "The whole of it can be a graph: `peft-coop export --format onnx`, or `peft_coop.export.export_onnx`."


@dataclass(frozen=True)
class FixedClasses:
    """What an image feature is compared with: `scale * normalize(image) @ class_embeds.T + bias` are the logits.

    Shapes: C classes, O other names, P projection width.

    Attributes:
        class_names: the C names.
        other_names: O names of what is none of the classes; the sum of their probabilities is that of "other".
        class_embeds: `[C + O, P]`, L2-normalised; float32, or float64 where the model is.
        scale: a scalar, the factor of the cosines itself, divided by the adapter's calibration temperature.
        bias: a scalar, what is added, divided by it, too; None for nothing.
        calibration_temperature: what both were divided by.
        min_probability: an image whose best class is less likely is answered with "other"; None for any.
        problem_type: "multi_label_classification" where each class is judged for itself, by a sigmoid; else None.
    """

    class_names: tuple[str, ...]
    other_names: tuple[str, ...]
    class_embeds: Tensor
    scale: Tensor
    bias: Tensor | None
    calibration_temperature: float
    min_probability: float | None
    problem_type: str | None = None


@torch.no_grad()
def fixed_classes(model: nn.Module) -> FixedClasses:
    """The classes of the adapter in use, with all that changes the text side now, such as a LoRA, merged or not.

    While adapters are disabled, the classes are read with the hand-written prompt: zero-shot CLIP, for which no
    temperature, no least probability and no other names were chosen.

    Args:
        model: the dual encoder with a prompt, inside of a `PeftModel`.

    Raises:
        ValueError: if no adapter is active, it has no classes, its texts depend on the image, its task is another one
            than to classify images, or the weights are not in memory.
    """
    layer, name = prompt_in_use(model)
    check_used_together(model, name)
    names, prompt, is_off = layer.texts.class_names, layer.prompt, layer.disable_adapters
    check_exportable(prompt, name, is_off)
    check_in_memory(*vision_parts(model))
    decision = model.decision
    others = tuple(decision["other_names"] or ())
    with in_evaluation(model):
        features = text_features(model, others)
    class_embeds = normalize(features)
    # A prompt may have learned its own, where an image has any number of classes.
    learned = None if is_off else prompt.scale_and_bias
    scale, bias = learned or scale_and_bias(model, class_embeds)
    scale = scale.detach().to(class_embeds).reshape(())
    bias = None if bias is None else bias.detach().to(class_embeds).reshape(())
    check_logits(model, None if is_off else prompt, features, scale, bias)
    divisor = decision["calibration_temperature"] or 1.0
    return FixedClasses(
        class_names=tuple(names),
        other_names=others,
        class_embeds=class_embeds,
        scale=scale / divisor,
        bias=None if bias is None else bias / divisor,
        calibration_temperature=divisor,
        min_probability=decision["min_probability"],
        problem_type=None if is_off else prompt.settings.problem_type,
    )


def check_logits(model: nn.Module, prompt: Prompt | None, features: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    """Check that the head makes of features what will be made of them elsewhere.

    Args:
        model: the dual encoder.
        prompt: the one in use; None while adapters are disabled.
        features: `[C, P]`, of the texts, not normalised.
        scale: the factor of the cosines.
        bias: what is added; None for nothing.

    Raises:
        ValueError: if the head makes something else of them.
    """
    random = torch.randn(4, features.shape[-1], generator=torch.Generator().manual_seed(0))
    images = normalize(random.to(features.device, computing_dtype(features)))
    own = model.prompt_layer.prompt.task_head.compare(model, prompt, images, features).logits
    ours = cosine_logits(images, normalize(features), scale, bias)
    if not torch.allclose(own, ours, rtol=1e-5, atol=1e-5 * float(scale.abs())):
        raise ValueError(
            f"The head of {type(model.prompt_layer.prompt).__name__} makes other logits of cosines than a factor and a "
            f"sum, by up to {(own - ours).abs().max():.1e}: it cannot be exported. Serve the model itself."
        )


def check_exportable(prompt: Prompt, adapter_name: str, is_off: bool) -> None:
    """Check that what a prompt makes of an image is one fixed sum with each class.

    Args:
        prompt: the prompt.
        adapter_name: its name.
        is_off: whether adapters are disabled.

    Raises:
        ValueError: see `fixed_classes`.
    """
    if type(prompt.task_head) is not ImageClassificationHead:
        raise ValueError(
            f"The classes of adapter {adapter_name!r} are no matrix to compare single images with: its task is "
            f"{prompt.task_head.task_type}, and that is for IMAGE_CLS. {AS_A_GRAPH}"
        )
    if prompt.needs_images and not is_off:
        raise ValueError(
            f"The classes of adapter {adapter_name!r} cannot be exported: {type(prompt).__name__} reads them anew for "
            f"each image, so they are no fixed matrix, and the text tower is needed with every image. {AS_A_GRAPH}"
        )


def text_features(model: Any, others: Sequence[str]) -> Tensor:
    """Text features of the classes of the adapter in use and of other names, `[C + O, P]`, not normalised.

    Args:
        model: the dual encoder with a prompt that does not look at images.
        others: O names; none while adapters are disabled.

    Raises:
        ValueError: if the prompt can have no other classes than its own.
    """
    if not others:
        return model.get_text_features().pooler_output
    layer = model.prompt_layer
    names = layer.texts.class_names
    layer.prompt.check_classes([*names, *others], names)
    texts = ClassTexts([*names, *others], layer.prompt, text_tower(model))
    return encode_classes(model, texts, layer.prompt, layer.prompt.vectors())


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while, and each of its modules back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
