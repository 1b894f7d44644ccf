"""What transformers' pipelines need to serve a prompt classifier."""

from __future__ import annotations

from typing import Any

from transformers import ImageClassificationPipeline

from .heads import PromptClassifierOutput


class PromptImageClassificationPipeline(ImageClassificationPipeline):
    """transformers' image classification pipeline, for prompt classifiers and all other models.

    A pipeline cuts every tensor of an output into one part per image. A prompt classifier's `text_embeds` belong to
    the classes, not to the images, so the pipeline is given what belongs to images.
    """

    def _forward(self, model_inputs: Any) -> Any:
        outputs = super()._forward(model_inputs)
        return PromptClassifierOutput(logits=outputs.logits) if isinstance(outputs, PromptClassifierOutput) else outputs
