"""What forward takes and returns."""

from .adoption import LabelNames, become_classifier, cease_to_be_classifier
from .backup import taken_back_on_failure
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
    "taken_back_on_failure",
]
