"""The pretrained model that the methods of an experiment share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPProcessor

from ..data import with_image_embeds
from ..data.features import images_version
from ..demo import MODEL_PATH
from ..towers import device_of
from .pretrained import DEMO, load_dual_encoder

if TYPE_CHECKING:
    from datasets import Dataset


class FrozenCLIP:
    """A pretrained CLIP that methods share: none may change it, each works on a copy of what it trains.

    Args:
        model: the dual encoder.
        processor: its tokenizer and image processor.
        name: its Hub name or path, for results.
        batch_size: images that go through it at once where it is not trained; None: 64, or 256 features.
    """

    def __init__(self, model: nn.Module, processor: CLIPProcessor, name: str, batch_size: int | None = None):
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.batch_size = batch_size
        self._features: dict[str, Dataset] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
    ) -> FrozenCLIP:
        """Load a CLIP and its processor; see `load_dual_encoder` for the errors.

        Args:
            name: a Hub name or a folder; "demo" is the tiny one that ships with the package.
            device: where to; None: the GPU if there is one.
            dtype: of its weights, such as "bfloat16"; None: as they were saved.
            batch_size: images that go through it at once where it is not trained.
        """
        model, processor = load_dual_encoder(name, device, dtype)
        return cls(model, processor, DEMO if model.name_or_path == MODEL_PATH else name, batch_size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)

    def with_image_embeds(self, images: Dataset) -> Dataset:
        """The images' features, columns `image_embeds` and `label`; computed once for each dataset."""
        key = images_version(images)
        if key not in self._features:
            at_once: dict[str, Any] = {} if self.batch_size is None else {"batch_size": self.batch_size}
            self._features[key] = with_image_embeds(images, self.model, self.processor.image_processor, **at_once)
        return self._features[key]

    def image_embeds(self, images: Dataset) -> Tensor:
        """`[N, P]`, L2-normalised, float32, on the model's device."""
        embeds = self.with_image_embeds(images).with_format("numpy")["image_embeds"][:]
        features = torch.from_numpy(np.asarray(embeds, dtype=np.float32)).to(self.device)
        return nn.functional.normalize(features, dim=-1)
