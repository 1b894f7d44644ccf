"""Classifiers by hand-written prompts: zero-shot CLIP and prompt ensembling.

Shapes: N images, K classes, P projection width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...progress import stage
from ...towers import cosine_logits, encode_templates, normalize, scale_and_bias, text_reader
from ..compared_methods import Classifier, ComparedMethod, LabelledImages, Scorer, row_parts
from ..frozen_clip import FrozenCLIP
from ..templates import ensemble_templates, imagenet_templates

if TYPE_CHECKING:
    from datasets import Dataset


# Of so many classes the prompts are read together, where features are wanted of more.
CLASSES_AT_ONCE = 1024


def text_features(clip: FrozenCLIP, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Text features of hand-written prompts.

    Args:
        clip: the pretrained model, left as it is.
        class_names: the K classes; underscores become spaces.
        templates: prompts with "{}" for the name.

    Returns:
        `[K, P]`, float32, not normalised: the projected features of one template, or the mean of the normalised
        features of several.

    Raises:
        ValueError: if a template has no place for the name, a name is empty, or a prompt is too long for the model.
    """
    reader = text_reader(clip.model, clip.processor.tokenizer.name_or_path or None)
    return encode_templates(clip.model, class_names, templates, reader).float()


def text_logits(clip: FrozenCLIP, image_embeds: Tensor, features: Tensor) -> Tensor:
    """Logits `[N, K]` of normalised images `[N, P]` against text features `[K, P]` that need not be."""
    with torch.no_grad():  # nothing trains the scale
        scale, bias = scale_and_bias(clip.model, image_embeds)
    return cosine_logits(image_embeds, normalize(features), scale, bias)


class TextClassifier(Classifier):
    """Compares images with the text features of the class names.

    Args:
        clip: the model whose towers are compared.
        templates: hand-written prompts, averaged.
        change: what was learned to do with the text features, `[K, P]` to `[K, P]`.
        templates_of: gives the prompts for another dataset, by its name and its own template; None: that template.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        templates: Sequence[str],
        change: nn.Module | None = None,
        templates_of: Callable[[str, str], Sequence[str]] | None = None,
    ):
        self.clip = clip
        self.templates = list(templates)
        self.change = change or nn.Identity()
        self.templates_of = templates_of or (lambda data, own: [own])

    def for_data(self, data: str, zero_shot_template: str) -> TextClassifier:
        """With the prompts of that dataset, and what was learned."""
        templates = self.templates_of(data, zero_shot_template)
        return TextClassifier(self.clip, templates, self.change, self.templates_of)

    @torch.no_grad()
    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """Logits `[N, K]` over any classes."""
        features = self.change(text_features(self.clip, class_names, self.templates))
        return text_logits(self.clip, self.clip.image_embeds(images), features).cpu().numpy()

    @torch.no_grad()
    def scorer(self, class_names: Sequence[str]) -> Scorer:
        """See `Classifier.scorer`: the text features are computed once, in parts."""
        parts = []
        with stage("text features", len(class_names), "class") as progress:
            for start in range(0, len(class_names), CLASSES_AT_ONCE):
                names = class_names[start : start + CLASSES_AT_ONCE]
                parts.append(self.change(text_features(self.clip, names, self.templates)))
                progress.update(len(names))
        features = torch.cat(parts)

        def logits_of(images: Dataset) -> Iterator[np.ndarray]:
            embeds = self.clip.image_embeds(images)
            for rows in row_parts(len(embeds), len(features)):
                yield text_logits(self.clip, embeds[rows.start : rows.stop], features).detach().cpu().numpy()

        return logits_of

    def save(self, folder: Path) -> None:
        """Write what was learned, if anything was, to `change.safetensors`."""
        tensors = self.change.state_dict()
        if tensors:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / "change.safetensors")


class ZeroShot(ComparedMethod):
    """CLIP with the hand-written prompt that belongs to the data.

    Reference: CLIP (arXiv:2103.00020).
    """

    key = "zero-shot"
    name = "zero-shot CLIP"
    learns = False
    reads = "both"

    def settings(self) -> dict[str, Any]:
        """None: the template belongs to the data."""
        return {}

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> TextClassifier:
        """Take the data's template."""
        return TextClassifier(clip, [images.zero_shot_template])


class PromptEnsemble(ComparedMethod):
    """CLIP with the average of many hand-written prompts: of normalised text features, normalised again.

    The data's own template joins the 7 selected ones, except on ImageNet and its variants, whose templates these are.

    Args:
        all_templates: CLIP's 80 templates for ImageNet, and not the selected 7.
        with_own_template: also the data's own, where it is not among them.

    Reference: CLIP (arXiv:2103.00020), CoOp (arXiv:2109.01134).
    """

    learns = False
    reads = "both"

    def __init__(self, all_templates: bool = False, with_own_template: bool = True):
        self.key = "prompt-ensemble-80" if all_templates else "prompt-ensemble"
        self.name = "prompt ensemble, 80 templates" if all_templates else "prompt ensemble"
        self.all_templates = all_templates
        self.templates = imagenet_templates(selection=not all_templates)
        self.with_own_template = with_own_template

    def settings(self) -> dict[str, Any]:
        """How many templates, and whether the data's own joins them."""
        return {"num_templates": len(self.templates), "with_own_template": self.with_own_template}

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> TextClassifier:
        """Gather the templates."""
        templates = self.templates_of(images.data, images.zero_shot_template)
        return TextClassifier(clip, templates, templates_of=self.templates_of)

    def templates_of(self, data: str | None, own: str) -> list[str]:
        """The templates that are averaged for a dataset, by its name and its own template."""
        return ensemble_templates(data, own, self.all_templates) if self.with_own_template else self.templates
