"""Golden pixels as images of a dataset, so that a baseline runs on them from its `fit` to its logits."""

from itertools import pairwise
from types import SimpleNamespace

import torch
from datasets import ClassLabel, Dataset, Features, Image
from golden_cases import golden_model
from PIL import Image as Pictures
from torch import Tensor

from peft_coop.evaluation.frozen_clip import FrozenCLIP


class PixelsByNumber:
    """An image processor: a picture's red is the number of its pixels in a table `[T, 3, S, S]`."""

    def __init__(self, table: Tensor):
        self.table = table

    def __call__(self, pictures: list, return_tensors: str) -> dict[str, Tensor]:
        return {"pixel_values": torch.stack([self.table[picture.getpixel((0, 0))[0]] for picture in pictures])}

    def to_json_string(self) -> str:
        return f"{self.table.sum().item()}"


def golden_frozen(case: SimpleNamespace, tokenizer, *parts: Tensor) -> tuple[FrozenCLIP, list[range]]:
    """The case's CLIP, whose images are those of some parts `[., 3, S, S]`; and the numbers of each part's."""
    ends = torch.tensor([0, *map(len, parts)]).cumsum(0).tolist()
    processor = SimpleNamespace(image_processor=PixelsByNumber(torch.cat(parts)), tokenizer=tokenizer)
    numbers = [range(first, last) for first, last in pairwise(ends)]
    return FrozenCLIP(golden_model(case), processor, "golden"), numbers


def numbered_images(numbers, labels: Tensor, class_names: list[str]) -> Dataset:
    """Images by their numbers, with labels."""
    rows = {"image": [Pictures.new("RGB", (1, 1), (number, 0, 0)) for number in numbers], "label": labels.tolist()}
    return Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=class_names)}))
