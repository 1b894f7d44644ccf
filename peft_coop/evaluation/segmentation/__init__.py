"""Images whose pixels have a class each: what learns from them, and how well."""

from .measured_masks import MeasuredMasks, pixel_scores
from .plain_head import PlainHead
from .prompt_segmentation import CROP_SIZE, DenseZeroShot, PromptSegmentation, PromptSegmenter, segmentation_methods
from .protocol import draw_masks, segmentation
from .segmenters import MaskedImages, Segmenter
from .windows import SCALES, Windows

__all__ = [
    "CROP_SIZE",
    "SCALES",
    "DenseZeroShot",
    "MaskedImages",
    "MeasuredMasks",
    "PlainHead",
    "PromptSegmentation",
    "PromptSegmenter",
    "Segmenter",
    "Windows",
    "draw_masks",
    "pixel_scores",
    "segmentation",
    "segmentation_methods",
]
