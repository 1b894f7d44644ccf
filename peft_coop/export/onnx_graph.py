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
from torch import Tensor

from ..towers import FAMILIES
from .graphs import Graph

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# What protobuf, and so a file without further files beside it, can hold.
MOST_BYTES = 2**31 - 2**24
SCOPES = "pkg.torch.onnx.name_scopes"
# Loggers that tell of what is in order, such as that torchvision is not there.
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "onnxruntime", "root")


def check_packages() -> None:
    """Check that what writes and runs graphs is installed.

    Raises:
        ImportError: if a package is missing.
    """
    from importlib.util import find_spec

    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ImportError(f'The package {missing[0]!r} is not installed: pip install "peft-coop[onnx]" has it.')


def check_graph(graph: Graph) -> None:
    """Check that a model can become a file, before it is traced.

    Raises:
        ValueError: if its images are no plain pixels, or it is too large.
    """
    family = FAMILIES.get(graph.encoder_type)
    if family is not None and family.needs_image_inputs:
        raise ValueError(
            f"A classifier of {family.model_class} cannot be exported to ONNX: its images are of any shape, given with "
            f"`{'` and `'.join(family.image_inputs)}`, and how its positions are resized for each of them is no fixed "
            "graph. Checkpoints of a fixed size (SiglipModel) can be."
        )
    size = graph.num_weights * 4
    if size > MOST_BYTES:
        raise ValueError(
            f"A classifier of {size / 2**30:.1f} GiB in float32 is too large for one ONNX file, which holds 2 GiB."
        )


def write_graph(graph: Graph, example: Tensor, path: Path) -> None:
    """Write the file that maps `pixel_values` `[batch, ...]` to `logits` `[batch, C, ...]`, both float32.

    Args:
        graph: in the precision that it is to compute in.
        example: two inputs or more, by which it is traced: all of their axes but the first stay as they are.
        path: the file.

    Raises:
        RuntimeError: if torch cannot trace it, or not for any number of inputs.
    """
    with quiet(), torch.no_grad():
        try:
            program = traced(graph, example)
        except torch.onnx.OnnxExporterError as error:
            told = str(error.__cause__ or error).strip().splitlines()[0]
            raise RuntimeError(f"torch cannot trace {graph.made_of}, so that it is no graph: {told}") from error
        size = program.model.graph.inputs[0].shape[0]
        if isinstance(size, int):
            raise RuntimeError(
                f"torch has traced {graph.made_of} for batches of {size} alone: something in it depends on the number "
                "of inputs, such as a loop over them, or `len(tensor)` for `tensor.shape[0]`."
            )
        program.save(str(path), external_data=False)


def traced(graph: Graph, example: Tensor) -> Any:
    """See `write_graph`: the program before it is written."""
    return torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
        external_data=False,
        verbose=False,
    )


def write_int8(source: Path, path: Path, rounded: str) -> None:
    """Write a graph whose matrices are int8, by ONNX Runtime's dynamic quantiser: activations are rounded as they come.

    The classes stay float32, since the scale of about 100 would make logits of their rounding, and so do convolutions,
    which few runtimes have in int8.

    Args:
        source: the graph in float32.
        path: the file.
        rounded: see `Graph`.
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
            nodes_to_exclude=head_nodes(graph, rounded),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def head_nodes(graph: Any, rounded: str) -> list[str]:
    """Names of the nodes that no module within a module has computed: norms of features, cosines and their scale.

    Args:
        graph: of onnx, as torch has written it.
        rounded: the module's dotted name.

    Raises:
        RuntimeError: if there are none, or no others.
    """
    within = f"'{rounded}."
    head = [node.name for node in graph.graph.node if not any(within in each.value for each in _scopes(node))]
    if not 0 < len(head) < len(graph.graph.node):
        raise RuntimeError(f"{len(head)} of {len(graph.graph.node)} nodes stand outside of {rounded!r}.")
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
        """Logits `[B, C]` of `pixel_values` `[B, 3, H, W]`; of videos and of pixels, see `export_onnx`."""
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
