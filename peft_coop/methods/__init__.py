"""The prompt methods, one file each, and the table of them that everything else loops over."""

from .base import ContextConfig, Method, PromptConfig
from .cocoop import CoCoOpConfig
from .coop import CoOpConfig
from .table import DEFAULT_METHOD, METHODS, find_method

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "CoCoOpConfig",
    "CoOpConfig",
    "ContextConfig",
    "Method",
    "PromptConfig",
    "find_method",
]
