"""Compositional zero-shot accuracy over all biases, as an `evaluate.Metric`."""

import datasets
import evaluate

from peft_coop.czsl import czsl_metrics

CITATION = """\
@inproceedings{nayak2023csp,
  title = {Learning to Compose Soft Prompts for Compositional Zero-Shot Learning},
  author = {Nayak, Nihal V. and Yu, Peilin and Bach, Stephen H.},
  booktitle = {ICLR},
  year = {2023}
}
"""


class CZSL(evaluate.Metric):
    """`compute(predictions=..., references=..., pair_ids=..., seen=..., candidates=...)` gives fractions and a bias.

    Predictions are rows of scores, one over all pairs for each image; references are columns as whole numbers. The
    others, and `topk=1` and `reference_quirks=False`, are those of `peft_coop.czsl_metrics`, as are the results, but
    for the curve. `evaluate` keeps all rows until then: of many pairs, take `peft_coop.CZSLMetrics`.
    """

    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="Accuracy on seen and on unseen pairs of attribute and object over all biases between the two.",
            citation=CITATION,
            inputs_description="predictions: rows of scores over all pairs; references: columns as whole numbers.",
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references, pair_ids, seen, candidates, topk=1, reference_quirks=False):
        results = czsl_metrics(predictions, references, pair_ids, seen, candidates, topk, reference_quirks)
        return {name: value for name, value in results.items() if name != "curve"}
