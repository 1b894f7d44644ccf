"""The command line as a process: what becomes of Ctrl-C, and of output that nobody reads any more."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, TextIO

from ..startup import let_interrupts_end_the_process
from .main import CLOSED_OUTPUT, INTERRUPTED, closed_output, main

LATER = 0.05  # seconds


def start(arguments: Sequence[str] | None = None) -> int:
    """Run the command line as the whole process; see `main` for the exit code."""
    let_interrupts_end_the_process()
    sys.unraisablehook = _interrupt_again
    code: Any = 0
    try:
        code = main(arguments, before_run=_interruptible)
    except SystemExit as exit_:  # after --help, and of wrong usage
        code = exit_.code
    except (BrokenPipeError, KeyboardInterrupt) as error:  # while the end of another one was told
        code = CLOSED_OUTPUT if isinstance(error, BrokenPipeError) else INTERRUPTED
    let_interrupts_end_the_process()
    return CLOSED_OUTPUT if not _flushed(sys.stdout, sys.stderr) else code


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt_again(unraisable: Any) -> None:
    """An interrupt that fell into a destructor or a callback of C code, where it would be printed and lost.

    Raised at once it would fall into this function, which is such a callback.
    """
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(LATER, os.kill, [os.getpid(), signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(unraisable)


def _flushed(*streams: TextIO) -> bool:
    """Write what is still in memory; a stream that is closed at the other end leads nowhere from here on."""
    closed = [stream for stream in streams if closed_output(stream)]
    for stream in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return not closed
