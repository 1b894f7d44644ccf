"""What forward takes and returns."""

from .adoption import LabelNames, become_classifier, cease_to_be_classifier, remember_before_prompts
from .backup import taken_back_on_failure
from .base_names import warn_of_another_base
from .classifier import PromptClassifierMixin
from .outputs import PromptClassifierOutput
from .peft_model import AutoPeftModelForImageClassification, PeftModelForImageClassification

__all__ = [
    "AutoPeftModelForImageClassification",
    "LabelNames",
    "PeftModelForImageClassification",
    "PromptClassifierMixin",
    "PromptClassifierOutput",
    "become_classifier",
    "cease_to_be_classifier",
    "remember_before_prompts",
    "taken_back_on_failure",
    "warn_of_another_base",
]
