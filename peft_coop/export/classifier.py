"""A plain classifier of fixed classes, of a model with a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ..models import OTHER
from ..towers import find_family, projection_dim
from .fixed_classes import FixedClasses, fixed_classes
from .image_side import image_side_weights
from .modeling_class_matrix import ClassMatrixConfig, ClassMatrixForImageClassification

# What a dual encoder's config says of its classes and of where it was loaded from.
OF_CLASSIFIERS = ("id2label", "label2id", "problem_type", "num_labels", "_name_or_path", "architectures")


def to_classifier(model: nn.Module) -> ClassMatrixForImageClassification:
    """Make a classifier of a model's image side and its classes, as they are now, without any adapter in it.

    Its logits are the model's, divided by the calibration temperature where the adapter has one, so that their softmax
    is what the adapter decides by; with `other_names` the last of them is "other". A LoRA is merged in the copy, and
    prompts of the vision tower stay prompts in it. The model is left as it was, and nothing is shared with it. While
    adapters are disabled, it is zero-shot CLIP that is copied.

    Args:
        model: the dual encoder with a prompt, inside of a `PeftModel`.

    Returns:
        A `PreTrainedModel`, in evaluation mode, on the model's device and in its dtype.

    Raises:
        ValueError: if no adapter is active, it has no classes, its texts depend on the image, or an adapter on the
            image side cannot be merged.
    """
    classes = fixed_classes(model)
    prompts = vision_prompts_of(model)
    weights: dict[str, Tensor] = {f"encoder.{name}": tensor for name, tensor in image_side_weights(model).items()}
    dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    weights |= {"matrix.class_embeds": classes.class_embeds, "matrix.cosine_scale": classes.scale.reshape(1)}
    if classes.bias is not None:
        weights["matrix.cosine_bias"] = classes.bias.reshape(1)
    if prompts is not None:
        weights["vision_prompts.vectors"] = prompts
    config = classifier_config(model, classes, prompts)
    device = classes.class_embeds.device
    with without_bars():
        classifier, told = ClassMatrixForImageClassification.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    unfit = {kind: sorted(map(str, names)) for kind, names in told.items() if names}
    if unfit:
        found = "; ".join(f"{kind} {', '.join(names[:3])} (of {len(names)})" for kind, names in unfit.items())
        raise ValueError(f"The image side of {type(model).__name__} is not made as its config says: {found}.")
    return classifier.to(device).eval()


@contextmanager
def without_bars() -> Iterator[None]:
    """Let transformers show no bar for what takes no time."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()


@torch.no_grad()
def vision_prompts_of(model: nn.Module) -> Tensor | None:
    """The prompts of the vision tower in use, `[T, n, W]`; None for none."""
    layer = model.prompt_layer
    vectors = () if layer.disable_adapters else layer.prompt.vision_vectors()
    return torch.stack([each.detach() for each in vectors]) if len(vectors) else None


def classifier_config(model: nn.Module, classes: FixedClasses, prompts: Tensor | None) -> ClassMatrixConfig:
    """The classifier's settings.

    Args:
        model: the dual encoder with a prompt.
        classes: its classes.
        prompts: those of its vision tower, `[T, n, W]`; None for none.
    """
    family = find_family(model)
    labels = [*classes.class_names, *([OTHER] if classes.other_names else [])]
    of_prompts: dict[str, Any] = {}
    if prompts is not None:
        of_prompts = {
            "vision_prompts": list(prompts.shape[:2]),
            "vision_width": prompts.shape[2],
            "vision_embeddings": family.vision_embeddings,
            "vision_layers": next(path for path in family.vision_layers if has_module(model, path)),
        }
    return ClassMatrixConfig(
        encoder_config=encoder_settings(model.config),
        image_parts=family.image_parts,
        projection_dim=projection_dim(model),
        has_bias=classes.bias is not None,
        n_others=len(classes.other_names),
        min_probability=classes.min_probability,
        **fields_of_labels(labels, classes.problem_type),
        **of_prompts,
    )


def fields_of_labels(labels: Sequence[str], problem_type: str | None) -> dict[str, Any]:
    """What a config says of its labels.

    Args:
        labels: the classes, and "other" last where there is one.
        problem_type: the adapter's; None: an image has one, unless there is no other to be told from.
    """
    fields = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    if problem_type is None and len(labels) > 1:
        problem_type = "single_label_classification"
    return fields | ({} if problem_type is None else {"problem_type": problem_type})


def encoder_settings(config: PretrainedConfig) -> dict[str, Any]:
    """A dual encoder's settings without what is the classifier's."""
    return {name: value for name, value in config.to_dict().items() if name not in OF_CLASSIFIERS}


def has_module(model: nn.Module, path: str) -> bool:
    """Whether a model has a module at a dotted path."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True
