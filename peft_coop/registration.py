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

from .methods import METHODS, Method
from .models import tuner_class
from .peft_model import PeftModelForImageClassification

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
    """Make PEFT know every entry of `METHODS`, and pipelines our models. Calling it twice is no error."""
    for method in METHODS.values():
        tell_peft(method)
    MODEL_TYPE_TO_PEFT_MODEL_MAPPING["IMAGE_CLS"] = PeftModelForImageClassification
    take_image_pipeline(PIPELINE_REGISTRY.supported_tasks["image-classification"])
    # Only silences an error line of the pipelines, which know the classes of models by name.
    for task in ("image-classification", "zero-shot-image-classification"):
        names = SUPPORTED_PEFT_TASKS.setdefault(task, [])
        if PeftModelForImageClassification.__name__ not in names:
            names.append(PeftModelForImageClassification.__name__)


def register_method(method: Method) -> None:
    """Add a method of one's own to `METHODS`: PEFT, model cards, recipes and reports know it from then on.

    Registering the same again, as a notebook does whose cell is run twice, replaces it.

    Args:
        method: the method; its config's `method` is its key.

    Raises:
        ValueError: if the key is not the config's, or the name that PEFT would know it by is another method's.
    """
    if getattr(method.config, "method", None) != method.key:
        raise ValueError(
            f"The config of a method must have its key as `method`: {method.config.__name__}.method is "
            f"{getattr(method.config, 'method', None)!r}, and the key is {method.key!r}."
        )
    name = peft_name(method)
    others = [each.key for each in METHODS.values() if each.key != method.key and peft_name(each) == name]
    if others or (name in PeftType.__members__ and method.key not in METHODS):
        raise ValueError(
            f"PEFT has a method {name} already{f', {others[0]!r}' if others else ''}: give the method another key."
        )
    METHODS[method.key] = method
    tell_peft(method)


def peft_name(method: Method) -> str:
    """PEFT's name of a method, such as "COOP"."""
    return method.config.type_name or method.key.upper()


def tell_peft(method: Method) -> None:
    """Let PEFT find config and tuner of a method; a no-op for what it knows."""
    name = peft_name(method)
    add_enum_member(PeftType, name)
    add_enum_member(TaskType, "IMAGE_CLS")
    if PeftType(name) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name.lower(), config_cls=method.config, model_cls=tuner_class(f"{name.lower()}_"))
    elif method.key == name.lower():  # the config that saved adapters are loaded with
        PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)] = method.config


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
