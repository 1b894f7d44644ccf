"""The parser of all commands, and what becomes of errors."""

from __future__ import annotations

import argparse
import importlib
import platform
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from . import app, benchmark, calibrate, convert, demo, evaluate, export, interpret, predict, push, report, train
from .messages import quieten
from .offered_methods import method_titles

DESCRIPTION = """\
Prompt learning for CLIP ({titles}): learn a prompt from a few labelled images per class.

  peft-coop demo                                        a tour in a minute, no download
  peft-coop train --data folder:my-images --model openai/clip-vit-base-patch16 --output my-prompt
  peft-coop evaluate --adapter my-prompt --data folder:my-images
  peft-coop predict --adapter my-prompt photo.jpg more-photos/
  peft-coop app --adapter my-prompt                     a page in the browser to try it on
  peft-coop benchmark few-shot --data coop:oxford_pets@DATA --output runs
"""
EPILOG = """\
--data is one of
  folder:PATH        train/CLASS/IMAGE and test/CLASS/IMAGE, or only CLASS/IMAGE (a fifth is kept for testing);
                     with labels.csv images of several labels
  hub:NAME           a dataset of the Hugging Face Hub, or a local folder that `datasets` reads
  masks:PATH         images with a class for each pixel, as ADE20K has them
  coop:NAME@DATA     a dataset on disk as the original CoOp code has it, such as coop:oxford_pets@DATA
  videos:PATH        as folder:PATH with videos, files or folders of frames
  demo:digits, demo:shapes, demo:colours, demo:scenes, demo:motion   small tasks that ship with the package; colours
                     have several labels, scenes have masks, and motion has videos
--model is the Hub name or the folder of a CLIP, or "demo": the tiny one that ships with the package.

Exit codes: 0; 2 for bad input; 130 when stopped by Ctrl-C, after which the same command goes on where it was; 141 when
what it prints is no longer read.
"""


INTERRUPTED = 128 + 2
# What a program ends with whose output nobody reads any more, as one that SIGPIPE has ended.
CLOSED_OUTPUT = 128 + 13


def main(arguments: Sequence[str] | None = None, before_run: Callable[[], None] | None = None) -> int:
    """Run the command line and return its exit code.

    0; 2 for bad input; 130 if interrupted; 141 if what it prints is no longer read, as behind `| head`.

    Args:
        arguments: in place of the process's.
        before_run: called when the arguments are read and everything is imported.
    """
    options = make_parser().parse_args(arguments)
    load_package()
    try:
        if before_run:
            before_run()
        quieten(options.quiet)
        return options.run(options) or 0
    except ModuleNotFoundError as error:
        hint = 'pip install "peft-coop[cli]" (in a clone: pip install ".[cli]") has what the commands need.'
        return _refuse(f"The package {error.name!r} is not installed: {hint}")
    except BrokenPipeError as error:
        return CLOSED_OUTPUT if closed_output(sys.stdout) or closed_output(sys.stderr) else _refuse(one_line(error))
    except bad_input() as error:
        return _refuse(one_line(error) + _way_out(error, options))
    except KeyboardInterrupt:
        print("\npeft-coop: stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED


def load_package() -> None:
    """Import what `import peft_coop` imports, and register the methods, if `starts_as_command` has put it off."""
    if f"{__package__.partition('.')[0]}.registration" not in sys.modules:
        importlib.reload(sys.modules[__package__.partition(".")[0]])


def bad_input() -> tuple[type[Exception], ...]:
    """What is raised for input that cannot be used; weights that would run code are refused by pickle's error."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    return (ValueError, TypeError, OSError, ImportError, RuntimeError, SafetensorError, UnpicklingError)


def closed_output(stream: TextIO) -> bool:
    """Whether the other end of a pipe that is written to has been closed, and what was last written may be lost."""
    try:
        stream.flush()
        pipe = select.poll()
        pipe.register(stream.fileno(), 0)
    except BrokenPipeError:
        return True
    except (AttributeError, OSError, ValueError):  # Windows has no `poll`; a stream in memory is no file
        return False
    return any(event & select.POLLERR for _, event in pipe.poll(0))


def _refuse(reason: str) -> int:
    print(f"peft-coop: {reason}", file=sys.stderr)
    return 2


def _way_out(error: Exception, options: argparse.Namespace) -> str:
    """The option that helps, where there is one."""
    from ..data.images import UnreadableImageError

    if isinstance(error, UnreadableImageError) and getattr(options, "skip_corrupt", None) is False:
        return " --skip-corrupt leaves out what cannot be read."
    return ""


def one_line(error: Exception) -> str:
    """What an error says; of one in a process that loads images, only its own words."""
    text = str(error)
    if text.startswith("Caught "):
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def versions() -> str:
    """The package's version, and those that a report of a bug needs."""
    from importlib.metadata import PackageNotFoundError, version

    from .. import __version__

    found = []
    for package in ("torch", "transformers", "peft"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return f"peft-coop {__version__} ({', '.join([f'Python {platform.python_version()}', *found])})"


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    formatter = argparse.RawDescriptionHelpFormatter
    description = DESCRIPTION.format(titles=", ".join(method_titles().values()))
    parser = argparse.ArgumentParser(
        prog="peft-coop", description=description, epilog=EPILOG, formatter_class=formatter
    )
    parser.add_argument("--version", action="version", version=versions(), help="print versions and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (demo, train, evaluate, calibrate, predict, benchmark, report, interpret, convert, export, app, push):
        module.add_commands(commands)
    return parser
