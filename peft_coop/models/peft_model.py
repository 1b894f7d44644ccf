"""The `PeftModel` that `get_peft_model` and `PeftModel.from_pretrained` return for a prompt."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig, PeftModel
from peft.auto import _BaseAutoPeftModel
from torch import Tensor, nn
from transformers import AutoModel


class PeftModelForImageClassification(PeftModel):
    """A dual encoder with learned prompts, as an image classifier.

    What forward takes and returns is documented at `PromptClassifierMixin`, the class of the model inside; the
    classifier's other methods (`set_classes`, `class_names`, `get_text_features`, …) are reached from here as well.
    """

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        image_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ):
        """Classify images into the active adapter's classes.

        Shapes: B images, C classes, N given texts, P projection width.

        Args:
            pixel_values: `[B, 3, H, W]`.
            labels: `[B]`, integers from 0 to C-1.
            image_embeds: `[B, P]`, instead of `pixel_values`; normalised or not.
            input_ids: `[N, L]`: compare the images with these texts, the learned context put into them.
            attention_mask: `[N, L]`, accepted with `input_ids`.

        Returns:
            A `PromptClassifierOutput` with `logits` `[B, C]`; with `input_ids` a `CLIPOutput`.
        """
        given = {"pixel_values": pixel_values, "labels": labels, "image_embeds": image_embeds}
        given |= {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        return super().forward(**given)

    def get_base_model(self) -> nn.Module:
        """The dual encoder; also after the last adapter was deleted."""
        return self.base_model.model

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Load a trained adapter, as `PeftModel.load_adapter`; if that fails, the model is left as it was."""
        is_new = adapter_name not in self.peft_config
        try:
            result = super().load_adapter(model_id, adapter_name, *args, **kwargs)
        except Exception:
            if is_new and adapter_name in self.peft_config:
                self.delete_adapter(adapter_name)
            elif not is_new and self.peft_config[adapter_name].awaits_weights:
                self.base_model.unload()  # `from_pretrained` wrapped the base model for these weights
            raise
        self.peft_config[adapter_name].awaits_weights = False
        return result


class AutoPeftModelForImageClassification(_BaseAutoPeftModel):
    """Loads an adapter together with the base model that its config names."""

    _target_class = AutoModel
    _target_peft_class = PeftModelForImageClassification

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PeftConfig | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> PeftModelForImageClassification:
        """Load base model and adapter.

        Args:
            pretrained_model_name_or_path: folder or Hub name of the adapter.
            adapter_name: what to call it.
            is_trainable: whether its context can be trained further.
            config: its config, if loaded already.
            revision: the adapter's revision on the Hub.
            kwargs: passed to `AutoModel.from_pretrained` and `PeftModel.from_pretrained`.

        Raises:
            ValueError: if the adapter does not name its base model.
        """
        if config is None:
            config = PeftConfig.from_pretrained(pretrained_model_name_or_path, revision=revision, **kwargs)
        if not config.base_model_name_or_path:
            raise ValueError(
                f"The adapter {str(pretrained_model_name_or_path)!r} does not name its base model: load that yourself "
                "and use `PeftModel.from_pretrained(base_model, adapter)`."
            )
        base = cls._target_class.from_pretrained(config.base_model_name_or_path, revision=config.revision, **kwargs)
        return cls._target_peft_class.from_pretrained(
            base, pretrained_model_name_or_path, adapter_name, is_trainable, revision=revision, **kwargs
        )
