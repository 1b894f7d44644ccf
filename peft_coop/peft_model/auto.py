"""Adapter and base model in one call, for each task."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.auto import _BaseAutoPeftModel
from transformers import AutoModel

from ..methods import PromptConfig
from .adapters import PeftModelWithPrompts
from .tasks import PeftModelForImageClassification, PeftModelForSemanticSegmentation, PeftModelForVideoClassification


class _AutoPeftModelWithPrompts(_BaseAutoPeftModel):
    _target_class = AutoModel

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PeftConfig | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> PeftModelWithPrompts:
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
            config = PromptConfig.from_pretrained(pretrained_model_name_or_path, revision=revision, **kwargs)
        if not config.base_model_name_or_path:
            raise ValueError(
                f"The adapter {str(pretrained_model_name_or_path)!r} does not name its base model: load that yourself "
                "and use `PeftModel.from_pretrained(base_model, adapter)`."
            )
        base = cls._target_class.from_pretrained(config.base_model_name_or_path, revision=config.revision, **kwargs)
        return cls._target_peft_class.from_pretrained(
            base, pretrained_model_name_or_path, adapter_name, is_trainable, revision=revision, **kwargs
        )


class AutoPeftModelForImageClassification(_AutoPeftModelWithPrompts):
    """Loads an adapter together with the base model that its config names."""

    _target_peft_class = PeftModelForImageClassification


class AutoPeftModelForVideoClassification(_AutoPeftModelWithPrompts):
    """Loads an adapter for videos together with the base model that its config names."""

    _target_peft_class = PeftModelForVideoClassification


class AutoPeftModelForSemanticSegmentation(_AutoPeftModelWithPrompts):
    """Loads an adapter for segmentation together with the base model that its config names."""

    _target_peft_class = PeftModelForSemanticSegmentation
