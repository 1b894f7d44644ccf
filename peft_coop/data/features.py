"""Image features of a frozen vision tower, computed once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from ..module_state import module_settings
from ..progress import stage, without_datasets_bars
from ..towers import device_of, vision_parts
from .augmentation import RATIO, SCALE, TRIES, RandomView
from .image_bytes import paths_of
from .images import check_columns, undecoded
from .tower_inputs import TowerInputs

if TYPE_CHECKING:
    from datasets import Dataset, Features

# The name of how `prepare_images` cuts. Features that were kept under another name are computed again.
PREPARATION = "crop rounded to nearest"
# How `RandomView` draws, likewise.
AUGMENTATION = f"area {SCALE}, ratio {RATIO}, {TRIES} tries"


def with_image_embeds(
    dataset: Dataset,
    model: nn.Module,
    image_processor: Any,
    batch_size: int = 64,
    image_column: str = "image",
    label_column: str | None = "label",
    views: int | None = None,
    seed: int = 1,
    flip: bool = True,
    num_workers: int = 0,
    keep: Sequence[str] = (),
) -> Dataset:
    """Turn images into features that the classifier takes as `image_embeds`.

    The features are kept in `datasets`' cache under a fingerprint of the data, the vision tower's weights and the state
    of adapters in it, the processor and the views, so that a second run starts at once. They are computed anew where
    the tower holds hooks or layers that are neither torch's, transformers' nor PEFT's.

    Args:
        dataset: with images, and integer labels or other columns.
        model: a dual encoder, wrapped by PEFT or not; its vision tower is used as it is, on its device.
        image_processor: the model's image processor.
        batch_size: images, or views, that go through the tower at once.
        image_column: the images' column.
        label_column: the labels' column; None where there is none.
        views: None for the images as `prepare_images` prepares them; a number for so many augmented views of each,
            those of `AugmentedImages` in the epochs 0 to `views` - 1. `AugmentedFeatures` gives one in each epoch.
        seed: of the augmented views.
        flip: whether half of the augmented views are mirrored.
        num_workers: processes that read and cut images; 0: this one.
        keep: other columns that the result shall have, "attribute" and "object" of compositions for example, which
            `with_pair_labels` makes labels of.

    Returns:
        A dataset with `image_embeds`, lists of P floats, `label` unless `label_column` is None, and what is kept. The
        Trainer takes it as it is. The views of an image are rows that follow each other.

    Raises:
        ValueError: if a column is missing or holds no images, an image cannot be read, `views` is below 1, or `keep`
            has a column of another use; if the model's adapter reads images with learned prompts.
    """
    check_reads_alone(model)
    labels = {} if label_column is None else {"label": label_column}  # by its name in the result
    check_columns(dataset, image_column, *labels.values(), *keep)
    _check_kept(keep, image_column, *labels.values())
    check_views(views)
    if len(dataset) == 0:
        return _no_features(dataset.features, {**{column: column for column in keep}, **labels})
    stored = undecoded(dataset, image_column)
    draw = None if views is None else RandomView(image_processor, seed, flip)
    inputs = TowerInputs(stored, image_processor, image_column, draw, views or 1)
    batches = inputs.batches(batch_size, num_workers)

    def embed(batch: dict[str, list]) -> dict[str, Any]:
        features = tower_features(model, next(batches))
        progress.update(len(features))
        return {"image_embeds": features.numpy(), **{name: batch[column] for name, column in labels.items()}}

    augmentation: list[str | int] = [] if views is None else [AUGMENTATION, views, seed, flip]
    others = [f"keeps {column}" for column in keep]
    fingerprint = fingerprint_of(stored, model, image_processor, image_column, *labels.values(), *others, *augmentation)
    # The images themselves are read by `inputs`; without any other column, theirs says how many there are.
    columns = [*labels.values(), *keep] or [image_column]
    rows = stored.select_columns(columns).select(inputs.image_of_row)
    unit = "image" if views is None else "view"
    with without_datasets_bars(), stage("image features", len(rows), unit, counts=False) as progress:
        return rows.map(
            embed,
            batched=True,
            batch_size=batch_size,
            remove_columns=[column for column in columns if column not in keep],
            new_fingerprint=fingerprint,
            cache_file_name=cached_file(stored, fingerprint),
        )


def _check_kept(keep: Sequence[str], *used: str) -> None:
    """Refuse columns that are something else in the result."""
    taken = [column for column in keep if column in (*used, "image_embeds", "label")]
    if taken:
        raise ValueError(f"`keep` is for columns beside images and labels, got {taken[0]!r}.")


def check_reads_alone(model: nn.Module) -> None:
    """Refuse a model that reads images with learned prompts, which lie elsewhere than in its vision tower.

    Raises:
        ValueError: if its active adapter does.
    """
    layer = getattr(unwrapped(model), "prompt_layer", None)  # of a model that holds prompts
    if layer is None or layer.disable_adapters or layer.current_adapter is None:
        return
    if layer.prompt.settings.changes_vision:
        raise ValueError(
            f"Adapter {layer.current_adapter!r} reads images with learned prompts in the vision tower, whose features "
            "cannot be computed once: give the model pixels, or disable the adapter for the features without it."
        )


def check_views(views: int | None) -> None:
    """Refuse a number of views that is none.

    Raises:
        ValueError: if it is below 1.
    """
    if views is not None and views < 1:
        raise ValueError(f"`views` must be 1 or more, or None for images as they are, got {views}.")


def tower_features(model: nn.Module, images: dict[str, Tensor]) -> Tensor:
    """Image features `[B, P]` of what `prepare_inputs` gives, on the CPU; float32, or float64 of a float64 model."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        device = device_of(unwrapped(model))
        features = model.get_image_features(**{name: each.to(device) for name, each in images.items()}).pooler_output
    model.train(was_training)
    return (features if features.dtype == torch.float64 else features.float()).cpu()


def unwrapped(model: nn.Module) -> nn.Module:
    """The dual encoder itself, of one that PEFT may have wrapped."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _no_features(features: Features, columns: Mapping[str, str]) -> Dataset:
    """What `map` gives, which leaves a dataset without rows as it is; with these columns by their new names."""
    from datasets import Dataset, Features, Value
    from datasets import Sequence as ListOf

    others = {name: features[column] for name, column in columns.items()}
    every = Features({"image_embeds": ListOf(Value("float32")), **others})
    return Dataset.from_dict({name: [] for name in every}, features=every)


def cached_file(dataset: Dataset, fingerprint: str) -> str | None:
    """Where features of a dataset lie; None: where `datasets` puts them, which keeps none of a dataset in memory."""
    from datasets import config, is_caching_enabled

    if dataset.cache_files or not is_caching_enabled():
        return None
    folder = Path(config.HF_DATASETS_CACHE) / "peft_coop"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"{fingerprint}.arrow")


def fingerprint_of(
    dataset: Dataset, model: nn.Module, image_processor: Any, image_column: str, *settings: str | int
) -> str:
    """What features depend on: the images, the vision tower's weights, how it computes, the processor, and settings."""
    from datasets.fingerprint import Hasher, generate_random_fingerprint

    hasher = Hasher()
    hasher.update(images_version(dataset, image_column))
    hasher.update([PREPARATION, image_processor.to_json_string(), image_column, *settings])
    # What somebody else's hooks and layers compute cannot be known by their weights.
    parts = vision_parts(unwrapped(model))
    hasher.update(module_settings(*parts) or generate_random_fingerprint())
    for module in parts:
        for name, weight in module.state_dict().items():
            hasher.update([name, str(weight.dtype), weight.detach().cpu().reshape(-1).view(torch.uint8).numpy()])
    return hasher.hexdigest()


def images_version(dataset: Dataset, image_column: str = "image") -> str:
    """What is cheap to know of a dataset's images: its own fingerprint, and size and time of the files that it names.

    Args:
        dataset: with images.
        image_column: their column.
    """
    from datasets.fingerprint import Hasher

    hasher = Hasher()
    hasher.update([dataset._fingerprint, *map(file_version, paths_of(dataset, image_column))])
    return hasher.hexdigest()


def file_version(path: str | None) -> Any:
    """A file's name, size and time; the name alone of what is no file here."""
    try:
        status = os.stat(path or "")
    except OSError:
        return path
    return path, status.st_size, status.st_mtime_ns
