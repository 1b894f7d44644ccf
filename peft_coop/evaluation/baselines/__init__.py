"""What prompt learning is compared with."""

from .fine_tuning import ImageEncoderFineTuning, TextBias, TextTransform
from .linear_probe import LinearProbe
from .listing import all_baselines
from .text import PromptEnsemble, TextClassifier, ZeroShot

__all__ = [
    "ImageEncoderFineTuning",
    "LinearProbe",
    "PromptEnsemble",
    "TextBias",
    "TextClassifier",
    "TextTransform",
    "ZeroShot",
    "all_baselines",
]
