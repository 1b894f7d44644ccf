"""What becomes an ONNX graph: pixels to logits in one module, and what is said of it beside the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ..heads import ImageClassificationHead
from .modeling_class_matrix import ClassMatrixForImageClassification


class Graph(nn.Module, ABC):
    """A copy of a model with a tensor in and a tensor out; what is written is in float32, and in evaluation mode.

    Attributes:
        rounded: dotted name of the module whose own modules are computed in the precision of a file. What is computed
            beside them are the comparisons with the classes: always in float32.
    """

    rounded: ClassVar[str]

    @abstractmethod
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits `[B, C, ...]`, in float32 or float64, of B inputs."""

    @abstractmethod
    def input_shape(self, image: Sequence[int]) -> tuple[int, ...]:
        """The shape of one input.

        Args:
            image: of an image, `[3, H, W]`, as the image processor gives it.
        """

    def check_image_processor(self, image_processor: Any) -> None:
        """Check what prepares images.

        Raises:
            ValueError: if it is not for what the graph answers.
        """

    @abstractmethod
    def config(self, image: Sequence[int]) -> PretrainedConfig:
        """What runtimes read in `config.json`: the labels, the images' size, and what calls such a graph.

        Args:
            image: see `input_shape`.

        Raises:
            ValueError: if the task has none.
        """

    @abstractmethod
    def round_to(self, dtype: torch.dtype) -> None:
        """Let what is `rounded` compute in a dtype; what an adapter has learned beside it stays as it is."""

    @property
    @abstractmethod
    def encoder_type(self) -> str:
        """The model type of the dual encoder."""

    @property
    @abstractmethod
    def made_of(self) -> str:
        """What is to be a graph, for errors."""

    @property
    @abstractmethod
    def num_weights(self) -> int:
        """How many numbers the graph holds, about."""


class ClassMatrixGraph(Graph):
    """A plain classifier.

    Args:
        classifier: what `to_classifier` gave; left as it is.
    """

    rounded = "classifier.encoder"

    def __init__(self, classifier: ClassMatrixForImageClassification):
        super().__init__()
        self.classifier = deepcopy(classifier)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See `Graph.forward`: `[B, 3, H, W]` to `[B, C]`."""
        return self.classifier(pixel_values.to(self.classifier.dtype)).logits

    def input_shape(self, image: Sequence[int]) -> tuple[int, ...]:
        """See `Graph.input_shape`."""
        return tuple(image)

    def config(self, image: Sequence[int]) -> PretrainedConfig:
        """See `Graph.config`."""
        own = self.classifier.config
        names = ("id2label", "label2id", "problem_type", "min_probability", "n_others")
        told = {name: getattr(own, name) for name in names}
        return ImageClassificationHead().graph_config(None, image, encoder_model_type=self.encoder_type, **told)

    def round_to(self, dtype: torch.dtype) -> None:
        """See `Graph.round_to`."""
        self.classifier.encoder.to(dtype)

    @property
    def encoder_type(self) -> str:
        """See `Graph.encoder_type`."""
        return self.classifier.config.encoder_config.model_type

    @property
    def made_of(self) -> str:
        """See `Graph.made_of`."""
        return type(self.classifier).__name__

    @property
    def num_weights(self) -> int:
        """See `Graph.num_weights`."""
        return num_weights(self.classifier)


def num_weights(*modules: nn.Module) -> int:
    """How many numbers modules hold, buffers included."""
    return sum(each.numel() for module in modules for each in (*module.parameters(), *module.buffers()))
