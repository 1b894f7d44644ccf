"""PromptSRC (arXiv:2307.06948): prompts in both towers, held to the frozen model's features and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..prompts import PromptSequences, check_template
from ..recipes import Recipe
from .base import LossTerm, Method, Step
from .config import check_number
from .ivlp import IVLPConfig, IVLPPrompt
from .prompt_aggregation import PromptAggregation

DEPTH = 9
# Datasets whose few-shot configuration has another aggregation than the others'.
LATE_AND_NARROW = ("stanford_cars", "oxford_flowers", "fgvc_aircraft", "dtd", "eurosat")


@dataclass(eq=False)
class PromptSRCConfig(IVLPConfig):
    """Settings of PromptSRC: IVLP's prompts, with three further terms of the loss, and a mean over epochs in the end.

    Args:
        n_ctx: number of context vectors at each layer of the text tower.
        n_ctx_vision: number of vectors among an image's tokens; 0 for none.
        prompt_depth: layers of the text tower with vectors of their own; None: 9, or as many as it has.
        prompt_depth_vision: likewise of the vision tower.
        text_loss_weight: of the mean absolute difference of text features to the frozen model's; 0 reports it and does
            not add it, as for the next two.
        image_loss_weight: of that of image features.
        logit_loss_weight: of the divergence of the probabilities from the frozen model's.
        teacher_templates: the prompts, with "{}" for the name, of which the frozen model's text features are the mean;
            None: 60 of CLIP's for ImageNet.
        aggregation_mean: the epoch that counts most in the end, see `PromptAggregation`, which the Trainer is to be
            given.
        aggregation_std: how far around it others count, in epochs.

    Others as `IVLPConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: PromptSRC (arXiv:2307.06948), whose lambda_1 and lambda_2 are `image_loss_weight` and `text_loss_weight`.
    """

    n_ctx: int | None = field(default=4, metadata={"help": "Context vectors at each layer that has some."})
    n_ctx_vision: int = field(
        default=4, metadata={"help": "Vectors among an image's tokens; 0: the text tower alone has prompts."}
    )
    text_loss_weight: float = field(
        default=25.0, metadata={"help": "Weight of the text features' distance to the frozen model's."}
    )
    image_loss_weight: float = field(
        default=10.0, metadata={"help": "Weight of the image features' distance to the frozen model's."}
    )
    logit_loss_weight: float = field(
        default=1.0, metadata={"help": "Weight of the probabilities' divergence from the frozen model's."}
    )
    teacher_templates: list[str] | None = field(
        default=None, metadata={"help": "Prompts of the frozen model, {} for the name; None: 60 of CLIP's."}
    )
    aggregation_mean: float = field(
        default=15.0, metadata={"help": "The epoch that counts most in the mean over epochs."}
    )
    aggregation_std: float = field(default=1.0, metadata={"help": "How far around it others count, in epochs."})

    method = "promptsrc"
    needs_one_label = "the frozen model's probabilities are a softmax over the classes, of which an image has one"
    depth: ClassVar[int] = DEPTH

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_loss_weight", "image_loss_weight", "logit_loss_weight"):
            setattr(self, name, check_number(getattr(self, name), name))
        for name in ("aggregation_mean", "aggregation_std"):
            setattr(self, name, check_number(getattr(self, name), name, above_zero=True))
        self._check_teacher()

    def _check_teacher(self) -> None:
        templates = self.teacher_templates
        if templates is None:
            return
        if isinstance(templates, str) or not isinstance(templates, list | tuple) or not templates:
            raise ValueError(f"`teacher_templates` must be a list of one template or more, or None; got {templates!r}.")
        for template in templates:
            check_template(template, "`teacher_templates`", "a photo of a {}.")
        self.teacher_templates = list(templates)


class PromptSRCPrompt(IVLPPrompt):
    """IVLP's vectors; in training, the frozen model's features and answers hold the learned ones near them.

    Reference: PromptSRC (arXiv:2307.06948).
    """

    settings: PromptSRCConfig

    def teacher_texts(self, class_names: Sequence[str]) -> list[PromptSequences]:
        """See `Prompt.teacher_texts`: in every one of `teacher_templates`."""
        templates = self.settings.teacher_templates or clip_templates()
        return [self.reader.hand_written(class_names, template) for template in templates]

    def check_taught(self, class_names: Sequence[str]) -> None:
        """See `Prompt.check_taught`: every one of `teacher_templates` must fit."""
        try:
            self.teacher_texts(class_names)
        except ValueError as error:
            raise ValueError(
                f"{error} It is one of `teacher_templates`, which training needs: give others, or, to classify and not "
                "to train, make the adapter one for inference (`inference_mode=True`, in its config or `set_adapter`)."
            ) from error

    def extra_losses(self, step: Step) -> dict[str, LossTerm]:
        """See `Prompt.extra_losses`.

        "text" and "image" are the mean absolute differences of unit features to the frozen model's, of the same images;
        "logit" is the divergence of the probabilities from the frozen model's, divided by images times classes.
        """
        config = self.settings
        texts, images = step.teacher_text_embeds(), step.zero_shot_image_embeds()
        return {
            "text": LossTerm((step.text_embeds - texts).abs().mean(), config.text_loss_weight),
            "image": LossTerm((step.image_embeds - images).abs().mean(), config.image_loss_weight),
            "logit": LossTerm(divergence(step.logits, step.compare(images, texts)), config.logit_loss_weight),
        }


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of probabilities from a teacher's, a scalar: the mean over images and classes, not their sum.

    Args:
        logits: `[B, C]`.
        teacher: `[B, C]`.
    """
    there, here = teacher.log_softmax(-1), logits.log_softmax(-1)
    return (there.exp() * (there - here)).mean()


@cache
def clip_templates() -> list[str]:
    """The 60 templates of the frozen model."""
    file = Path(__file__).with_name("promptsrc_templates.json")
    return json.loads(file.read_text(encoding="utf-8"))["templates"]


def recipe(num_shots: int, data: str | None, protocol: str) -> Recipe:
    """SGD at 0.0025 in batches of 4: 50 epochs for few-shot classification, otherwise 20."""
    num_epochs = 50 if protocol in ("few-shot", "ablation") else 20
    return Recipe(num_epochs, batch_size=4, learning_rate=0.0025)


def fields_of_data(protocol: str, data: str | None) -> Mapping[str, Any]:
    """The papers' depths and mean over epochs."""
    if protocol in ("cross-dataset", "domain"):
        return {"prompt_depth": 3, "prompt_depth_vision": 3, "aggregation_mean": 6.0, "aggregation_std": 10.0}
    if protocol in ("few-shot", "ablation"):
        mean, std = (45.0, 5.0) if data in LATE_AND_NARROW else (30.0, 30.0)
        return {"aggregation_mean": mean, "aggregation_std": std}
    return {}


PROMPTSRC = Method(
    key="promptsrc",
    title="PromptSRC",
    config=PromptSRCConfig,
    prompt=PromptSRCPrompt,
    reference="2307.06948",
    recipe_of=recipe,
    fields_of_data=fields_of_data,
    callbacks_of=lambda config, recipe: [
        PromptAggregation(recipe.num_epochs, config.aggregation_mean, config.aggregation_std)
    ],
    summary="at each of many layers, held near the frozen model",
    colour="#4b6cb7",
)
