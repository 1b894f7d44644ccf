"""The one room that touches Hugging Face's towers: families as data, text towers causal or not, vision towers."""

from .embeddings import SplicedEmbeddings
from .families import (
    FAMILIES,
    Family,
    device_of,
    dtype_of,
    find_family,
    projection_dim,
    text_limit,
    token_embedding,
)
from .joined_towers import join_towers
from .prepared_prompts import PreparedPrompts
from .similarity import computing_dtype, cosine_logits, normalize, scale_and_bias
from .text_cache import TextCache
from .text_tower import TextTower, average, encode_templates, text_reader, text_tower
from .vision_tower import check_image_inputs, image_features, is_vision_frozen, vision_parts

__all__ = [
    "FAMILIES",
    "Family",
    "PreparedPrompts",
    "SplicedEmbeddings",
    "TextCache",
    "TextTower",
    "average",
    "check_image_inputs",
    "computing_dtype",
    "cosine_logits",
    "device_of",
    "dtype_of",
    "encode_templates",
    "find_family",
    "image_features",
    "is_vision_frozen",
    "join_towers",
    "normalize",
    "projection_dim",
    "scale_and_bias",
    "text_limit",
    "text_reader",
    "text_tower",
    "token_embedding",
    "vision_parts",
]
