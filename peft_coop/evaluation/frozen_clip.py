"""The pretrained model that the methods of an experiment share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPProcessor

from ..data import AugmentedFeatures, FrameRows, with_frame_embeds, with_image_embeds
from ..data.features import images_version
from ..data.frame_features import KnownFrames
from ..data.preparation import prepare_inputs
from ..data.videos import has_videos
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
        self._known_frames = KnownFrames()

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
        revision: str | None = None,
    ) -> FrozenCLIP:
        """Load a CLIP and its processor; see `load_dual_encoder` for the errors.

        Args:
            name: a Hub name or a folder; "demo" is the tiny one that ships with the package.
            device: where to; None: the GPU if there is one.
            dtype: of its weights, such as "bfloat16"; None: as they were saved.
            batch_size: images that go through it at once where it is not trained.
            revision: the branch, tag or commit on the Hub; None: the main branch.
        """
        model, processor = load_dual_encoder(name, device, dtype, revision)
        return cls(model, processor, DEMO if model.name_or_path == MODEL_PATH else name, batch_size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)

    def with_image_embeds(self, images: Dataset) -> Dataset:
        """The images' features, columns `image_embeds` and `label`; computed once for each dataset."""
        key = images_version(images)
        if key not in self._features:
            image_processor = self.processor.image_processor
            self._features[key] = with_image_embeds(images, self.model, image_processor, **self._at_once())
        return self._features[key]

    def with_frame_embeds(self, videos: Dataset) -> Dataset:
        """The features of all frames, columns `image_embeds` and `label`; computed once for each video."""
        key = images_version(videos)
        if key not in self._features:
            known, processor = self._known_frames.of(videos), self.processor.image_processor
            rows = with_frame_embeds(videos, self.model, processor, known=known, **self._at_once())
            self._known_frames.add(videos, FrameRows(rows))
            self._features[key] = rows
        return self._features[key]

    def frame_features(self, videos: Dataset) -> FrameRows:
        """`[N, P]` of the N frames of each video, not normalised."""
        return FrameRows(self.with_frame_embeds(videos))

    def _at_once(self) -> dict[str, Any]:
        return {} if self.batch_size is None else {"batch_size": self.batch_size}

    def augmented_features(
        self, images: Dataset, views: int, seed: int, flip: bool = True, num_workers: int = 0
    ) -> AugmentedFeatures:
        """Features of augmented views of the images, another one in every epoch, see `AugmentedFeatures`."""
        image_processor = self.processor.image_processor
        augmentation: dict[str, Any] = {"views": views, "seed": seed, "flip": flip, "num_workers": num_workers}
        return AugmentedFeatures(images, self.model, image_processor, **augmentation, **self._at_once())

    def blank_images(self, count: int) -> dict[str, Tensor]:
        """What the vision tower takes of so many images, all black, on the model's device."""
        picture = Image.new("RGB", (64, 64))
        inputs = prepare_inputs([picture] * count, self.processor.image_processor)
        return {name: each.to(self.device) for name, each in inputs.items()}

    def image_features(self, images: Dataset) -> Tensor:
        """`[N, P]`, not normalised, float32, on the model's device; of videos the mean over their frames."""
        if has_videos(images):
            return self.frame_features(images).means().to(self.device, torch.float32)
        features = self.with_image_embeds(images).with_format("numpy")["image_embeds"][:]
        return torch.from_numpy(np.asarray(features, dtype=np.float32)).to(self.device)

    def image_embeds(self, images: Dataset) -> Tensor:
        """`[N, P]`, L2-normalised, float32, on the model's device."""
        return self._normalized(self.image_features(images))

    def image_embeds_by_epoch(
        self, images: Dataset, views: int | None, seed: int, flip: bool = True, num_workers: int = 0
    ) -> Callable[[Tensor, int], Tensor]:
        """What gives features `[B, P]`, as `image_embeds`, of the images at some indices `[B]` in an epoch.

        Args:
            images: with N images.
            views: augmented views of each image, see `augmented_features`; None: the images as they are.
            seed: of the views.
            flip: whether views are mirrored.
            num_workers: processes that read the images of views.
        """
        if views is None:
            fixed = self.image_embeds(images)
            return lambda indices, epoch: fixed[indices]
        features = self.augmented_features(images, views, seed, flip, num_workers)
        embeds = self._normalized(features.all_views())  # [N, V, P]
        return lambda indices, epoch: embeds[indices, torch.from_numpy(features.view_numbers(epoch))[indices]]

    def _normalized(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(features.to(self.device, torch.float32), dim=-1)
