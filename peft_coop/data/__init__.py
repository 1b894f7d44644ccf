"""Where images come from, which of them are drawn, and their features computed once."""

from .features import with_image_embeds
from .few_shot import base_and_new_names, few_shot_indices, select_classes
from .sources import ImageData, load_data

__all__ = [
    "ImageData",
    "base_and_new_names",
    "few_shot_indices",
    "load_data",
    "select_classes",
    "with_image_embeds",
]
