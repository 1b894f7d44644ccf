"""The prompt methods, one file each, and the table of them that everything else loops over."""

from .base import LossTerm, Method, Prompt, Step, VectorName
from .cocoop import CoCoOpConfig
from .config import PromptConfig
from .context import ContextConfig, ContextPrompt
from .coop import CoOpConfig
from .csp import CSPConfig
from .kgcoop import KgCoOpConfig
from .prograd import ProGradConfig
from .table import DEFAULT_METHOD, METHODS, find_method
from .tcp import TCPConfig

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "CSPConfig",
    "CoCoOpConfig",
    "CoOpConfig",
    "ContextConfig",
    "ContextPrompt",
    "KgCoOpConfig",
    "LossTerm",
    "Method",
    "ProGradConfig",
    "Prompt",
    "PromptConfig",
    "Step",
    "TCPConfig",
    "VectorName",
    "find_method",
]
