"""The prompt methods, one file each, and the table of them that everything else loops over."""

from .base import LossTerm, Method, Prompt, Step, VectorName
from .cocoop import CoCoOpConfig
from .config import PromptConfig
from .context import ContextConfig, ContextPrompt
from .coop import CoOpConfig
from .csp import CSPConfig
from .dense_clip import DenseCLIPConfig
from .ivlp import IVLPConfig
from .kgcoop import KgCoOpConfig
from .maple import MaPLeConfig
from .prograd import ProGradConfig
from .prompt_aggregation import PromptAggregation
from .promptsrc import PromptSRCConfig
from .table import DEFAULT_METHOD, METHODS, find_method
from .tcp import TCPConfig
from .video_prompt import VideoPromptConfig
from .vpt import VPTConfig

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "CSPConfig",
    "CoCoOpConfig",
    "CoOpConfig",
    "ContextConfig",
    "ContextPrompt",
    "DenseCLIPConfig",
    "IVLPConfig",
    "KgCoOpConfig",
    "LossTerm",
    "MaPLeConfig",
    "Method",
    "ProGradConfig",
    "Prompt",
    "PromptAggregation",
    "PromptConfig",
    "PromptSRCConfig",
    "Step",
    "TCPConfig",
    "VPTConfig",
    "VectorName",
    "VideoPromptConfig",
    "find_method",
]
