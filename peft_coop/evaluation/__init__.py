"""Training runs, the papers' protocols, plots."""

from .plots import plot_few_shot
from .protocols import BaseToNew, FewShotCurve, base_to_new, few_shot_curve
from .training import TrainingPlan, draw_shots, learn_prompt, zero_shot_accuracy

__all__ = [
    "BaseToNew",
    "FewShotCurve",
    "TrainingPlan",
    "base_to_new",
    "draw_shots",
    "few_shot_curve",
    "learn_prompt",
    "plot_few_shot",
    "zero_shot_accuracy",
]
