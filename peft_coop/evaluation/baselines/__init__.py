"""What prompt learning is compared with."""

from .clip_adapter import CLIPAdapter
from .every_baseline import all_baselines
from .fine_tuning import ImageEncoderFineTuning, TextBias, TextTransform
from .gaussian_discriminant import GaussianDiscriminant
from .hand_written_prompts import PromptEnsemble, TextClassifier, ZeroShot
from .linear_probe import LinearProbe
from .tip_adapter import TipAdapter, TipAdapterF
from .tip_values import TipValues
from .tower_tuning import LayerNormTuning, LoRATuning, TowerTuning
from .two_stage import TwoStage

__all__ = [
    "CLIPAdapter",
    "GaussianDiscriminant",
    "ImageEncoderFineTuning",
    "LayerNormTuning",
    "LinearProbe",
    "LoRATuning",
    "PromptEnsemble",
    "TextBias",
    "TextClassifier",
    "TextTransform",
    "TipAdapter",
    "TipAdapterF",
    "TipValues",
    "TowerTuning",
    "TwoStage",
    "ZeroShot",
    "all_baselines",
]
