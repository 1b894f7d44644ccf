"""A file of class features, for any runtime that holds the image encoder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from ..models.base_model_names import is_hub_id
from ..towers import fingerprint
from ..whole_files import written_whole
from .fixed_classes import fixed_classes
from .image_side import changes_of_image_side, image_side_weights

FORMAT = "peft_coop.classes"
VERSION = "1"


def image_fingerprint(model: nn.Module) -> str:
    """What tells a dual encoder's image side from others, see `towers.fingerprint`.

    Args:
        model: the dual encoder, or the `PeftModel` around it; active adapters count as if they were merged.
    """
    return fingerprint(image_side_weights(model.get_base_model() if hasattr(model, "get_base_model") else model))


def export_classes(model: nn.Module, path: str | os.PathLike) -> None:
    """Write the active adapter's classes as a safetensors file that NumPy alone reads.

    Shapes: C classes, O other names, P projection width. The tensors are `class_embeds` `[C + O, P]`, L2-normalised,
    `scale` `[1]`, the factor of the cosines, and, in families that have one, `bias` `[1]`; both are divided by the
    adapter's calibration temperature. All are float32, or float64 where the model is. The metadata are `format`,
    `version`, `class_names` and `other_names` (lists as JSON), `calibration_temperature` and `min_probability` (numbers
    as JSON, or null), `family`, `method`, `base_model` (empty where the model comes from no Hub) and
    `image_fingerprint`, see the function of this name, and `problem_type`, as transformers has it.

    Args:
        model: the dual encoder with a prompt, inside of a `PeftModel`.
        path: the file; one that is there is written over, whole or not at all.

    Raises:
        ValueError: if no adapter is active, it has no classes, its texts depend on the image, or the image side is not
            the base model's own, so that the matrix would be wrong beside any other.
    """
    classes = fixed_classes(model)
    changes = next(changes_of_image_side(model), None)
    if changes is not None:
        raise ValueError(
            f"A matrix of classes is for the base model's own image encoder, and this model's has {changes}: images "
            "encoded elsewhere would get wrong logits without a word. `to_classifier()` takes the image side along."
        )
    settings = model.prompt_layer.prompt.settings
    name = str(getattr(model, "name_or_path", None) or "")
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "class_names": json.dumps(classes.class_names, ensure_ascii=False),
        "other_names": json.dumps(classes.other_names, ensure_ascii=False),
        "calibration_temperature": json.dumps(classes.calibration_temperature),
        "min_probability": json.dumps(classes.min_probability),
        "problem_type": classes.problem_type or "single_label_classification",
        "family": model.config.model_type,
        "method": settings.method,
        "base_model": name if is_hub_id(name) else "",
        "image_fingerprint": image_fingerprint(model),
    }
    tensors: dict[str, Tensor] = {"class_embeds": classes.class_embeds, "scale": classes.scale.reshape(1)}
    if classes.bias is not None:
        tensors["bias"] = classes.bias.reshape(1)
    with written_whole(Path(path)) as draft:
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, draft, metadata)
