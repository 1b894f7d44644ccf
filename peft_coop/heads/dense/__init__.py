"""What pixels are classified by: plain modules of tensors, which know no model and no adapter, and their losses."""

from .context_decoder import ContextDecoder
from .fpn import FPN
from .pixel_losses import checked_labels, pixel_cross_entropy
from .pyramid import Pyramid
from .score_map import score_map
from .semantic_fpn import SemanticFPNHead
from .transformers_heads import Segformer, UperNet

__all__ = [
    "FPN",
    "ContextDecoder",
    "Pyramid",
    "Segformer",
    "SemanticFPNHead",
    "UperNet",
    "checked_labels",
    "pixel_cross_entropy",
    "score_map",
]
