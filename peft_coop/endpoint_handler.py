"""What a Hugging Face Inference Endpoint runs for a prompt: a picture in, labels and their probabilities out.

`peft-coop push --handler` writes this file beside an adapter, as `handler.py`. The endpoint makes one `EndpointHandler`
and calls it for each request.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import AutoImageProcessor

from peft_coop import AutoPeftModelForImageClassification
from peft_coop.data.images import in_rgb
from peft_coop.data.preparation import prepare_inputs
from peft_coop.models import OTHER, answers_other
from peft_coop.peft_model import adapters_beside

MOST_BYTES = 20_000_000
MOST_PIXELS = 50_000_000
MOST_SCANS = 100  # of a progressive JPEG, each of which is decoded over all pixels; programs write a dozen
MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
FORMATS = ("JPEG", "PNG", "WEBP")
TOP_K = 5
LEAST = 0.5  # probability of a label where an image has any number of them, and the adapter says nothing else


class PictureError(ValueError):
    """A picture that is refused."""


class EndpointHandler:
    """A prompt with its base model, which is loaded from the Hub, and adapters of other methods that lie within.

    Args:
        path: the folder of the adapter, as the endpoint has cloned it.
    """

    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoPeftModelForImageClassification.from_pretrained(path)
        revision = self.model.peft_config[self.model.active_adapter].revision
        for name, place in adapters_beside(Path(path)).items():
            self.model.load_adapter(str(place), name)
        self.model.to(device).eval()
        self.device = device
        base = self.model.get_base_model().name_or_path
        self.image_processor = AutoImageProcessor.from_pretrained(base, revision=revision)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Classify one picture.

        Args:
            data: `inputs`, a picture as the endpoint has decoded it, or its file's bytes, as they are or in base64;
                and in `parameters` perhaps `top_k`, how many labels are answered at most, 5 if it is not given.

        Returns:
            The likeliest labels first, as `{"label", "score"}`. Where the adapter answers with "other", that comes
            first, with a score of None if only the best class was not likely enough. Of images with any number of
            labels, those that are likely enough.

        Raises:
            ValueError: if there is no such picture, it is too large, or there are other parameters.
        """
        if not isinstance(data, dict):
            raise ValueError(f"A request must be a dict with `inputs`, got {type(data).__name__}.")
        top_k = read_top_k(data.get("parameters"))
        picture = read_picture(data.get("inputs"))
        inputs = prepare_inputs([picture], self.image_processor)
        with torch.no_grad():
            row = self.model.probabilities(**{name: each.to(self.device) for name, each in inputs.items()})[0].cpu()
        names = self.model.class_names
        scores = [float(each) for each in row]
        order = sorted(range(len(names)), key=lambda index: -scores[index])
        answer = [{"label": names[index], "score": scores[index]} for index in order]
        least = self.model.decision["min_probability"]
        if self.model.judges_each_class:
            return [each for each in answer if each["score"] >= (LEAST if least is None else least)][:top_k]
        of_other = {"label": OTHER, "score": scores[-1] if len(scores) > len(names) else None}
        if bool(answers_other(row, len(names), least)):
            answer.insert(0, of_other)
        elif of_other["score"] is not None:
            answer = sorted([*answer, of_other], key=lambda each: -each["score"])
        return answer[:top_k]


def read_top_k(parameters: Any) -> int:
    """How many labels a request asks for.

    Args:
        parameters: of the request; None for none.

    Raises:
        ValueError: if there are others, or it is no such number.
    """
    if parameters is not None and not isinstance(parameters, dict):
        raise ValueError(f"`parameters` must be a dict, such as {{'top_k': 3}}, got {type(parameters).__name__}.")
    unknown = sorted(map(str, set(parameters or ()) - {"top_k"}))
    if unknown:
        raise ValueError(f"`parameters` may have `top_k` and nothing else, got {unknown[0]!r}.")
    given = (parameters or {}).get("top_k")
    top_k = TOP_K if given is None else given
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"`top_k` must be a whole number of 1 or more, got {top_k!r}.")
    return top_k


def read_picture(given: Any) -> Image.Image:
    """A picture in RGB, turned as its EXIF data say.

    Nothing is looked up: an address or a path is refused like any other text that is no base64.

    Raises:
        ValueError: if it is none, of another kind than the accepted ones, moving, damaged or too large.
    """
    if isinstance(given, Image.Image):
        return whole_picture(given)
    if isinstance(given, str):
        given = decoded(given)
    if not isinstance(given, bytes | bytearray) or not given:
        told = "nothing" if given is None or given == b"" else type(given).__name__
        raise PictureError(f"`inputs` must be one picture, or its bytes in base64, got {told}.")
    if len(given) > MOST_BYTES:
        raise PictureError(f"The picture has {len(given):,} bytes, accepted are {MOST_BYTES:,}.")
    if has_many_scans(bytes(given)):
        raise PictureError(f"The JPEG has more than {MOST_SCANS} scans: save it anew.")
    try:
        image = Image.open(io.BytesIO(given), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError(f"The picture is none of {', '.join(FORMATS)}.") from error
    except Exception as error:
        raise unreadable(error) from error
    with image:
        return whole_picture(image)


def has_many_scans(content: bytes) -> bool:
    """Whether bytes are a JPEG of more scans than accepted: 40 bytes of one cost as much time as the whole picture."""
    scans, at = 0, 2
    while content.startswith(b"\xff\xd8") and scans <= MOST_SCANS and (found := MARKER.search(content, at)):
        kind, at = found[1][0], found.end()
        if kind == 0xD9:  # what is behind the end, such as a preview, is not decoded
            break
        if kind not in (0x01, 0xD8):
            scans += kind == 0xDA
            at += int.from_bytes(content[at : at + 2], "big")
    return scans > MOST_SCANS


def decoded(text: str) -> bytes:
    """The bytes of base64, also in lines, in the alphabet of addresses, or in a data URL.

    Raises:
        ValueError: if it is something else.
    """
    content = text.partition(",")[2] if text[:5].lower() == "data:" else text
    try:
        return base64.b64decode("".join(content.split()).replace("-", "+").replace("_", "/"), validate=True)
    except ValueError as error:
        raise PictureError(f"`inputs` must be one picture, or its bytes in base64: {error}.") from error


def whole_picture(image: Image.Image) -> Image.Image:
    """A picture that Pillow has opened, with all its pixels, see `read_picture`.

    Raises:
        ValueError: if it is too large, moving or damaged.
    """
    try:
        check_size(image)
        image.load()
        return in_rgb(ImageOps.exif_transpose(image))
    except PictureError:
        raise
    except Exception as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> PictureError:
    """What becomes of Pillow's errors: its decoders raise nearly everything on damaged files."""
    return PictureError(f"The picture cannot be read: {' '.join(str(error).split()) or type(error).__name__}")


def check_size(image: Image.Image) -> None:
    """Refuse what is moving, or would need too much memory.

    In a JPEG that has further pictures, as cameras write them with previews, the first one is the picture.

    Raises:
        ValueError: if so.
    """
    if image.width * image.height > MOST_PIXELS:
        raise PictureError(f"The picture has {image.width} x {image.height} pixels, accepted are {MOST_PIXELS:,}.")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise PictureError("The picture is moving: give one of its frames.")
