"""One ONNX graph from pixels to logits, and smaller ones of it: float16, and int8 by ONNX Runtime's quantiser.

Tested with torch 2.13, onnx 1.23 and ONNX Runtime 1.31.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..towers import FAMILIES
from .modeling_class_matrix import ClassMatrixForImageClassification

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# What protobuf, and so a file without further files beside it, can hold.
MOST_BYTES = 2**31 - 2**24
# What a graph is called of which torch names the nodes: those outside of the encoder are the head's.
ENCODER = "classifier.encoder"
SCOPES = "pkg.torch.onnx.name_scopes"
# Loggers that tell of what is in order, such as that torchvision is not there.
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "onnxruntime", "root")


class _Logits(nn.Module):
    """The classifier with a tensor in and a tensor out, both float32, whatever its encoder computes in."""

    def __init__(self, classifier: ClassMatrixForImageClassification):
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.classifier(pixel_values.to(self.classifier.dtype)).logits


def check_for_onnx(classifier: ClassMatrixForImageClassification) -> None:
    """Check that a classifier can become an ONNX graph, before any work is done for it.

    Raises:
        ImportError: if a package is missing.
        ValueError: if its images are no plain pixels, or it is too large for a file.
    """
    from importlib.util import find_spec

    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ImportError(f'The package {missing[0]!r} is not installed: pip install "peft-coop[onnx]" has it.')
    family = FAMILIES.get(classifier.config.encoder_config.model_type)
    if family is not None and family.needs_image_inputs:
        raise ValueError(
            f"A classifier of {family.model_class} cannot be exported to ONNX: its images are of any shape, given with "
            f"`{'` and `'.join(family.image_inputs)}`, and how its positions are resized for each of them is no fixed "
            "graph. Checkpoints of a fixed size (SiglipModel) can be."
        )
    size = sum(each.numel() for each in (*classifier.parameters(), *classifier.buffers())) * 4
    if size > MOST_BYTES:
        raise ValueError(
            f"A classifier of {size / 2**30:.1f} GiB in float32 is too large for one ONNX file, which holds 2 GiB."
        )


def write_graph(classifier: ClassMatrixForImageClassification, example: Tensor, path: Path) -> None:
    """Write the graph `pixel_values` `[batch, 3, H, W]` to `logits` `[batch, C]`, both float32.

    Args:
        classifier: on the CPU and in evaluation mode; the graph computes in the precision of its encoder, and the few
            nodes of the head in float32.
        example: `[B, 3, H, W]`, two images or more, by which it is traced.
        path: the file.
    """
    with quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            _Logits(classifier).eval(),
            (example,),
            dynamo=True,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
        program.save(str(path), external_data=False)


def write_int8(source: Path, path: Path) -> None:
    """Write a graph whose matrices are int8, by ONNX Runtime's dynamic quantiser: activations are rounded as they come.

    The classes stay float32, since the scale of about 100 would make logits of their rounding, and so do convolutions,
    which few runtimes have in int8.

    Args:
        source: the graph in float32.
        path: the file.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        graph = onnx.load(source)
        del graph.graph.value_info[:]  # shapes of weights, some of which the quantiser transposes
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=head_nodes(graph),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def head_nodes(graph: Any) -> list[str]:
    """Names of the nodes behind the encoder: the norm, the cosines and their scale.

    Raises:
        RuntimeError: if there are none, or no others.
    """
    head = [node.name for node in graph.graph.node if not any(ENCODER in each.value for each in _scopes(node))]
    if not 0 < len(head) < len(graph.graph.node):
        raise RuntimeError(f"{len(head)} of {len(graph.graph.node)} nodes stand outside of {ENCODER!r}.")
    return head


def _scopes(node: Any) -> list[Any]:
    return [each for each in node.metadata_props if each.key == SCOPES]


class OnnxClassifier:
    """A graph in ONNX Runtime, on the CPU.

    Args:
        path: the file.
        threads: that it computes with.
    """

    def __init__(self, path: Path, threads: int | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixel_values: Tensor) -> np.ndarray:
        """Logits `[B, C]` of `pixel_values` `[B, 3, H, W]`."""
        return self._session.run(None, {"pixel_values": pixel_values.float().numpy()})[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Let what exports and converts tell errors alone: whether it went well, the numbers say."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
