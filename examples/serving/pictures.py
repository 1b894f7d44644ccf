"""Uploads to pixels, by Pillow and NumPy alone: what is no plain picture of a bearable size is refused."""

import io
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# By the content type that a client names: what Pillow may try. Nothing else is opened, whatever a file claims to be.
KINDS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}

# Of a progressive JPEG, each of which is decoded over all pixels: 40 bytes for as much time as all the rest takes.
# Programs write a dozen.
MOST_SCANS = 100
MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
# Of a picture whose resized form would have more pixels, as of one of 20,000 x 1, only what the crop keeps is resized.
MOST_RESIZED = 2**24


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
    if has_many_scans(content):
        raise RefusedError(413, f"The JPEG has more than {MOST_SCANS} scans.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=tuple(KINDS.values())) as image:
                if image.width * image.height > most_pixels:
                    size = f"{image.width} x {image.height}"
                    raise RefusedError(413, f"The picture has {size} pixels, accepted are {most_pixels:,}.")
                # A JPEG with further pictures, such as previews that cameras write, does not move.
                if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                    raise RefusedError(415, "The picture is moving: send one of its frames.")
                image.load()
                return in_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedError(413, f"The picture has too many pixels, accepted are {most_pixels:,}.") from error
    except UnidentifiedImageError as error:
        raise RefusedError(415, f"The body is none of {', '.join(KINDS.values())}.") from error
    except RefusedError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        raise RefusedError(400, f"The picture cannot be read: {error or type(error).__name__}.") from error


def has_many_scans(content: bytes) -> bool:
    """Whether a body is a JPEG of more scans than accepted."""
    scans, at = 0, 2
    while content.startswith(b"\xff\xd8") and scans <= MOST_SCANS and (found := MARKER.search(content, at)):
        kind, at = found[1][0], found.end()
        if kind == 0xD9:  # what is behind the end, such as a preview, is not decoded
            break
        if kind not in (0x01, 0xD8):
            scans += kind == 0xDA
            at += int.from_bytes(content[at : at + 2], "big")
    return scans > MOST_SCANS


def in_rgb(image: Image.Image) -> Image.Image:
    """A picture in RGB; one of 16 bits, which Pillow would cut off at 255, scaled to bytes."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257).astype(np.uint8))
    return image.convert("RGB")


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
        try:
            mean, std = (np.array(told[name], np.float32)[:, None, None] for name in ("image_mean", "image_std"))
            return cls(edge, (target["width"], target["height"]), told["resample"], told["rescale_factor"], mean, std)
        except KeyError as error:
            raise ValueError(f"{path} does not say {error}.") from error

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """`[3, H, W]`, float32, of a picture in RGB."""
        width, height = picture.size
        if self.shortest_edge is None:
            picture = picture.resize(self.size, self.resample)
        else:
            edge = self.shortest_edge
            size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
            if size[0] * size[1] > MOST_RESIZED:
                picture = self._middle(picture, size)
            else:
                picture = _cropped(picture.resize(size, self.resample), self.size)
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) * np.float32(self.factor)
        return (pixels - self.mean) / self.std

    def _middle(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        """What the crop keeps of a very long picture, all of which would be resized to `size`."""
        left, upper, right, lower = _box(size, self.size)
        left, upper, right, lower = max(left, 0), max(upper, 0), min(right, size[0]), min(lower, size[1])
        across, down = picture.width / size[0], picture.height / size[1]
        box = left * across, upper * down, right * across, lower * down
        return _cropped(picture.resize((right - left, lower - upper), self.resample, box), self.size)


def _cropped(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.crop(_box(picture.size, size))


def _box(whole: tuple[int, int], part: tuple[int, int]) -> tuple[int, int, int, int]:
    """The central part: left, upper, right and lower edge."""
    left, upper = (_offset(one - wanted) for one, wanted in zip(whole, part, strict=True))
    return left, upper, left + part[0], upper + part[1]


def _offset(room: int) -> int:
    """Where a crop begins: rounded to the nearest pixel, half to even, as the model was trained and measured."""
    return round(room / 2) if room >= 0 else -(-room // 2)
