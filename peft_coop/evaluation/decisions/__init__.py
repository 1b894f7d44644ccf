"""What a user decides with a classifier's probabilities: how far they can be trusted, and when to answer "other"."""

from .calibration import Calibration, calibrate, decide, decided_logits, unknown_detection
from .chosen_images import KnownAndUnknown, by_known_classes, how_drawn, validation_images
from .decided import Decided, DecidedLabels
from .figures import coverage_figure, reliability_figure
from .selective import RiskCoverage, choose_min_probability, detection_auroc, risk_coverage
from .temperature import calibration_scores, fit_temperature

__all__ = [
    "Calibration",
    "Decided",
    "DecidedLabels",
    "KnownAndUnknown",
    "RiskCoverage",
    "by_known_classes",
    "calibrate",
    "calibration_scores",
    "choose_min_probability",
    "coverage_figure",
    "decide",
    "decided_logits",
    "detection_auroc",
    "fit_temperature",
    "how_drawn",
    "reliability_figure",
    "risk_coverage",
    "unknown_detection",
    "validation_images",
]
