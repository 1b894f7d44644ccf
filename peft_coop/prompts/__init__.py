"""Class names to sequences, sequences to text features. Imports neither PEFT nor the Trainer."""

from .cache import TextCache
from .class_names import check_class_names, check_text
from .classes import ClassPrompts, PromptBuilder
from .context import gaussian_context, shift_by_image
from .encoder import PromptTensors, encode_prompts, state_of_text_side
from .installation import install_text_side, remove_text_side
from .layout import CLASS_TOKEN_POSITIONS, PromptSequences
from .tokens import NameTokens, PromptTokenizer
from .towers import FAMILIES, TextTowerFamily, find_family

__all__ = [
    "CLASS_TOKEN_POSITIONS",
    "FAMILIES",
    "ClassPrompts",
    "NameTokens",
    "PromptBuilder",
    "PromptSequences",
    "PromptTensors",
    "PromptTokenizer",
    "TextCache",
    "TextTowerFamily",
    "check_class_names",
    "check_text",
    "encode_prompts",
    "find_family",
    "gaussian_context",
    "install_text_side",
    "remove_text_side",
    "shift_by_image",
    "state_of_text_side",
]
