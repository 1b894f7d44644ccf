"""What a command tells beside its results."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ..progress import show_progress

_tells = True


def quieten(everything: bool = False) -> None:
    """Keep library chatter out of a command's output; this process is the user's, not an import.

    Args:
        everything: also what `say` tells.
    """
    global _tells
    _tells = not everything
    show_progress(not everything)
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging

    (disable_progress_bars if everything else enable_progress_bars)()  # of downloads from the Hub
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # of loading weights
    warnings.simplefilter("always")
    warnings.showwarning = _tell_our_warning


def _tell_our_warning(message: Warning | str, *about: Any, **more: Any) -> None:
    """Print a warning of this package on one line; those of the libraries behind it are for programmers."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__") == "warnings":
        frame = frame.f_back
    if str(frame.f_globals.get("__name__")).partition(".")[0] == __package__.partition(".")[0]:
        print(f"peft-coop: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Tell what is being done, unless `--quiet` was given."""
    if _tells:
        print(f"> {text}", file=sys.stderr, flush=True)
