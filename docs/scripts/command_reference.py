"""The page of all commands and their options, as the parser of the command line has them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from peft_coop.cli.main import make_parser
from peft_coop.markdown import escape, table

INTRODUCTION = """\
# Commands

`peft-coop COMMAND` and `python -m peft_coop COMMAND` are the same. `--help` of each command says what stands here.
Exit codes: 0; 2 for bad input; 130 when stopped by Ctrl-C, after which the same command goes on where it was; 141 when
what it prints is no longer read. [Experiments](../experiments.md) and [Data](../data.md) tell what they do.
"""


def page() -> str:
    """The page in Markdown, a section for each command."""
    return "\n".join([INTRODUCTION, *(section(name, parser) for name, parser in commands(make_parser()))])


def commands(parser: argparse.ArgumentParser, name: str = "peft-coop") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its parser, commands of commands included."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield name, parser
    for action in nested:
        for word, inner in action.choices.items():
            yield from commands(inner, f"{name} {word}")


def section(name: str, parser: argparse.ArgumentParser) -> str:
    """A command's description and the table of its options."""
    rows = [(option(action), escape(help_of(action, parser))) for action in shown(parser)]
    return f"## {name}\n\n{escape(parser.description or '')}\n\n{table(('option', 'meaning'), rows)}\n"


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that `--help` shows, but for itself."""
    return [action for action in parser._actions if action.help != argparse.SUPPRESS and "--help" not in option(action)]


def option(action: argparse.Action) -> str:
    """An option as it is typed."""
    values = "" if action.nargs == 0 else str(action.metavar or choices_of(action) or action.dest.upper())
    names = ", ".join(action.option_strings)
    return f"`{f'{names} {values}'.strip()}`"


def choices_of(action: argparse.Action) -> str:
    """The values that an option accepts, if they are few enough for a name."""
    words = ",".join(map(str, action.choices or ()))
    return f"{{{words}}}" if 0 < len(words) < 40 else ""


def help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """What an option does, with its default filled in."""
    return parser._get_formatter()._expand_help(action) if action.help else ""
