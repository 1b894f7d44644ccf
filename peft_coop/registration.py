"""How PEFT and transformers learn of this library's methods. The only file that knows their enums and maps.

Tested with PEFT 0.21 and transformers 5.23.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftType, TaskType
from peft.utils import register_peft_method
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import SUPPORTED_PEFT_TASKS

from .export import ClassMatrixConfig, ClassMatrixForImageClassification
from .methods import METHODS, Method, Prompt, PromptConfig
from .models import tuner_class
from .peft_model import (
    PeftModelForImageClassification,
    PeftModelForSemanticSegmentation,
    PeftModelForVideoClassification,
    PeftModelWithPrompts,
)

# By PEFT's name of a task: our model, and the pipelines that know such models.
TASKS: dict[str, tuple[type[PeftModelWithPrompts], tuple[str, ...]]] = {
    "IMAGE_CLS": (PeftModelForImageClassification, ("image-classification", "zero-shot-image-classification")),
    "VIDEO_CLS": (PeftModelForVideoClassification, ("video-classification",)),
    "SEMANTIC_SEG": (PeftModelForSemanticSegmentation, ("image-segmentation",)),
}
# transformers resolves the path when a pipeline is made, so that the package does not import pipelines by itself.
IMAGE_PIPELINE = "peft_coop.pipelines.PromptImageClassificationPipeline"
VIDEO_PIPELINE = "peft_coop.video_pipeline.PromptVideoClassificationPipeline"


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
    """Make PEFT know every entry of `METHODS`, transformers the plain classifier, and pipelines our models.

    Calling it twice is no error.
    """
    for method in METHODS.values():
        tell_peft(method)
    AutoConfig.register(ClassMatrixConfig.model_type, ClassMatrixConfig, exist_ok=True)
    AutoModelForImageClassification.register(ClassMatrixConfig, ClassMatrixForImageClassification, exist_ok=True)
    take_image_pipeline(PIPELINE_REGISTRY.supported_tasks["image-classification"])
    take_video_pipeline(PIPELINE_REGISTRY.supported_tasks["video-classification"])
    for name, (model_class, pipelines) in TASKS.items():
        MODEL_TYPE_TO_PEFT_MODEL_MAPPING[name] = model_class
        # Only silences an error line of the pipelines, which know the classes of models by name.
        for pipeline in pipelines:
            names = SUPPORTED_PEFT_TASKS.setdefault(pipeline, [])
            if model_class.__name__ not in names:
                names.append(model_class.__name__)


def register_method(method: Method) -> None:
    """Add a method of one's own to `METHODS`: PEFT, model cards, recipes and reports know it from then on.

    Registering it again, as a notebook does whose cell is run twice, puts the new one in its place.

    Args:
        method: the method; its config's `method` is its key.

    Raises:
        TypeError: if its config is no dataclass of settings, or its prompt no `Prompt`.
        ValueError: if the key is no name, or not the config's, or what it would be known by is another method's.
    """
    check_parts(method)
    check_is_free(method)
    METHODS[method.key] = method
    tell_peft(method)
    PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_name(method))] = method.config  # a class that was defined again


def check_parts(method: Method) -> None:
    """Check that a method's key and classes fit together.

    Raises:
        TypeError, ValueError: see `register_method`.
    """
    config, key = method.config, method.key
    if not (isinstance(key, str) and key.isidentifier() and key.islower()):
        raise ValueError(f"The key of a method must be a name in small letters, such as 'mycoop', got {key!r}.")
    if not (isinstance(config, type) and issubclass(config, PromptConfig) and "__dataclass_fields__" in vars(config)):
        raise TypeError(
            f"The config of method {key!r} must be a class with `@dataclass(eq=False)` above it that inherits from "
            f"`PromptConfig`, or from `ContextConfig`, got {config!r}."
        )
    if not (isinstance(method.prompt, type) and issubclass(method.prompt, Prompt)):
        raise TypeError(
            f"The prompt of method {key!r} must be a class that inherits from `Prompt`, got {method.prompt!r}."
        )
    task = method.prompt.task_head.task_type
    if config.task_name != task or task not in TASKS:
        raise ValueError(
            f"The task of a method must be one of {', '.join(TASKS)}, the same in its config and in its prompt's head: "
            f"{config.__name__}.task_name is {config.task_name!r}, and the head's `task_type` is {task!r}."
        )
    name = peft_name(method)
    if not (isinstance(name, str) and name.isidentifier() and name.isupper()):
        raise ValueError(
            f"The `type_name` of a method's config must be a name in capitals, such as 'MYCOOP', got {name!r}."
        )
    declared = getattr(config, "method", None)
    if declared != key:
        given = repr(declared) if isinstance(declared, str) else "not set in it"
        raise ValueError(
            f"The config of a method must have its key as `method`: {config.__name__}.method is {given}, and the key "
            f"is {key!r}."
        )


def check_is_free(method: Method) -> None:
    """Check that what a method would be known by is no other method's.

    Raises:
        ValueError: if it is.
    """
    known = METHODS.get(method.key)
    if known is not None and full_name(known.config) != full_name(method.config):
        raise ValueError(
            f"The key {method.key!r} is taken by {known.title}, whose config is {full_name(known.config)}: give the "
            "method another key."
        )
    others = [each for each in METHODS.values() if each.key != method.key]
    for other in others:
        if other.title == method.title:
            raise ValueError(f"The title {method.title!r} is taken by the method {other.key!r}: give another title.")
    name = peft_name(method)
    if name in PeftType.__members__:
        known_to_peft = PEFT_TYPE_TO_CONFIG_MAPPING.get(PeftType(name), PeftConfig)
        if not issubclass(known_to_peft, PromptConfig) or any(peft_name(each) == name for each in others):
            raise ValueError(
                f"PEFT has a method {name} already, with the config {full_name(known_to_peft)}: give the method "
                "another key, or its config a `type_name` of its own."
            )


def full_name(of_class: type) -> str:
    """A class's name with its module, by which a class that was defined again is known."""
    return f"{of_class.__module__}.{of_class.__qualname__}"


def peft_name(method: Method) -> str:
    """PEFT's name of a method, such as "COOP"."""
    return method.config.type_name or method.key.upper()


def tell_peft(method: Method) -> None:
    """Let PEFT find config and tuner of a method; of several with one name, it has the first one's."""
    name = peft_name(method)
    add_enum_member(PeftType, name)
    add_enum_member(TaskType, method.config.task_name)
    if PeftType(name) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name.lower(), config_cls=method.config, model_cls=tuner_class(f"{name.lower()}_"))


def take_video_pipeline(task: dict[str, Any]) -> None:
    """As `take_image_pipeline`, of videos.

    Args:
        task: its entry among transformers' tasks.
    """
    if task["impl"] == "transformers.pipelines.video_classification.VideoClassificationPipeline":
        task["impl"] = VIDEO_PIPELINE
    elif getattr(task["impl"], "__name__", None) == "VideoClassificationPipeline":
        from .video_pipeline import PromptVideoClassificationPipeline

        task["impl"] = PromptVideoClassificationPipeline


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
