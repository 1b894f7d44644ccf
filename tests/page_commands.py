"""The commands of the pages: which of them are run, why the others are not, and what is checked of all.

A command is run where it stands, unless `why_not` gives a reason: what serves until it is stopped, what takes minutes,
what asks the Hub, what reads something that only the reader has, and what goes on from one of these.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path

from peft_coop.cli.main import make_parser
from peft_coop.cli.method_options import tell_unused
from peft_coop.cli.video_options import default_method_for, protocol_of
from peft_coop.data import COOP_LAYOUTS
from peft_coop.demo.tasks import COMPOSITION_TASK_NAMES, SCENE_TASK_NAMES, TASK_NAMES
from peft_coop.methods import METHODS

PACKAGE = "peft-coop"
PARSER = make_parser()
# Programs that are no commands of the package, and what tries them.
PROGRAMS = {
    "pip": "it changes what is installed",
    "make": "it calls what the continuous integration calls",
    "python": "`test_examples.py` runs the examples with --smoke, `test_own_method.py` the command of its page",
    "torchrun": "`test_examples.py` runs the example with --smoke",
    "accelerate": "`test_examples.py` runs the example with --smoke",
}
COMMANDS = {
    "app": "it shows its page until it is stopped",
    "push": "it asks the Hub",
    "convert": "it reads a checkpoint of the original's code",
    "benchmark": "it takes minutes; the tests of the protocols do smaller ones",
}
SLOW = {
    ("--format", "onnx"): "it takes half a minute; `test_cli_export.py` does it",
    ("demo:scenes",): "a training on masks takes half a minute",
}
OF_THE_READER = ("@DATA", "masks:", "videos:", "hub:", "pairs:", "czsl:")
DEMO_TASKS = {*TASK_NAMES, *COMPOSITION_TASK_NAMES, *SCENE_TASK_NAMES, "motion"}
KINDS = ("folder", "hub", "masks", "videos", "pairs", "czsl")
CUT_SHORT = "..."


def why_not(words: list[str], missing: list[str]) -> str:
    """Why a command is parsed and not run; "" where it is run.

    Args:
        words: the program and its arguments.
        missing: what commands before it on the page would have written, had they been run.
    """
    program, *arguments = words
    if program != PACKAGE:
        return PROGRAMS[program]
    if CUT_SHORT in arguments:
        return "it is cut short"
    if arguments[0] in COMMANDS and "--dry-run" not in arguments:
        return COMMANDS[arguments[0]]
    slow = [reason for several, reason in SLOW.items() if set(several) <= set(arguments)]
    if slow:
        return slow[0]
    if any(part in argument for part in OF_THE_READER for argument in arguments):
        return "it reads what the reader has"
    if any(argument == name or argument.startswith(f"{name}/") for name in missing for argument in arguments[1:]):
        return "it goes on from what is not run"
    return ""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command, of which the last ones may have been left out on the page.

    Raises:
        SystemExit: if they are none.
    """
    complete = [word for part in arguments for word in (["--output", "runs"] if part == CUT_SHORT else [part])]
    return PARSER.parse_args(complete)


def written_by(arguments: list[str]) -> list[str]:
    """What a command writes and others may read."""
    output = getattr(parse(arguments), "output", None)
    return [] if output is None else [str(output)]


def check_meaning(options: argparse.Namespace) -> None:
    """Check that settings and data are there, that each option changes something, and that methods fit the protocol."""
    sources = given(options, "data") + given(options, "targets")
    unknown = [source for source in sources if not is_source(source)]
    assert not unknown, unknown
    if not hasattr(options, "set"):
        return
    methods = given(options, "methods") or given(options, "method") or [default_of(sources[0])]
    if "protocol" in options:
        protocol = protocol_of(options.protocol, sources)
        able = [key for key, method in METHODS.items() if method.takes_part_in(protocol)]
        methods = able if "all" in methods else methods
        apart = [key for key in methods if key in METHODS and key not in able]
        assert not apart, f"{apart} in {protocol}"
    with contextlib.redirect_stderr(io.StringIO()) as told:
        tell_unused(options, methods)
    assert not told.getvalue(), told.getvalue()


def given(options: argparse.Namespace, name: str) -> list[str]:
    """The values of an option that may have several."""
    value = getattr(options, name, None)
    return [value] if isinstance(value, str) else list(value or ())


def default_of(source: str) -> str:
    """The key of the method where a command names none."""
    return "dense_clip" if source.startswith("masks:") or source == "demo:scenes" else default_method_for(source)


def is_source(source: str) -> bool:
    """Whether there is data of this name, or a way to read it."""
    kind, _, place = source.partition(":")
    if kind == "demo":
        return place in DEMO_TASKS
    if kind == "coop":
        return place.partition("@")[0] in COOP_LAYOUTS and bool(place.partition("@")[2])
    return kind in KINDS and bool(place)


def is_there(adapter: str | Path) -> bool:
    """Whether a command finds an adapter of this name in its folder."""
    return Path(adapter, "adapter_config.json").is_file()
