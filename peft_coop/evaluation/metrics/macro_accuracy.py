"""The mean over classes of each class's accuracy, as an `evaluate.Metric`."""

import datasets
import evaluate

from peft_coop.evaluation.scores import macro_accuracy


class MacroAccuracy(evaluate.Metric):
    """`compute(predictions=..., references=...)` gives "macro_accuracy", a fraction.

    Both are classes as whole numbers. Classes that do not occur among the references do not count.
    """

    def _info(self):
        features = datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")})
        return evaluate.MetricInfo(
            description="The mean of the accuracies of the single classes.",
            citation="",
            inputs_description="predictions, references: classes as whole numbers, one for each image.",
            features=features,
        )

    def _compute(self, predictions, references):
        return {"macro_accuracy": macro_accuracy(predictions, references)}
