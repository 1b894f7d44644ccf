"""The command line: `peft-coop`, or `python -m peft_coop`."""

from .main import main
from .process import start

__all__ = ["main", "start"]
