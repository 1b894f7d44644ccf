"""CLIP's hand-written prompts for ImageNet, whose average works for other data too."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

# ImageNet and its variants, as `peft_coop.data.COOP_LAYOUTS` calls them.
IMAGENET_NAMES = ("imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")


def imagenet_templates(selection: bool = False) -> list[str]:
    """The templates of CLIP's prompt ensemble; "{}" stands for the class name.

    Args:
        selection: only the 7 that a forward selection chose, in its order, and not all 80.

    Reference: CLIP (arXiv:2103.00020); the file of the strings names where they were published.
    """
    return list(_read()["selection" if selection else "all"])


def ensemble_templates(data: str | None, own: str, all_templates: bool = False) -> list[str]:
    """The prompts that are averaged for a dataset: the selected 7 of ImageNet, or all 80, and the dataset's own.

    Args:
        data: the dataset's name. ImageNet and its variants have no other templates than ImageNet's.
        own: the dataset's template.
        all_templates: all 80, and not the selected 7.

    Reference: CoOp (arXiv:2109.01134).
    """
    templates = imagenet_templates(selection=not all_templates)
    joins = data not in IMAGENET_NAMES and own not in templates
    return [*templates, own] if joins else templates


def zero_shot_templates(data: str | None, own: str) -> list[str]:
    """The prompts of the zero-shot part of Tip-Adapter and GDA: on ImageNet the selected 7, else the dataset's own.

    Args:
        data: the dataset's name. ImageNet's variants have its templates.
        own: the dataset's template.

    Reference: Tip-Adapter (arXiv:2207.09519).
    """
    return imagenet_templates(selection=True) if data in IMAGENET_NAMES else [own]


@cache
def _read() -> dict[str, list[str]]:
    return json.loads((Path(__file__).parent / "imagenet_templates.json").read_text(encoding="utf-8"))
