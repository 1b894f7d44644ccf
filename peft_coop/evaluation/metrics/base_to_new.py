"""Accuracy on base and on new classes and their harmonic mean, as an `evaluate.Metric`."""

import datasets
import evaluate
import numpy as np

from peft_coop.evaluation.scores import accuracy, harmonic_mean

CITATION = """\
@inproceedings{zhou2022cocoop,
  title = {Conditional Prompt Learning for Vision-Language Models},
  author = {Zhou, Kaiyang and Yang, Jingkang and Loy, Chen Change and Liu, Ziwei},
  booktitle = {CVPR},
  year = {2022}
}
"""


class BaseToNew(evaluate.Metric):
    """`compute(predictions=..., references=..., is_new=...)` gives "base_accuracy", "new_accuracy" and "harmonic_mean".

    All are fractions. Predictions and references are classes as whole numbers. `is_new` says of each image whether it
    was classified among the new classes: both parts may count their classes from 0. Both must have an image.
    """

    def _info(self):
        classes = datasets.Value("int64")
        features = {"predictions": classes, "references": classes, "is_new": datasets.Value("bool")}
        return evaluate.MetricInfo(
            description="Accuracy on the classes learned and on others, and the harmonic mean of the two.",
            citation=CITATION,
            inputs_description="predictions, references: classes as whole numbers; is_new: of a new class or not.",
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references, is_new):
        predicted, true, new = np.array(predictions), np.array(references), np.array(is_new, dtype=bool)
        if new.all() or not new.any():
            raise ValueError(
                f"`is_new` must be true of some images and false of others, got {int(new.sum())} of {len(new)}."
            )
        base_accuracy, new_accuracy = (accuracy(predicted[part], true[part]) for part in (~new, new))
        return {
            "base_accuracy": base_accuracy,
            "new_accuracy": new_accuracy,
            "harmonic_mean": harmonic_mean(base_accuracy, new_accuracy),
        }
