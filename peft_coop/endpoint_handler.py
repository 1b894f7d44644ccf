"""What a Hugging Face Inference Endpoint runs for a prompt: a picture in, labels and their probabilities out.

`peft-coop push --handler` writes this file beside an adapter, as `handler.py`. The endpoint makes one `EndpointHandler`
and calls it for each request.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import AutoImageProcessor

from peft_coop import AutoPeftModelForImageClassification
from peft_coop.data.preparation import prepare_inputs
from peft_coop.models import OTHER, answers_other

MOST_BYTES = 20_000_000
MOST_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP")
TOP_K = 5
LEAST = 0.5  # probability of a label where an image has any number of them, and the adapter says nothing else


class EndpointHandler:
    """A prompt with its base model, which is loaded from the Hub, and adapters of other methods that lie within.

    Args:
        path: the folder of the adapter, as the endpoint has cloned it.
    """

    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoPeftModelForImageClassification.from_pretrained(path)
        for config in sorted(Path(path).glob("*/adapter_config.json")):
            self.model.load_adapter(str(config.parent), config.parent.name)
        self.model.to(device).eval()
        self.device = device
        self.image_processor = AutoImageProcessor.from_pretrained(self.model.get_base_model().name_or_path)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Classify one picture.

        Args:
            data: `inputs`, a picture as the endpoint has decoded it, or its file's bytes, as they are or in base64;
                and in `parameters` perhaps `top_k`.

        Returns:
            The likeliest labels first, as `{"label", "score"}`. Where the adapter answers with "other", that comes
            first, with a score of None if only the best class was not likely enough. Of images with any number of
            labels, those that are likely enough.

        Raises:
            ValueError: if there is no such picture, or it is too large.
        """
        top_k = (data.get("parameters") or {}).get("top_k", TOP_K)
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"`top_k` must be a whole number of 1 or more, got {top_k!r}.")
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


def read_picture(given: Any) -> Image.Image:
    """A picture in RGB, turned as its EXIF data say.

    Nothing is looked up: an address or a path is refused like any other text that is no base64.

    Raises:
        ValueError: if it is none, of another kind than the accepted ones, moving, damaged or too large.
    """
    if isinstance(given, Image.Image):
        check_size(given)
        return ImageOps.exif_transpose(given).convert("RGB")
    if isinstance(given, str):
        try:
            given = base64.b64decode(given.rpartition(",")[2] if given.startswith("data:") else given, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"`inputs` must be a picture, or its bytes in base64: {error}.") from error
    if not isinstance(given, bytes | bytearray) or not given:
        raise ValueError(f"`inputs` must be a picture, or its bytes in base64, got {type(given).__name__} without any.")
    if len(given) > MOST_BYTES:
        raise ValueError(f"The picture has {len(given):,} bytes, accepted are {MOST_BYTES:,}.")
    try:
        with Image.open(io.BytesIO(given), formats=FORMATS) as image:
            check_size(image)
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"The picture is none of {', '.join(FORMATS)}.") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"The picture cannot be read: {error}") from error


def check_size(image: Image.Image) -> None:
    """Refuse what is moving, or would need too much memory.

    Raises:
        ValueError: if so.
    """
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"The picture has {image.width} x {image.height} pixels, accepted are {MOST_PIXELS:,}.")
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("The picture is moving: give one of its frames.")
