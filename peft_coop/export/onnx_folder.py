"""A folder with an ONNX classifier, as ONNX Runtime, Optimum and transformers.js read it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..whole_files import folder_written_whole
from .modeling_class_matrix import ClassMatrixForImageClassification
from .onnx_graph import OnnxClassifier, check_for_onnx, write_graph, write_int8

if TYPE_CHECKING:
    from transformers import ViTConfig

# The file of each precision, by the names that transformers.js asks for: its own default in a browser is the last.
FILES = {"float32": "onnx/model.onnx", "float16": "onnx/model_fp16.onnx", "int8": "onnx/model_quantized.onnx"}
BATCHES = (1, 2, 5)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class OnnxFile:
    """A graph that was written.

    Attributes:
        precision: a key of `FILES`.
        path: the file.
        size: in bytes.
        difference: the largest of a logit to torch's, of random images.
        best_alike: the share of these images with the same best class.
    """

    precision: str
    path: Path
    size: int
    difference: float
    best_alike: float


def export_onnx(
    classifier: ClassMatrixForImageClassification,
    image_processor: Any,
    folder: str | os.PathLike,
    precisions: Sequence[str] = tuple(FILES),
) -> list[OnnxFile]:
    """Write graphs `pixel_values` to `logits` of any batch size, and what is needed beside them.

    Beside `onnx/model.onnx` lie `config.json`, with the labels, and `preprocessor_config.json`. The config says `vit`:
    runtimes choose by it what calls the graph, and that of a ViT gives it pixels and takes logits. The graph in float32
    is compared with torch in ONNX Runtime, at several batch sizes, before anything is put into the folder.

    Args:
        classifier: what `to_classifier` gave; left as it is.
        image_processor: the model's own.
        folder: a new folder, or an empty one.
        precisions: keys of `FILES`; float32 is always there.

    Returns:
        What was written, float32 first.

    Raises:
        ImportError: if a package is missing.
        FileExistsError: if there is something in the folder.
        ValueError: if the classifier cannot be a graph, or there is no such precision.
        RuntimeError: if ONNX Runtime's logits differ from torch's by more than 1e-4, or are not finite.
    """
    folder = Path(folder)
    unknown = sorted(set(precisions) - set(FILES))
    if unknown:
        raise ValueError(f"`precisions` must be among {tuple(FILES)}, got {unknown[0]!r}.")
    check_for_onnx(classifier)
    with folder_written_whole(folder) as draft:
        plain = deepcopy(classifier).to("cpu", torch.float32).eval()
        images = random_images(image_processor, sum(BATCHES))
        files = _write_graphs(plain, images, draft, [each for each in FILES if each in {"float32", *precisions}])
        onnx_config(plain, images).save_pretrained(draft)
        image_processor.save_pretrained(draft)
    return [replace(each, path=folder / FILES[each.precision]) for each in files]


def _write_graphs(
    classifier: ClassMatrixForImageClassification, images: Tensor, draft: Path, precisions: Sequence[str]
) -> list[OnnxFile]:
    """Write each graph into the draft, and compare it with torch.

    Raises:
        RuntimeError: if one is not what it is to be.
    """
    (draft / "onnx").mkdir()
    full, files = draft / FILES["float32"], []
    with torch.no_grad():
        expected = np.concatenate([classifier(each).logits.numpy() for each in images.split(BATCHES)])
    for precision in precisions:
        path = draft / FILES[precision]
        if precision == "int8":
            write_int8(full, path)
        else:
            classifier.encoder.to(getattr(torch, precision))
            write_graph(classifier, images[:2], path)
        run = OnnxClassifier(path)
        found = np.concatenate([run(each) for each in images.split(BATCHES)])
        difference = float(np.abs(found - expected).max())
        most = TOLERANCE if precision == "float32" else np.inf
        if not (np.isfinite(found).all() and difference <= most):
            told = f"differ from torch's by up to {difference:.1e}" if np.isfinite(found).all() else "are not finite"
            way_out = f", more than {most:.0e}" if np.isfinite(difference) else f": leave {precision} out"
            raise RuntimeError(f"ONNX Runtime's logits in {precision} {told}{way_out}. Nothing was written.")
        alike = float((found.argmax(-1) == expected.argmax(-1)).mean())
        files.append(OnnxFile(precision, path, path.stat().st_size, difference, alike))
    return files


def random_images(image_processor: Any, number: int) -> Tensor:
    """What the image processor makes of pictures of noise, `[N, 3, H, W]`, float32."""
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(number)]
    return image_processor(pictures, return_tensors="pt")["pixel_values"].float()


def onnx_config(classifier: ClassMatrixForImageClassification, images: Tensor) -> ViTConfig:
    """What runtimes read of a classifier that is a graph: its labels, the images' size, and what calls it.

    Args:
        classifier: the classifier.
        images: as its image processor gives them, `[B, 3, H, W]`.
    """
    from transformers import ViTConfig

    config, (height, width) = classifier.config, images.shape[-2:]
    return ViTConfig(
        architectures=["ViTForImageClassification"],
        image_size=height if height == width else [height, width],
        num_channels=images.shape[1],
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
        min_probability=config.min_probability,
        n_others=config.n_others,
        encoder_model_type=config.encoder_config.model_type,
    )
