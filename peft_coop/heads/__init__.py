"""What stands around the two towers: how images are given, what they are compared with texts by, and the loss."""

from .base import Head
from .image_classification import ImageClassificationHead
from .losses import LOSS_NAMES, class_labels, classification_loss, contrastive_loss
from .outputs import PromptClassifierOutput, PromptSegmenterOutput, VideoClassifierOutput
from .semantic_segmentation import SemanticSegmentationHead
from .video_classification import VideoClassificationHead

__all__ = [
    "LOSS_NAMES",
    "Head",
    "ImageClassificationHead",
    "PromptClassifierOutput",
    "PromptSegmenterOutput",
    "SemanticSegmentationHead",
    "VideoClassificationHead",
    "VideoClassifierOutput",
    "class_labels",
    "classification_loss",
    "contrastive_loss",
]
