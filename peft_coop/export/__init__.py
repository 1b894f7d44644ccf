"""From an adapter to something that runs without this library: class features, a plain classifier, ONNX."""

from .class_file import export_classes, image_fingerprint
from .classifier import to_classifier
from .fixed_classes import FixedClasses, fixed_classes
from .modeling_class_matrix import ClassMatrixConfig, ClassMatrixForImageClassification
from .onnx_folder import OnnxFile, export_onnx
from .onnx_graph import OnnxClassifier

__all__ = [
    "ClassMatrixConfig",
    "ClassMatrixForImageClassification",
    "FixedClasses",
    "OnnxClassifier",
    "OnnxFile",
    "export_classes",
    "export_onnx",
    "fixed_classes",
    "image_fingerprint",
    "to_classifier",
]
