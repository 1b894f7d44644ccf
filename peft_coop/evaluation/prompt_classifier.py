"""A learned prompt as a classifier of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import PeftModel

from ..models import encode_in_parts
from ..towers import cosine_logits, scale_and_bias
from .compared_methods import Classifier, Scorer, columns_of, row_parts
from .frozen_clip import FrozenCLIP
from .prompt_training import BATCH_SIZE, PIXEL_BATCH_SIZE, predict_logits, predict_logits_of_pixels

if TYPE_CHECKING:
    from datasets import Dataset

# Of so many classes the prompts are read together, where features are wanted of more.
CLASSES_AT_ONCE = 1024


class PromptClassifier(Classifier):
    """A CLIP with a learned prompt.

    Args:
        model: with its adapter.
        clip: whose features the images have, unless the adapter reads the images themselves.
        num_workers: processes that load the images then.
    """

    def __init__(self, model: PeftModel, clip: FrozenCLIP, num_workers: int = 0):
        self.model = model
        self.clip = clip
        self.num_workers = num_workers
        self.learned_names = list(model.class_names or [])

    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """See `Classifier.logits`; vectors of each class's own answer for these classes and subsets of them."""
        if self.model.active_peft_config.belongs_to_its_classes:
            columns = columns_of(class_names, self.learned_names, "A class-specific context")
            return self._logits(images)[:, columns]
        return self._logits(images, list(class_names))

    def scorer(self, class_names: Sequence[str]) -> Scorer:
        """See `Classifier.scorer`: text features are computed once, in parts, unless each image has its own."""
        config, prompt = self.model.active_peft_config, self.model.prompt_layer.prompt
        own_texts = prompt.needs_images or prompt.has_class_vectors
        if own_texts or config.changes_vision or config.belongs_to_its_classes:
            return super().scorer(class_names)
        base = self.model.get_base_model()
        with torch.no_grad():
            texts = encode_in_parts(base, list(class_names), CLASSES_AT_ONCE, progress=True).float()

        @torch.no_grad()
        def logits_of(images: Dataset) -> Iterator[np.ndarray]:
            embeds = self.clip.image_embeds(images)
            scale, bias = scale_and_bias(base, embeds)
            for rows in row_parts(len(embeds), len(texts)):
                yield cosine_logits(embeds[rows.start : rows.stop], texts, scale, bias).cpu().numpy()

        return logits_of

    def _logits(self, images: Dataset, class_names: list[str] | None = None) -> np.ndarray:
        size = self.clip.batch_size
        if not self.model.active_peft_config.changes_vision:
            embeds = self.clip.with_image_embeds(images)
            return predict_logits(self.model, embeds, size or BATCH_SIZE, class_names)
        processor, size = self.clip.processor.image_processor, size or PIXEL_BATCH_SIZE
        return predict_logits_of_pixels(self.model, images, processor, size, self.num_workers, class_names)

    def save(self, folder: Path) -> None:
        """Write the adapter."""
        self.model.save_pretrained(folder)
