"""CLIP's hand-written prompts for ImageNet, whose average works for other data too."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


def imagenet_templates(selection: bool = False) -> list[str]:
    """The templates of CLIP's prompt ensemble; "{}" stands for the class name.

    Args:
        selection: only the 7 that a forward selection chose, in its order, and not all 80.

    Reference: CLIP (arXiv:2103.00020); the file of the strings names where they were published.
    """
    return list(_read()["selection" if selection else "all"])


@cache
def _read() -> dict[str, list[str]]:
    return json.loads((Path(__file__).parent / "imagenet_templates.json").read_text(encoding="utf-8"))
