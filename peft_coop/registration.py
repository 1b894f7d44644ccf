"""How PEFT and transformers learn of this library's methods. The only file that knows their enums and maps.

Tested with PEFT 0.21 and transformers 5.23.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PEFT_TYPE_TO_CONFIG_MAPPING, PeftType, TaskType
from peft.utils import register_peft_method
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import SUPPORTED_PEFT_TASKS

from .methods import CoOpConfig
from .models import PeftModelForImageClassification
from .tuners import CoOpModel

# transformers resolves the path when a pipeline is made, so that the package does not import pipelines by itself.
IMAGE_PIPELINE = "peft_coop.pipelines.PromptImageClassificationPipeline"


def add_enum_member(enum_class: type[Enum], name: str) -> None:
    """Add a member whose value is its name to a string enum; a no-op if it is there."""
    if name in enum_class.__members__:
        return
    member = str.__new__(enum_class, name)  # type: ignore[type-var]
    member._name_ = name
    member._value_ = name
    enum_class._member_names_.append(name)
    enum_class._member_map_[name] = member
    enum_class._value2member_map_[name] = member
    type.__setattr__(enum_class, name, member)


def register() -> None:
    """Make `get_peft_model`, `PeftModel.from_pretrained` and pipelines know CoOp. Calling it twice is no error."""
    add_enum_member(PeftType, "COOP")
    add_enum_member(TaskType, "IMAGE_CLS")
    if PeftType("COOP") not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name="coop", config_cls=CoOpConfig, model_cls=CoOpModel)
    MODEL_TYPE_TO_PEFT_MODEL_MAPPING["IMAGE_CLS"] = PeftModelForImageClassification
    take_image_pipeline(PIPELINE_REGISTRY.supported_tasks["image-classification"])
    # Only silences an error line of the pipelines, which know the classes of models by name.
    for task in ("image-classification", "zero-shot-image-classification"):
        names = SUPPORTED_PEFT_TASKS.setdefault(task, [])
        if PeftModelForImageClassification.__name__ not in names:
            names.append(PeftModelForImageClassification.__name__)


def take_image_pipeline(task: dict[str, Any]) -> None:
    """Put our subclass in the place of transformers' image pipeline; anybody else's stays.

    Args:
        task: its entry among transformers' tasks, where older versions have the class and not its path.
    """
    if task["impl"] == "transformers.pipelines.image_classification.ImageClassificationPipeline":
        task["impl"] = IMAGE_PIPELINE
    elif getattr(task["impl"], "__name__", None) == "ImageClassificationPipeline":
        from .pipelines import PromptImageClassificationPipeline

        task["impl"] = PromptImageClassificationPipeline
