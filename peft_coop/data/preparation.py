"""Images as the vision tower takes them, cut as the original cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image as Picture
from PIL.Image import Resampling

# Of an image whose resized form would have more pixels, as of one of 20,000 x 1, only what the crop keeps is resized.
MOST_RESIZED = 2**24


def prepare_images(images: Sequence[Picture], image_processor: Any) -> torch.Tensor:
    """Resize, crop at the centre, rescale and normalise, as the original implementation does.

    Args:
        images: in RGB.
        image_processor: the model's. One that comes with transformers, resizes the shorter edge and crops at the centre
            (CLIP's) gives the numbers for that, and Pillow resizes; any other one is called as it is.

    Returns:
        `pixel_values`, `[N, 3, H, W]`.

    Reference: CoOp's code, whose crop's offset is rounded to the nearest pixel, half to even; transformers' is down.
    """
    return prepare_inputs(images, image_processor)["pixel_values"]


def prepare_inputs(images: Sequence[Picture], image_processor: Any) -> dict[str, torch.Tensor]:
    """Resize, crop at the centre, rescale and normalise, as the original implementation does.

    The original prepares images with torchvision, which rounds the crop's offset to the nearest pixel, half to even.
    transformers rounds it down: one pixel differs where the resized side less the crop is 3, 7, 11 …, as for a
    photograph of 1024 x 683. Its processors also resize with Pillow or with torchvision, by what is installed; here it
    is Pillow, as in the original.

    Args:
        images: in RGB.
        image_processor: the model's. One that comes with transformers, resizes the shorter edge and crops at the centre
            (CLIP's) gives the numbers for that; any other one, such as a class of your own, is called as it is.

    Returns:
        `pixel_values`, `[N, 3, H, W]`, and what else a processor of one's own gives: of images of any shape (SigLIP 2),
        a mask of the patches and their numbers.
    """
    if not _crops_like_clip(image_processor):
        return dict(image_processor(list(images), return_tensors="pt"))
    cut = [_resized_and_cropped(image, image_processor) for image in images]
    return {"pixel_values": normalise(cut, image_processor)}


def normalise(pictures: Sequence[Picture], image_processor: Any) -> torch.Tensor:
    """The processor's rescaling and normalisation of pictures that have their size: `pixel_values`, `[N, 3, H, W]`."""
    return image_processor(list(pictures), do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]


def center_crop_box(width: int, height: int, wide: int, high: int) -> tuple[int, int, int, int]:
    """The central part of an image: offsets rounded to the nearest pixel, half to even.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        wide: of the part.
        high: of the part.

    Returns:
        Left, upper, right and lower edge in pixels, as `PIL.Image.Image.crop` takes them; what lies outside is black.
    """
    left, upper = (_offset(room) for room in (width - wide, height - high))
    return left, upper, left + wide, upper + high


def _offset(room: int) -> int:
    """Where a part begins; before the image, rounded as torchvision pads, where the part is larger."""
    return round(room / 2) if room >= 0 else -(-room // 2)


def _crops_like_clip(image_processor: Any) -> bool:
    settings = (getattr(image_processor, name, False) for name in ("do_resize", "do_center_crop"))
    size = dict(getattr(image_processor, "size", None) or {})
    edges = {name for name, value in size.items() if value is not None}
    return type(image_processor).__module__.startswith("transformers.") and all(settings) and edges == {"shortest_edge"}


def _resized_and_cropped(image: Picture, image_processor: Any) -> Picture:
    edge, crop = image_processor.size["shortest_edge"], image_processor.crop_size
    width, height = image.size
    if width <= height:
        size = edge, int(edge * height / width)
    else:
        size = int(edge * width / height), edge
    wide, high = crop["width"], crop["height"]
    if size[0] * size[1] > MOST_RESIZED:
        return _part_resized(image, size, (wide, high), resampling_of(image_processor))
    return image.resize(size, resampling_of(image_processor)).crop(center_crop_box(*size, wide, high))


def _part_resized(image: Picture, size: tuple[int, int], crop: tuple[int, int], filter_: Resampling) -> Picture:
    """The central part of an image that is very long for its width, without the memory that all of it would take.

    A few values differ from those of the whole image, resized: Pillow rounds where a part begins, and between passes.

    Args:
        image: the image.
        size: width and height that all of it would be resized to.
        crop: width and height of the part.
        filter_: Pillow's.
    """
    left, upper, right, lower = center_crop_box(*size, *crop)
    left, upper, right, lower = max(left, 0), max(upper, 0), min(right, size[0]), min(lower, size[1])
    across, down = image.width / size[0], image.height / size[1]
    kept = right - left, lower - upper
    part = image.resize(kept, filter_, box=(left * across, upper * down, right * across, lower * down))
    return part.crop(center_crop_box(*kept, *crop))


def resampling_of(image_processor: Any) -> Resampling:
    """Pillow's filter: processors have its number, torchvision's mode of the same name, or none, which is bilinear."""
    resample = image_processor.resample
    if resample is None:
        return Resampling.BILINEAR
    return Resampling(resample) if isinstance(resample, int) else Resampling[resample.name]
