"""Images whose pixels have a class each: what learns from them, and how well."""

from ..segmentation_scores import PixelCounts, TrainerPixelMetrics, predicted_classes
from .measured_masks import MeasuredMasks, most_varied, pixel_scores
from .plain_head import PlainHead
from .prompt_segmentation import (
    CROP_SIZE,
    DenseZeroShot,
    PromptSegmentation,
    PromptSegmenter,
    segmentation_methods,
    write_score_maps,
)
from .protocol import draw_masks, segmentation
from .segmenters import MaskedImages, Segmenter
from .windows import SCALES, Windows

__all__ = [
    "CROP_SIZE",
    "SCALES",
    "DenseZeroShot",
    "MaskedImages",
    "MeasuredMasks",
    "PixelCounts",
    "PlainHead",
    "PromptSegmentation",
    "PromptSegmenter",
    "Segmenter",
    "TrainerPixelMetrics",
    "Windows",
    "draw_masks",
    "most_varied",
    "pixel_scores",
    "predicted_classes",
    "segmentation",
    "segmentation_methods",
    "write_score_maps",
]
