"""The share of right predictions, as an `evaluate.Metric`."""

import datasets
import evaluate

from peft_coop.evaluation.scores import accuracy


class Accuracy(evaluate.Metric):
    """`compute(predictions=..., references=...)` gives "accuracy", a fraction. Both are classes as whole numbers."""

    def _info(self):
        features = datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")})
        return evaluate.MetricInfo(
            description="The share of right predictions.",
            citation="",
            inputs_description="predictions, references: classes as whole numbers, one for each image.",
            features=features,
        )

    def _compute(self, predictions, references):
        return {"accuracy": accuracy(predictions, references)}
