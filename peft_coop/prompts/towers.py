"""Where each model family keeps the parts of its text tower: data, so that no forward has to look."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class TextTowerFamily:
    """Names of the parts of a causal text tower, from the dual encoder down.

    Attributes:
        model_class: name of the dual encoder's class in transformers.
        text_model: attribute of the dual encoder that holds the text tower.
        embeddings: attribute of the text tower that turns ids into hidden states.
        text_projection: attribute of the dual encoder that projects the pooled state.
        vision_model: attribute of the dual encoder that holds the vision tower.
        visual_projection: attribute of the dual encoder that projects an image's pooled state.
    """

    model_class: str
    text_model: str = "text_model"
    embeddings: str = "embeddings"
    text_projection: str = "text_projection"
    vision_model: str = "vision_model"
    visual_projection: str = "visual_projection"

    @property
    def embeddings_path(self) -> str:
        """Dotted name of the module that the tuner wraps."""
        return f"{self.text_model}.{self.embeddings}"


FAMILIES = {
    "clip": TextTowerFamily(model_class="CLIPModel"),
    "metaclip_2": TextTowerFamily(model_class="MetaClip2Model"),
}


def find_family(model: nn.Module) -> TextTowerFamily:
    """Look up the family of a dual encoder.

    Raises:
        ValueError: if the model is of another family, or is only one tower of a dual encoder.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    supported = ", ".join(f"{family.model_class} ({name!r})" for name, family in FAMILIES.items())
    got = f"{type(model).__name__} (model type {model_type!r})"
    family = FAMILIES.get(model_type or "")
    if family is None:
        raise ValueError(f"Prompts can be learned for {supported}; got {got}.")
    missing = [
        part for part in (family.text_model, family.text_projection, family.vision_model) if not hasattr(model, part)
    ]
    if missing:
        raise ValueError(
            f"A prompt classifier needs a dual encoder with a text tower and a vision tower, and {got} has no "
            f"{', no '.join(f'`{part}`' for part in missing)}. Load the checkpoint as {family.model_class}."
        )
    return family
