"""What a command tells beside its results."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ..progress import bar_aside, show_progress

_tells = True
_told: set[str] = set()  # warnings; each of three seeds' runs may have the same one


def quieten(everything: bool = False) -> None:
    """Keep library chatter out of a command's output; this process is the user's, not an import.

    Args:
        everything: also what `say` tells.
    """
    global _tells
    _tells = not everything
    _told.clear()
    show_progress(not everything)
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging

    (disable_progress_bars if everything else enable_progress_bars)()  # of downloads from the Hub
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # of loading weights
    warnings.simplefilter("always")
    warnings.showwarning = _tell_our_warning


def _tell_our_warning(message: Warning | str, *about: Any, **more: Any) -> None:
    """Print a warning of this package on one line, once; those of the libraries behind it are for programmers."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__") == "warnings":
        frame = frame.f_back
    if str(frame.f_globals.get("__name__")).partition(".")[0] == __package__.partition(".")[0]:
        text = " ".join(str(message).split())
        if text not in _told:
            _told.add(text)
            _print(f"peft-coop: warning: {text}")


def say(text: str) -> None:
    """Tell what is being done, unless `--quiet` was given."""
    if _tells:
        _print(f"> {text}")


def _print(line: str) -> None:
    with bar_aside():
        print(line, file=sys.stderr, flush=True)
