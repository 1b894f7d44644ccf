"""Prompt learning for vision-language models as Hugging Face PEFT methods."""

from .configs import CoCoOpConfig, CoOpConfig
from .models import AutoPeftModelForImageClassification, PeftModelForImageClassification, PromptClassifierOutput
from .registration import register
from .tuners import CoOpModel

__version__ = "0.1.0"

__all__ = [
    "AutoPeftModelForImageClassification",
    "CoCoOpConfig",
    "CoOpConfig",
    "CoOpModel",
    "PeftModelForImageClassification",
    "PromptClassifierOutput",
]

register()
