"""Expected calibration error, as an `evaluate.Metric`."""

import datasets
import evaluate

from peft_coop.evaluation.scores import expected_calibration_error

CITATION = """\
@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {ICML},
  year = {2017}
}
"""


class ECE(evaluate.Metric):
    """`compute(predictions=..., references=..., num_bins=15)` gives "ece", a fraction.

    Predictions are rows of probabilities, one over all classes for each image; references are classes as whole numbers.
    """

    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="How far the probability of the predicted class is from the share of right predictions.",
            citation=CITATION,
            inputs_description="predictions: rows of probabilities; references: classes as whole numbers.",
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references, num_bins=15):
        return {"ece": expected_calibration_error(predictions, references, num_bins)}
