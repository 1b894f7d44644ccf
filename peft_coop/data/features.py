"""Image features of a frozen vision tower, computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from datasets import Dataset


def with_image_embeds(
    dataset: Dataset,
    model: nn.Module,
    image_processor: Any,
    batch_size: int = 64,
    image_column: str = "image",
    label_column: str = "label",
) -> Dataset:
    """Turn images into features that the classifier takes as `image_embeds`.

    The features are kept in `datasets`' cache under a fingerprint of the data, the vision tower's weights and the
    processor, so that a second run over a dataset that lies on disk starts at once.

    Args:
        dataset: with images and integer labels.
        model: a dual encoder, wrapped by PEFT or not; its vision tower is used as it is, on its device.
        image_processor: the model's image processor.
        batch_size: images that go through the tower at once.
        image_column: the images' column.
        label_column: the labels' column.

    Returns:
        A dataset with `image_embeds`, lists of P floats, and `label`. The Trainer takes it as it is.

    Raises:
        ValueError: if a column is missing.
    """
    missing = [column for column in (image_column, label_column) if column not in dataset.column_names]
    if missing:
        raise ValueError(f"The dataset has no column {missing[0]!r}, only {dataset.column_names}.")

    def embed(batch: dict[str, list]) -> dict[str, Any]:
        pixel_values = image_processor([image.convert("RGB") for image in batch[image_column]], return_tensors="pt")
        was_training = model.training
        model.eval()
        with torch.no_grad():
            inputs = pixel_values["pixel_values"].to(model.logit_scale.device)
            features = model.get_image_features(inputs).pooler_output
        model.train(was_training)
        return {"image_embeds": features.float().cpu().numpy(), "label": batch[label_column]}

    return dataset.map(
        embed,
        batched=True,
        batch_size=batch_size,
        remove_columns=dataset.column_names,
        new_fingerprint=_fingerprint(dataset, model, image_processor, image_column, label_column),
        desc="Image features",
    )


def _fingerprint(dataset: Dataset, model: nn.Module, image_processor: Any, *columns: str) -> str:
    from datasets.fingerprint import Hasher

    hasher = Hasher()
    hasher.update(dataset._fingerprint)
    hasher.update([image_processor.to_json_string(), *columns])
    for module in (model.vision_model, model.visual_projection):
        for name, weight in module.state_dict().items():
            hasher.update([name, str(weight.dtype), weight.detach().cpu().contiguous().view(torch.uint8).numpy()])
    return hasher.hexdigest()
