"""What prompt learning is compared with."""

from .every_baseline import all_baselines
from .fine_tuning import ImageEncoderFineTuning, TextBias, TextTransform
from .hand_written_prompts import PromptEnsemble, TextClassifier, ZeroShot
from .linear_probe import LinearProbe

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
