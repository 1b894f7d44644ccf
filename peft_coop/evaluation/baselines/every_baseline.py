"""Every baseline."""

from __future__ import annotations

from typing import Any

from ...recipes import LEARNING_RATE
from ..compared_methods import ComparedMethod
from .clip_adapter import CLIPAdapter
from .fine_tuning import ENCODER_LEARNING_RATE, ImageEncoderFineTuning, TextBias, TextTransform
from .gaussian_discriminant import GaussianDiscriminant
from .hand_written_prompts import PromptEnsemble, ZeroShot
from .linear_probe import LinearProbe
from .tip_adapter import TipAdapter, TipAdapterF
from .tower_tuning import TOWER_LEARNING_RATE, LayerNormTuning, LoRATuning
from .two_stage import TwoStage


def all_baselines(
    learning_rate: float = LEARNING_RATE,
    encoder_learning_rate: float = ENCODER_LEARNING_RATE,
    data: str | None = None,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    augment: bool = False,
    flip: bool = True,
    views: int | None = None,
    num_workers: int = 0,
    tower_learning_rate: float = TOWER_LEARNING_RATE,
) -> list[ComparedMethod]:
    """Every baseline, from no learned weight to many; their `key` tells them apart.

    Args:
        learning_rate: of what is learned on text or image features, with SGD.
        encoder_learning_rate: of the image encoder, with AdamW.
        data: the dataset's name, for the papers' numbers.
        num_epochs: of the eight that learn by gradient descent; None: the papers' numbers.
        batch_size: of the same eight; None: their own.
        augment: train the image encoder, and both towers, on random crops and flips; the others learn from features
            computed once.
        flip: whether the augmentation and `views` mirror images.
        views: augmented views of each image for what learns on features: by gradient descent from another one in every
            epoch, and otherwise from all. None: the images as they are. The linear probe always has these, as in the
            papers.
        num_workers: processes that load the images of views.
        tower_learning_rate: of both towers, tuned by PEFT's methods, with AdamW.

    Raises:
        ValueError: if a number is not above 0.
    """
    recipe: dict[str, Any] = {"data": data, "num_epochs": num_epochs}
    of_views: dict[str, Any] = {"views": views, "flip": flip, "num_workers": num_workers}
    if batch_size is not None:
        recipe["batch_size"] = batch_size
    of_pixels: dict[str, Any] = {"augment": augment, "flip": flip}
    of_towers = {name: value for name, value in recipe.items() if name != "data"} | of_pixels
    return [
        ZeroShot(),
        PromptEnsemble(),
        PromptEnsemble(all_templates=True),
        TipAdapter(data=data, **of_views),
        GaussianDiscriminant(data, **of_views),
        TextBias(learning_rate, **recipe, **of_views),
        TextTransform(learning_rate, **recipe, **of_views),
        CLIPAdapter(learning_rate, **recipe, **of_views),
        LinearProbe(),
        TipAdapterF(**recipe, **of_views),
        LayerNormTuning(tower_learning_rate, **of_towers),
        TwoStage(tower_learning_rate, **of_towers),
        LoRATuning(tower_learning_rate, **of_towers),
        ImageEncoderFineTuning(encoder_learning_rate, **recipe, **of_pixels),
    ]
