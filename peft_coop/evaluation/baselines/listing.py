"""Every baseline."""

from __future__ import annotations

from ...recipes import LEARNING_RATE
from ..methods import Method
from .fine_tuning import ENCODER_LEARNING_RATE, ImageEncoderFineTuning, TextBias, TextTransform
from .linear_probe import LinearProbe
from .text import PromptEnsemble, ZeroShot


def all_baselines(
    learning_rate: float = LEARNING_RATE,
    encoder_learning_rate: float = ENCODER_LEARNING_RATE,
    data: str | None = None,
) -> list[Method]:
    """Every baseline, from no learned weight to many; their `key` tells them apart.

    Args:
        learning_rate: of what is learned on the text features, with SGD.
        encoder_learning_rate: of the image encoder, with AdamW.
        data: the dataset's name, for the paper's number of epochs.
    """
    return [
        ZeroShot(),
        PromptEnsemble(),
        PromptEnsemble(all_templates=True),
        TextBias(learning_rate, data=data),
        TextTransform(learning_rate, data=data),
        LinearProbe(),
        ImageEncoderFineTuning(encoder_learning_rate, data=data),
    ]
