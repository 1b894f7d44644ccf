"""The command line: `peft-coop`, or `python -m peft_coop`."""

from .main import main

__all__ = ["main"]
