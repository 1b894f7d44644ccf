"""Few-shot sampling, base and new classes, features computed once."""

from .features import with_image_embeds
from .few_shot import base_and_new_names, few_shot_indices, select_classes

__all__ = ["base_and_new_names", "few_shot_indices", "select_classes", "with_image_embeds"]
