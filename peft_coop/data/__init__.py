"""Where images come from, which of them are drawn, how they vary, and their features computed once."""

from .augmentation import AugmentedImages
from .augmented_features import AugmentedFeatures
from .composition_data import PAIR_TEMPLATE, CompositionData, pair_names, with_pair_labels
from .composition_sources import load_compositions
from .composition_summary import CompositionSummary, PairSplitSummary
from .coop_layout import COOP_LAYOUTS
from .draws import draw_indices
from .epochs import AugmentationCallback
from .features import with_image_embeds
from .few_shot import base_and_new_names, few_shot_indices, select_classes
from .frame_features import FrameRows, with_frame_embeds
from .frame_sampling import draw_frames, spread_frames
from .image_bytes import images_fingerprint
from .image_data import ImageData
from .label_values import has_several_labels, label_values
from .mask_augmentation import AugmentedMasks
from .mask_data import MaskData
from .mask_processor import PreparedMasks, mask_image_processor
from .mask_sources import load_masks
from .mask_summary import MaskSplitSummary, MaskSummary
from .masks import MaskRows, MaskValues
from .preparation import prepare_images
from .prepared_images import PreparedImages
from .several_labels import label_counts
from .sources import load_data
from .summary import DataSummary, LeftOut, SplitSummary
from .video_clips import VideoClips, clips_to_test
from .video_data import VideoData
from .video_summary import VideoSummary

__all__ = [
    "COOP_LAYOUTS",
    "PAIR_TEMPLATE",
    "AugmentationCallback",
    "AugmentedFeatures",
    "AugmentedImages",
    "AugmentedMasks",
    "CompositionData",
    "CompositionSummary",
    "DataSummary",
    "FrameRows",
    "ImageData",
    "LeftOut",
    "MaskData",
    "MaskRows",
    "MaskSplitSummary",
    "MaskSummary",
    "MaskValues",
    "PairSplitSummary",
    "PreparedImages",
    "PreparedMasks",
    "SplitSummary",
    "VideoClips",
    "VideoData",
    "VideoSummary",
    "base_and_new_names",
    "clips_to_test",
    "draw_frames",
    "draw_indices",
    "few_shot_indices",
    "has_several_labels",
    "images_fingerprint",
    "label_counts",
    "label_values",
    "load_compositions",
    "load_data",
    "load_masks",
    "mask_image_processor",
    "pair_names",
    "prepare_images",
    "select_classes",
    "spread_frames",
    "with_frame_embeds",
    "with_image_embeds",
    "with_pair_labels",
]
