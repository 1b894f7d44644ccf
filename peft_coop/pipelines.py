"""What transformers' pipelines need to serve a prompt classifier."""

from __future__ import annotations

from typing import Any

from transformers import ImageClassificationPipeline
from transformers.pipelines.image_classification import ClassificationFunction

from .heads import PromptClassifierOutput
from .models import OTHER, decided_logits


class PromptImageClassificationPipeline(ImageClassificationPipeline):
    """transformers' image classification pipeline, for prompt classifiers and all other models.

    A pipeline cuts every tensor of an output into one part per image. A prompt classifier's `text_embeds` belong to
    the classes, not to the images, so the pipeline is given what belongs to images.

    Probabilities are those that the prompt decides by: at its temperature, and with an entry "other" where it has other
    names. `function_to_apply="none"` gives the logits of the classes as forward has them.
    """

    def _forward(self, model_inputs: Any) -> Any:
        others = self._decision().get("other_names")
        if others:
            model_inputs = {**model_inputs, "class_names": [*self.model.class_names, *others]}
        outputs = super()._forward(model_inputs)
        return PromptClassifierOutput(logits=outputs.logits) if isinstance(outputs, PromptClassifierOutput) else outputs

    def postprocess(
        self, model_outputs: Any, function_to_apply: ClassificationFunction | None = None, top_k: int | None = 5
    ) -> list[dict[str, Any]]:
        """See transformers' own; `top_k` None is all."""
        decision = self._decision()
        if all(value is None for value in decision.values()):
            return super().postprocess(model_outputs, function_to_apply, top_k)
        n_cls, logits = len(self.model.class_names), model_outputs["logits"]
        if function_to_apply not in (None, ClassificationFunction.SOFTMAX) or self.model.judges_each_class:
            temperature = (
                1.0 if function_to_apply == ClassificationFunction.NONE else decision["calibration_temperature"]
            )
            of_classes = decided_logits(logits[..., :n_cls], n_cls, temperature)
            return super().postprocess({"logits": of_classes}, function_to_apply, top_k)
        probabilities = decided_logits(logits, n_cls, decision["calibration_temperature"]).softmax(-1)[0].tolist()
        names = [*self.model.class_names, OTHER]
        rows = [{"label": name, "score": score} for name, score in zip(names, probabilities, strict=False)]
        return sorted(rows, key=lambda row: row["score"], reverse=True)[:top_k]

    def _decision(self) -> dict[str, Any]:
        """What the prompt decides by; empty for models without one."""
        return getattr(self.model, "decision", {}) if hasattr(self.model, "prompt_layer") else {}
