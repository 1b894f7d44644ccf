"""Methods, the papers' protocols, scores, reports and pictures."""

from ..czsl import (
    CZSLMetrics,
    FeasibilityThreshold,
    calibrate_scores,
    czsl_metrics,
    feasibility,
    feasibility_threshold,
    read_word_vectors,
)
from .baselines import (
    CLIPAdapter,
    GaussianDiscriminant,
    ImageEncoderFineTuning,
    LayerNormTuning,
    LinearProbe,
    LoRATuning,
    PromptEnsemble,
    TextBias,
    TextTransform,
    TipAdapter,
    TipAdapterF,
    TipValues,
    TowerTuning,
    TwoStage,
    ZeroShot,
    all_baselines,
)
from .compared_methods import Classifier, ComparedMethod, LabelledImages
from .compositions import composition, draw_pairs
from .confusion import format_confusion, format_per_class, write_confusion
from .fingerprints import clip_fingerprint
from .frozen_clip import FrozenCLIP
from .interpretation import nearest_words
from .metrics import metric_path
from .predictions import Predictions
from .prompt_learning import PromptClassifier, PromptLearning
from .prompt_training import predict_logits, train_prompt
from .protocols import ablation, base_to_new, cross_dataset, domain_generalisation, draw_images, few_shot
from .reports import (
    format_report,
    load_runs,
    plot_ablation,
    plot_base_to_new,
    plot_composition,
    plot_few_shot,
    plot_transfer,
    write_report,
)
from .scores import harmonic_mean, scores
from .word_tables import format_words, plot_words

__all__ = [
    "CLIPAdapter",
    "CZSLMetrics",
    "Classifier",
    "ComparedMethod",
    "FeasibilityThreshold",
    "FrozenCLIP",
    "GaussianDiscriminant",
    "ImageEncoderFineTuning",
    "LabelledImages",
    "LayerNormTuning",
    "LinearProbe",
    "LoRATuning",
    "Predictions",
    "PromptClassifier",
    "PromptEnsemble",
    "PromptLearning",
    "TextBias",
    "TextTransform",
    "TipAdapter",
    "TipAdapterF",
    "TipValues",
    "TowerTuning",
    "TwoStage",
    "ZeroShot",
    "ablation",
    "all_baselines",
    "base_to_new",
    "calibrate_scores",
    "clip_fingerprint",
    "composition",
    "cross_dataset",
    "czsl_metrics",
    "domain_generalisation",
    "draw_images",
    "draw_pairs",
    "feasibility",
    "feasibility_threshold",
    "few_shot",
    "format_confusion",
    "format_per_class",
    "format_report",
    "format_words",
    "harmonic_mean",
    "load_runs",
    "metric_path",
    "nearest_words",
    "plot_ablation",
    "plot_base_to_new",
    "plot_composition",
    "plot_few_shot",
    "plot_transfer",
    "plot_words",
    "predict_logits",
    "read_word_vectors",
    "scores",
    "train_prompt",
    "write_confusion",
    "write_report",
]
