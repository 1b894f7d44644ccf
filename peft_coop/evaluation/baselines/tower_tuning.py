"""Both towers tuned by PEFT's own methods, with the texts of the class names as the classifier.

Shapes: N training images, B of them, K classes, P projection width.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from peft import LNTuningConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...recipes import Recipe, trainable
from ...towers import (
    attention_projections,
    computing_dtype,
    layer_norms,
    normalize,
    text_reader,
    text_tower,
    token_embedding,
)
from ..compared_methods import ComparedMethod, LabelledImages, TimedSteps, identifying_fields
from ..frozen_clip import FrozenCLIP
from .gradient_method import training_labels
from .hand_written_prompts import TextClassifier, text_logits
from .training_loop import seeded, train
from .training_pixels import training_pixels

TOWER_LEARNING_RATE = 2e-4
LAST_LEARNING_RATE = 1e-6
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class TowerTuning(ComparedMethod):
    """Both towers, tuned by one of PEFT's methods, against the texts of the data's template.

    The texts pass through the text tower in every step, for it learns, too. What is tuned is in float32, or in float64
    in a float64 model. Only what the method itself drops out is dropped: the towers stay in evaluation mode. To compare
    another one of PEFT's methods, give a subclass `key`, `name` and `make_config`.

    Args:
        learning_rate: of AdamW, with a weight decay of 0.01; a cosine from there to 1e-6, over all steps.
        num_epochs: passes over the images; None: `steps_per_shot` steps for each image that a class has.
        batch_size: images per step; the last one of an epoch may have fewer.
        augment: train on random crops and flips, as the papers do.
        flip: whether the augmentation mirrors images.

    Raises:
        ValueError: if a number is not above 0.
    """

    learning_rate: float = TOWER_LEARNING_RATE
    num_epochs: int | None = None
    batch_size: int = 32
    augment: bool = False
    flip: bool = True

    changes_vision = True
    steps_per_shot: ClassVar[int] = 300

    def __post_init__(self) -> None:
        self._recipe(1 if self.num_epochs is None else self.num_epochs)  # what is wrong with the numbers is said here

    def settings(self) -> dict[str, Any]:
        """See `identifying_fields`."""
        return identifying_fields(self)

    @abstractmethod
    def make_config(self, model: nn.Module) -> PeftConfig:
        """PEFT's config of the method, for a dual encoder.

        Raises:
            ValueError: if the model's towers have not what it tunes.
        """

    def training_steps(self, images: LabelledImages) -> int:
        """See `ComparedMethod.training_steps`."""
        if self.num_epochs is None:
            return self.steps_per_shot * images.num_shots
        return self.num_epochs * self._recipe(1).steps_per_epoch(len(images.train))

    def timed_steps(self, clip: FrozenCLIP, images: LabelledImages) -> TimedSteps:
        """Forwards and backwards through both towers."""
        batch = min(self.batch_size, len(images.train))

        def make_step() -> Callable[[], None]:
            base, pixels = self.wrap(clip, seed=0).get_base_model(), clip.blank_images(batch)
            texts, labels = class_texts(base, clip, images), torch.zeros(batch, dtype=torch.long, device=clip.device)
            return lambda: F.cross_entropy(text_logits(clip, embeds(base, pixels), texts()), labels).backward()

        return TimedSteps(self.training_steps(images), batch, make_step)

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> TunedClassifier:
        """Tune a copy of the model.

        Raises:
            ValueError: if there is no training image or one cannot be read, a prompt is too long, or the model's towers
                have not what is tuned.
        """
        model = self.tune(clip, images, seed, folder, self.training_steps(images))
        return TunedClassifier(tuned_clip(model, clip), images.zero_shot_template, model)

    def tune(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path, num_steps: int) -> PeftModel:
        """Take some steps; the adapter is PEFT's "default", in a copy of the model."""
        labels = training_labels(self, images).to(clip.device)
        pixels_of = training_pixels(clip, images.train, seed, self.augment, self.flip)
        model = self.wrap(clip, seed)
        base = model.get_base_model()
        texts = class_texts(base, clip, images)

        def loss_of(indices: Tensor, epoch: int) -> Tensor:
            image_embeds = embeds(base, pixels_of(indices, epoch))
            return F.cross_entropy(text_logits(clip, image_embeds, texts()), labels[indices])

        optimizers = self.optimizers(trainable(model.parameters()), num_steps)
        self.run(loss_of, len(labels), optimizers, seed, folder, num_steps)
        text_tower(base).remove()
        return model.eval().requires_grad_(False)

    def wrap(self, clip: FrozenCLIP, seed: int) -> PeftModel:
        """A copy of the model with the adapter, as it is before the first step."""
        base = deepcopy(clip.model).requires_grad_(False)
        base = base.to(computing_dtype(token_embedding(base).weight)).eval()
        config = self.make_config(base)
        with seeded(seed, [clip.device]), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Unsupported layer type"
            )  # PEFT's, of each norm that its own method tunes
            model = get_peft_model(base, config)
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.train()
        return model

    def optimizers(self, parameters: list[nn.Parameter], num_steps: int) -> tuple[Optimizer, CosineAnnealingLR]:
        """AdamW, and a cosine over the steps."""
        optimizer = AdamW(parameters, lr=self.learning_rate, weight_decay=WEIGHT_DECAY)
        return optimizer, CosineAnnealingLR(optimizer, num_steps, eta_min=LAST_LEARNING_RATE)

    def run(
        self,
        loss_of: Callable[[Tensor, int], Tensor],
        num_images: int,
        optimizers: tuple[Optimizer, CosineAnnealingLR],
        seed: int,
        folder: Path,
        num_steps: int,
    ) -> None:
        """Take some steps, see `train`."""
        num_epochs = math.ceil(num_steps / self._recipe(1).steps_per_epoch(num_images))
        train(loss_of, num_images, self._recipe(num_epochs), optimizers, seed, folder, num_steps)

    def _recipe(self, num_epochs: int) -> Recipe:
        return Recipe(num_epochs, self.batch_size, self.learning_rate, keep_last=True)


@dataclass(frozen=True)
class LoRATuning(TowerTuning):
    """CLIP-LoRA: low-rank changes of queries, keys and values in every layer of both towers.

    The changes are scaled by alpha / sqrt(rank), as in its code. Where that has 100 as the logits' scale, here it is
    the model's own.

    Args:
        learning_rate: of AdamW, with a weight decay of 0.01; a cosine from there to 1e-6, over all steps.
        num_epochs: passes over the images; None: 500 steps for each image that a class has.
        batch_size: images per step; the last one of an epoch may have fewer.
        augment: train on random crops and flips, as the paper does.
        flip: whether the augmentation mirrors images.
        rank: of the changes.
        alpha: of their scale.
        dropout: the share of what a change reads that is dropped while it learns.

    Raises:
        ValueError: if a number is not above 0, or `dropout` is no share.

    Reference: CLIP-LoRA (arXiv:2405.18541) and its code.
    """

    rank: int = 2
    alpha: float = 1
    dropout: float = 0.25

    key = "lora"
    name = "LoRA"
    steps_per_shot = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ValueError(f"`rank` must be 1 or more, got {self.rank}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be 0 or more and below 1, got {self.dropout}.")

    def make_config(self, model: nn.Module) -> LoraConfig:
        """See `TowerTuning.make_config`."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=True,
            target_modules=attention_projections(model),
        )


class LayerNormTuning(TowerTuning):
    """The scales and shifts of every normalisation of both towers: LayerNorm, or RMSNorm in AIMv2.

    See `TowerTuning` for the arguments. The settings are those of the two-stage recipe, whose first stage this is.

    Reference: 2SFS (arXiv:2503.11609) and its code; LayerNorm tuning (arXiv:2312.11420).
    """

    key = "layer-norm"
    name = "LayerNorm tuning"

    def make_config(self, model: nn.Module) -> LNTuningConfig:
        """See `TowerTuning.make_config`."""
        return LNTuningConfig(target_modules=layer_norms(model))


def class_texts(model: nn.Module, clip: FrozenCLIP, images: LabelledImages) -> Callable[[], Tensor]:
    """What encodes the classes' texts, `[K, P]`, not normalised, by the tower as it is, with gradients.

    Args:
        model: a dual encoder of one's own; its text tower is made ready for it until `remove` is called.
        clip: whose tokenizer reads the texts.
        images: with the class names and the template.

    Raises:
        ValueError: if a text is too long.
    """
    reader, tower = text_reader(model, clip.processor.tokenizer.name_or_path or None), text_tower(model)
    prompts = tower.prepare(reader.hand_written(images.class_names, images.zero_shot_template))
    tower.install()
    return lambda: tower.encode(prompts)


def embeds(model: nn.Module, pixels: dict[str, Tensor]) -> Tensor:
    """Normalised image features `[B, P]`, by the tower as it is."""
    return normalize(model.get_image_features(**pixels).pooler_output)


class TunedClassifier(TextClassifier):
    """Compares images with the texts of the class names, by tuned towers.

    Args:
        clip: the tuned model.
        template: the hand-written prompt.
        model: the same, with PEFT's adapter.
    """

    def __init__(self, clip: FrozenCLIP, template: str, model: PeftModel):
        super().__init__(clip, [template])
        self.model = model

    def save(self, folder: Path) -> None:
        """Write the adapter, which `peft.PeftModel.from_pretrained` puts into the model again."""
        self.model.save_pretrained(folder)


def tuned_clip(model: PeftModel, clip: FrozenCLIP) -> FrozenCLIP:
    """A tuned copy of a pretrained model in its place."""
    return FrozenCLIP(model.get_base_model(), clip.processor, clip.name, clip.batch_size)
