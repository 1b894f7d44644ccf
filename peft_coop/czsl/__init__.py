"""The numbers of compositional zero-shot learning, from scores and pairs: arithmetic, no model."""

from .calibration import calibrate_scores, feasibility
from .metrics import CZSLMetrics, czsl_metrics
from .thresholds import FeasibilityThreshold, feasibility_threshold
from .word_vectors import read_word_vectors

__all__ = [
    "CZSLMetrics",
    "FeasibilityThreshold",
    "calibrate_scores",
    "czsl_metrics",
    "feasibility",
    "feasibility_threshold",
    "read_word_vectors",
]
