"""Model cards and the Hub."""

from .model_card import update_model_card
from .upload import push_adapters

__all__ = ["push_adapters", "update_model_card"]
