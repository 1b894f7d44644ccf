"""The `PeftModel`s that `get_peft_model` and `PeftModel.from_pretrained` return for a prompt, by task."""

from .adapters import PeftModelWithPrompts
from .auto import (
    AutoPeftModelForImageClassification,
    AutoPeftModelForSemanticSegmentation,
    AutoPeftModelForVideoClassification,
)
from .saved_beside import adapters_beside
from .sliding_window import slide_inference
from .tasks import PeftModelForImageClassification, PeftModelForSemanticSegmentation, PeftModelForVideoClassification

__all__ = [
    "AutoPeftModelForImageClassification",
    "AutoPeftModelForSemanticSegmentation",
    "AutoPeftModelForVideoClassification",
    "PeftModelForImageClassification",
    "PeftModelForSemanticSegmentation",
    "PeftModelForVideoClassification",
    "PeftModelWithPrompts",
    "adapters_beside",
    "slide_inference",
]
