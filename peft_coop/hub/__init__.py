"""Model cards, the Hub, and the original implementation's checkpoints."""

from .handler import write_handler
from .model_card import eval_results, update_model_card
from .original import convert_original, export_original
from .original_file import read_original
from .upload import push_adapters

__all__ = [
    "convert_original",
    "eval_results",
    "export_original",
    "push_adapters",
    "read_original",
    "update_model_card",
    "write_handler",
]
