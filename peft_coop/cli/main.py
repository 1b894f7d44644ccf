"""The parser of all commands, and what becomes of errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from safetensors import SafetensorError

from . import benchmark, classify, demo, report, tools, train
from .options import quieten

DESCRIPTION = """\
Prompt learning for CLIP (CoOp, CoCoOp): learn a prompt from a few labelled images per class.

  peft-coop demo                                        a tour in a minute, no download
  peft-coop train --data folder:my-images --model openai/clip-vit-base-patch16 --output my-prompt
  peft-coop evaluate --adapter my-prompt --data folder:my-images
  peft-coop predict --adapter my-prompt photo.jpg more-photos/
  peft-coop benchmark few-shot --data coop:oxford_pets@DATA --output runs
"""
EPILOG = """\
--data is one of
  folder:PATH        train/CLASS/IMAGE and test/CLASS/IMAGE, or only CLASS/IMAGE (a fifth is kept for testing)
  hub:NAME           a dataset of the Hugging Face Hub, or a local folder that `datasets` reads
  coop:NAME@DATA     a dataset on disk as the original CoOp code has it, such as coop:oxford_pets@DATA
  demo:digits, demo:shapes   two small tasks that ship with the package
--model is the Hub name or the folder of a CLIP, or "demo": the tiny one that ships with the package.

Exit codes: 0; 2 for bad input; 130 when stopped by Ctrl-C, after which the same command goes on where it was.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 130 if interrupted."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    quieten()
    try:
        return options.run(options) or 0
    except ModuleNotFoundError as error:
        hint = 'pip install "peft-coop[cli]" (in a clone: pip install ".[cli]") has what the commands need.'
        print(f"peft-coop: The package {error.name!r} is not installed: {hint}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, SafetensorError) as error:
        print(f"peft-coop: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npeft-coop: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def one_line(error: Exception) -> str:
    """What an error says; of one in a process that loads images, only its own words."""
    text = str(error)
    if text.startswith("Caught "):
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="peft-coop", description=DESCRIPTION, epilog=EPILOG, formatter_class=formatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (demo, train, classify, benchmark, report, tools):
        module.add_commands(commands)
    return parser
