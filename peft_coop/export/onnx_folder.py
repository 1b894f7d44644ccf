"""A folder with an ONNX classifier, as ONNX Runtime, Optimum and transformers.js read it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..whole_files import folder_written_whole
from .graphs import ClassMatrixGraph, Graph
from .group_norms import by_means
from .modeling_class_matrix import ClassMatrixForImageClassification
from .onnx_graph import OnnxClassifier, check_graph, check_packages, write_graph, write_int8
from .whole_graph import WholeGraph

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
        best_alike: the share of these images, or of their places, with the same best class.
    """

    precision: str
    path: Path
    size: int
    difference: float
    best_alike: float


def export_onnx(
    model: nn.Module,
    image_processor: Any,
    folder: str | os.PathLike,
    precisions: Sequence[str] = tuple(FILES),
) -> list[OnnxFile]:
    """Write graphs `pixel_values` to `logits` of any batch size, and what is needed beside them.

    Shapes: B images or videos, T frames, C classes, and "other" last where the adapter has names of it; h and w places.

    A prompt for images has logits `[B, C]` of `pixel_values` `[B, 3, H, W]`; one for videos reads `[B, T, 3, H, W]`, T
    as it was learned; one for pixels gives `[B, C, h, w]`, to be enlarged. All are divided by the calibration
    temperature. H and W are those that the image processor gives. The classes are constants; a prompt that looks at
    images (CoCoOp) has the text tower in its graph.

    Beside `onnx/model.onnx` lie `config.json`, with the labels, and `preprocessor_config.json`. The config is of a
    model in transformers with such inputs and logits (`vit`, `videomae` or `segformer`): runtimes choose by it what
    calls the graph. The graph in float32 is compared with torch in ONNX Runtime, at several batch sizes, before
    anything is put into the folder.

    Args:
        model: with a prompt: its active adapter and classes are exported; or what `to_classifier` gave. Left as it is.
        image_processor: the model's own; for pixels one that gives images of one size, such as that of
            `data.mask_image_processor`.
        folder: a new folder, or an empty one.
        precisions: keys of `FILES`; float32 is always there.

    Returns:
        What was written, float32 first.

    Raises:
        ImportError: if a package is missing.
        FileExistsError: if there is something in the folder.
        TypeError: if the model has no prompt.
        ValueError: if it cannot be a graph, the image processor is not for its task, or there is no such precision.
        RuntimeError: if torch cannot trace it for any number of inputs; if ONNX Runtime's logits differ from torch's by
            more than 1e-4, or are not finite.
    """
    folder = Path(folder)
    unknown = sorted(set(precisions) - set(FILES))
    if unknown:
        raise ValueError(f"`precisions` must be among {tuple(FILES)}, got {unknown[0]!r}.")
    check_packages()
    with folder_written_whole(folder) as draft:
        graph = graph_of(model).to("cpu", torch.float32).eval()
        check_graph(graph)
        by_means(graph)
        graph.check_image_processor(image_processor)
        inputs, image = random_inputs(graph, image_processor, sum(BATCHES))
        config = graph.config(image)
        files = _write_graphs(graph, inputs, draft, [each for each in FILES if each in {"float32", *precisions}])
        config.save_pretrained(draft)
        image_processor.save_pretrained(draft)
    return [replace(each, path=folder / FILES[each.precision]) for each in files]


def graph_of(model: nn.Module) -> Graph:
    """What becomes the file: a plain classifier, or all that a model with a prompt needs to answer."""
    if isinstance(model, ClassMatrixForImageClassification):
        return ClassMatrixGraph(model)
    return WholeGraph(model.get_base_model() if hasattr(model, "get_base_model") else model)


def _write_graphs(graph: Graph, inputs: Tensor, draft: Path, precisions: Sequence[str]) -> list[OnnxFile]:
    """Write each graph into the draft, and compare it with torch.

    Raises:
        RuntimeError: if one is not what it is to be.
    """
    (draft / "onnx").mkdir()
    full, files = draft / FILES["float32"], []
    with torch.no_grad():
        expected = np.concatenate([graph(each).numpy() for each in inputs.split(BATCHES)])
    for precision in precisions:
        path = draft / FILES[precision]
        if precision == "int8":
            write_int8(full, path, graph.rounded)
        else:
            graph.round_to(getattr(torch, precision))
            write_graph(graph, inputs[:2], path)
        run = OnnxClassifier(path)
        found = np.concatenate([run(each) for each in inputs.split(BATCHES)])
        difference = float(np.abs(found - expected).max())
        most = TOLERANCE if precision == "float32" else np.inf
        if not (np.isfinite(found).all() and difference <= most):
            told = f"differ from torch's by up to {difference:.1e}" if np.isfinite(found).all() else "are not finite"
            way_out = f", more than {most:.0e}" if np.isfinite(difference) else f": leave {precision} out"
            raise RuntimeError(f"ONNX Runtime's logits in {precision} {told}{way_out}. Nothing was written.")
        alike = float((found.argmax(1) == expected.argmax(1)).mean())
        files.append(OnnxFile(precision, path, path.stat().st_size, difference, alike))
    return files


def random_inputs(graph: Graph, image_processor: Any, number: int) -> tuple[Tensor, tuple[int, ...]]:
    """What a graph takes, made by the image processor of pictures of noise, float32, and the shape of one image."""
    random = np.random.default_rng(0)

    def images(count: int) -> Tensor:
        pictures = [Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]
        return image_processor(pictures, return_tensors="pt")["pixel_values"].float()

    image = tuple(images(1).shape[1:])
    shape = graph.input_shape(image)
    return images(number * math.prod(shape) // math.prod(image)).reshape(number, *shape), image
