"""Whether Python has just started as the command line, which reads its arguments before it needs anything heavy.

`import peft_coop` registers the methods with PEFT, and so imports torch, transformers and PEFT: seconds that `--help`
and `--version` need not take. Any module of a package is imported after the package, so the package must be told.
"""

from __future__ import annotations

import os
import signal
import sys

PACKAGE = "peft_coop"
SCRIPT = "peft-coop"
SCRIPT_SUFFIXES = ("", ".exe")


def starts_as_command() -> bool:
    """Whether this process is `peft-coop` or `python -m peft_coop`, and has not come to its arguments yet."""
    arguments = getattr(sys, "argv", None)
    if not arguments or f"{PACKAGE}.cli" in sys.modules:
        return False
    if arguments[0] == "-m":  # so Python has it while it looks for the module, and only then
        return sys.orig_argv[-len(arguments)] in (PACKAGE, f"{PACKAGE}.__main__")
    name, suffix = os.path.splitext(os.path.basename(arguments[0]))
    return name == SCRIPT and suffix in SCRIPT_SUFFIXES


def let_interrupts_end_the_process() -> None:
    """Until a command runs, and when it is over, Ctrl-C has nothing to save; raised in an import it is a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
