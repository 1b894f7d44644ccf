"""From an adapter to something that runs without this library: class features, a plain classifier."""

from .class_file import export_classes, image_fingerprint
from .classifier import to_classifier
from .fixed_classes import FixedClasses, fixed_classes
from .modeling_class_matrix import ClassMatrixConfig, ClassMatrixForImageClassification

__all__ = [
    "ClassMatrixConfig",
    "ClassMatrixForImageClassification",
    "FixedClasses",
    "export_classes",
    "fixed_classes",
    "image_fingerprint",
    "to_classifier",
]
