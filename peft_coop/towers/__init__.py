"""The one room that touches Hugging Face's towers: families as data, text towers causal or not, vision towers."""

from .embeddings import SplicedEmbeddings
from .families import (
    FAMILIES,
    Family,
    device_of,
    dtype_of,
    find_family,
    norm_and_projection,
    projection_dim,
    text_layers,
    text_limit,
    token_embedding,
    vision_layers,
)
from .fingerprints import fingerprint
from .joined_towers import join_towers
from .place_features import PlaceFeatures, check_layers, features_of_places, open_places, patch_size, vision_width
from .prepared_prompts import NO_DEEP_VECTORS, DeepVectors, PreparedPrompts
from .similarity import computing_dtype, cosine_logits, has_bias, normalize, scale_and_bias
from .temporal_layers import read_frames, temporal_layers
from .text_cache import TextCache
from .text_tower import TextTower, average, encode_templates, text_reader, text_tower
from .tuned_modules import attention_projections, layer_norms
from .vision_tower import (
    check_image_inputs,
    close_vision_tower,
    image_features,
    is_vision_frozen,
    open_vision_tower,
    vision_parts,
    vision_prompts,
)

__all__ = [
    "FAMILIES",
    "NO_DEEP_VECTORS",
    "DeepVectors",
    "Family",
    "PlaceFeatures",
    "PreparedPrompts",
    "SplicedEmbeddings",
    "TextCache",
    "TextTower",
    "attention_projections",
    "average",
    "check_image_inputs",
    "check_layers",
    "close_vision_tower",
    "computing_dtype",
    "cosine_logits",
    "device_of",
    "dtype_of",
    "encode_templates",
    "features_of_places",
    "find_family",
    "fingerprint",
    "has_bias",
    "image_features",
    "is_vision_frozen",
    "join_towers",
    "layer_norms",
    "norm_and_projection",
    "normalize",
    "open_places",
    "open_vision_tower",
    "patch_size",
    "projection_dim",
    "read_frames",
    "scale_and_bias",
    "temporal_layers",
    "text_layers",
    "text_limit",
    "text_reader",
    "text_tower",
    "token_embedding",
    "vision_layers",
    "vision_parts",
    "vision_prompts",
    "vision_width",
]
