"""`peft-coop push`: a saved prompt on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from typing import Any

from .loading import load_adapter
from .options import add_model, add_quiet
from .saved_scores import read_scores


def add_commands(commands: Any) -> None:
    """Add `push`."""
    parser = commands.add_parser(
        "push",
        help="put a saved prompt on the Hugging Face Hub, with a model card",
        description="Put a saved prompt on the Hub with a model card. Log in before, with `hf auth login`.",
    )
    parser.add_argument("--adapter", required=True, help="folder of a saved prompt")
    parser.add_argument("--repo", required=True, help="such as me/pets-coop")
    parser.add_argument("--private", action="store_true", help="only for you")
    parser.add_argument(
        "--handler",
        action="store_true",
        help="also a handler.py, by which a Hugging Face Inference Endpoint serves the prompt",
    )
    add_model(parser, default=None)
    add_quiet(parser)
    parser.set_defaults(run=run_push)


def run_push(options: argparse.Namespace) -> None:
    """Push the adapter and its card."""
    model, _ = load_adapter(options.adapter, options)
    given = {"private": options.private, "handler": options.handler}
    place = model.push_to_hub(options.repo, **given, **read_scores(options.adapter))
    print(f"Pushed to {place}.")
