"""Mean intersection over union of predicted masks, as an `evaluate.Metric`."""

import datasets
import evaluate
import numpy as np

from peft_coop.evaluation.segmentation_scores import PixelCounts, check_maps


class MeanIoU(evaluate.Metric):
    """`compute(predictions=..., references=..., num_labels=K, ignore_index=255)` gives fractions, pooled over images.

    Predictions and references are maps of classes as whole numbers, one `[H, W]` for each image, of any sizes. With
    `reduce_labels=True` 0 is no class in the references, and the classes count from 1. `nan_to_num` stands for the
    scores of classes that are not there. Results are called as those of the metric `mean_iou` on the Hub.

    What is kept of an image is how often which class was predicted as which, so that any number of them can be added.
    """

    def _info(self):
        features = {name: datasets.Value("int64") for name in ("predictions", "references", "pixels")}
        return evaluate.MetricInfo(
            description="Intersection over union of each class, over the pixels of all images, and its mean.",
            citation="",
            inputs_description="predictions, references: a map of classes as whole numbers for each image.",
            features=datasets.Features(features),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add maps of several images."""
        if kwargs:
            raise ValueError(f"The inputs are predictions and references, got {', '.join(kwargs)}, too.")
        if len(predictions) != len(references):
            raise ValueError(f"There are {len(predictions)} predictions and {len(references)} references.")
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add the maps of one image."""
        predicted, true = np.asarray(prediction), np.asarray(reference)
        check_maps(predicted, true)
        pairs, counts = np.unique(np.stack([predicted.ravel(), true.ravel()]), axis=1, return_counts=True)
        super().add_batch(predictions=pairs[0], references=pairs[1], pixels=counts)

    def compute(self, *, predictions=None, references=None, **kwargs):
        """The scores of all images that were added, and of these."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        return super().compute(**kwargs)

    def _compute(
        self, predictions, references, pixels, num_labels, ignore_index=255, nan_to_num=None, reduce_labels=False
    ):
        predicted, true = np.array(predictions), np.array(references)
        if reduce_labels:
            true = np.where((true == 0) | (true == ignore_index), ignore_index, true - 1)
        counts = PixelCounts(num_labels, ignore_index)
        counts.add(predicted, true, pixels)
        scores = counts.scores()
        if nan_to_num is not None:
            scores = {name: np.nan_to_num(value, nan=nan_to_num).tolist() for name, value in scores.items()}
        return scores
