"""Uploads to pixels, by Pillow and NumPy alone: what is no plain picture of a bearable size is refused."""

import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# By the content type that a client names: what Pillow may try. Nothing else is opened, whatever a file claims to be.
KINDS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}


class RefusedError(ValueError):
    """A request that is not answered with labels.

    Args:
        status: of HTTP.
        reason: for the client.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


def read_picture(content: bytes, most_pixels: int) -> Image.Image:
    """A picture in RGB, turned as its EXIF data say.

    Its size is read from its head, before any of its pixels: a few bytes can claim gigabytes.

    Raises:
        RefusedError: if it is none of `KINDS`, damaged, moving, or has too many pixels.
    """
    if not content:
        raise RefusedError(400, "The body is empty: send the bytes of a picture.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=tuple(KINDS.values())) as image:
                if image.width * image.height > most_pixels:
                    size = f"{image.width} x {image.height}"
                    raise RefusedError(413, f"The picture has {size} pixels, accepted are {most_pixels:,}.")
                if getattr(image, "n_frames", 1) > 1:
                    raise RefusedError(415, "The picture is moving: send one of its frames.")
                image.load()
                return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedError(413, f"The picture has too many pixels, accepted are {most_pixels:,}.") from error
    except UnidentifiedImageError as error:
        raise RefusedError(415, f"The body is none of {', '.join(KINDS.values())}.") from error
    except RefusedError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        raise RefusedError(400, f"The picture cannot be read: {error or type(error).__name__}.") from error


@dataclass(frozen=True)
class Preparation:
    """Resizing, cropping and normalising as `preprocessor_config.json` has them.

    Attributes:
        shortest_edge: what the shorter side is resized to; None where both are given.
        size: width and height, of the crop or of what is resized to.
        resample: Pillow's number of the filter.
        factor: what pixels from 0 to 255 are multiplied by.
        mean: of each channel, subtracted then.
        std: of each channel, divided by.
    """

    shortest_edge: int | None
    size: tuple[int, int]
    resample: int
    factor: float
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def from_file(cls, path: Path) -> "Preparation":
        """Read the settings.

        Raises:
            ValueError: if they ask for something else than this knows.
        """
        told = json.loads(path.read_text(encoding="utf-8"))
        size, wanted = told.get("size") or {}, ("do_resize", "do_rescale", "do_normalize")
        edge = size.get("shortest_edge")
        crops = bool(told.get("do_center_crop"))
        target = told.get("crop_size") if crops else size
        unknown = [name for name in ("do_pad", "do_reduce_labels", "do_flip_channel_order") if told.get(name)]
        if unknown or not all(told.get(name) for name in wanted) or (edge is not None) != crops or not target:
            raise ValueError(
                f"{path} prepares images as CLIP's or SigLIP's processor does not: known are a shortest edge with a "
                f"crop, and a size without one; got {told}."
            )
        mean, std = (np.array(told[name], np.float32)[:, None, None] for name in ("image_mean", "image_std"))
        return cls(edge, (target["width"], target["height"]), told["resample"], told["rescale_factor"], mean, std)

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """`[3, H, W]`, float32, of a picture in RGB."""
        width, height = picture.size
        if self.shortest_edge is None:
            picture = picture.resize(self.size, self.resample)
        else:
            edge = self.shortest_edge
            size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
            left, upper = (_offset(one - wanted) for one, wanted in zip(size, self.size, strict=True))
            picture = picture.resize(size, self.resample)
            picture = picture.crop((left, upper, left + self.size[0], upper + self.size[1]))
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) * np.float32(self.factor)
        return (pixels - self.mean) / self.std


def _offset(room: int) -> int:
    """Where a crop begins: rounded to the nearest pixel, half to even, as the model was trained and measured."""
    return round(room / 2) if room >= 0 else -(-room // 2)
