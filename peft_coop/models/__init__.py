"""What a dual encoder with prompts is: the tuner, the layer that holds adapters, the one forward."""

from .adapter_files import BEFORE_PROMPTS, AdapterFilesMixin
from .backup import Backup
from .base_model_names import warn_of_another_base
from .class_features import encode_in_parts
from .classifier import PromptClassifierMixin
from .decisions import OTHER, answers_other, decided_logits
from .loss_parts import LossPartsCallback
from .prompt_embeddings import PromptEmbeddings, prompt_in_use
from .tuner import PromptTuner, tuner_class

__all__ = [
    "BEFORE_PROMPTS",
    "OTHER",
    "AdapterFilesMixin",
    "Backup",
    "LossPartsCallback",
    "PromptClassifierMixin",
    "PromptEmbeddings",
    "PromptTuner",
    "answers_other",
    "decided_logits",
    "encode_in_parts",
    "prompt_in_use",
    "tuner_class",
    "warn_of_another_base",
]
