"""What a head must answer: everything of a call that depends on the task, and on no prompt method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Head(ABC):
    """What stands around the two towers in a task: images in, logits and a loss out.

    It holds no weights. What a head learns belongs to the adapter, and so to the method's prompt, which every call
    hands over; None stands for the model without adapters, zero-shot.

    Shapes: B images (or videos), C classes, P projection width.

    Attributes:
        task_type: PEFT's name of the task, such as "IMAGE_CLS".
        pipeline_tag: the Hub's name of the task.
        beside_logits: fields of its output that `Trainer.predict` must not collect.
        no_smoothing: why `label_smoothing_factor` of the Trainer cannot be used, and what can; empty where it can.
    """

    task_type: ClassVar[str]
    pipeline_tag: ClassVar[str]
    beside_logits: ClassVar[tuple[str, ...]] = ()
    no_smoothing: ClassVar[str] = ""

    def prepare(self, model: nn.Module) -> None:  # noqa: B027  most need nothing
        """Make a model ready for the head, when a prompt is put in; nothing by default.

        Args:
            model: the dual encoder.

        Raises:
            ValueError: if it has not what the head needs.
        """

    @abstractmethod
    def embed_images(
        self,
        model: nn.Module,
        pixel_values: Tensor | None,
        image_embeds: Tensor | None,
        prompts: Sequence[Tensor] = (),
        **of_images: Any,
    ) -> Any:
        """What the vision tower makes of the images, in the form that `compare` reads.

        Args:
            model: the dual encoder.
            pixel_values: as its image processor gives them.
            image_embeds: features that were computed before, instead.
            prompts: of its vision tower, see `towers.vision_prompts`.
            **of_images: what its vision tower takes beside `pixel_values`.

        Raises:
            TypeError, ValueError: if there is not exactly one of the two, or it has another shape.
        """

    @abstractmethod
    def compare(self, model: nn.Module, prompt: Any, images: Any, text_features: Tensor) -> ModelOutput:
        """Logits, and what else the task's output has, without a loss: a `ModelOutput` with a field `loss_parts`.

        All that it holds has a first axis of B, but for `text_embeds`, which may be `[C, P]`.

        Args:
            model: the dual encoder.
            prompt: the adapter's prompt; None where adapters are disabled.
            images: what `embed_images` gave.
            text_features: `[C, P]` or `[B, C, P]`, projected and not normalised.
        """

    @abstractmethod
    def add_loss(self, outputs: ModelOutput, labels: Any, num_items: Tensor | int | None, settings: Any) -> None:
        """Put the loss, and its own parts where there are any, into an output of `compare`.

        Args:
            outputs: the output.
            labels: as the task has them.
            num_items: what the Trainer divides by, of the whole optimizer step; None: what this batch has.
            settings: the config of the adapter.

        Raises:
            TypeError, ValueError: if the labels do not fit the logits.
        """

    def share_of_items(self, outputs: ModelOutput, labels: Any, num_items: Tensor | int | None) -> Tensor | float:
        """The share of a batch in what the loss of an optimizer step is averaged over; 1 where nobody said how much.

        Args:
            outputs: what `compare` gave; the share is on the device of its logits, and at least in float32.
            labels: of the batch; None where the loss is computed outside the model.
            num_items: images of the step.
        """
        if num_items is None:
            return 1.0
        return len(outputs.logits) / (num_items.to(outputs.logits) if isinstance(num_items, Tensor) else num_items)

    @abstractmethod
    def example(self, settings: Any) -> str:
        """The lines of a model card that read an input, with `processor` and `Image`, and print what `model` says.

        Args:
            settings: the config of the adapter.
        """

    def input_shape(self, settings: Any, image: Sequence[int]) -> tuple[int, ...]:
        """The shape of one input of an exported graph: an image's, if not overridden.

        Args:
            settings: the config of the adapter.
            image: `[3, H, W]`, as the image processor gives it.
        """
        return tuple(image)

    def check_image_processor(self, image_processor: Any) -> None:  # noqa: B027  most read what a CLIP's own gives
        """Check what prepares images for an exported graph.

        Args:
            image_processor: stands beside the graph, for runtimes that call both.

        Raises:
            ValueError: if what it gives is not what is to be classified.
        """

    def graph_config(self, settings: Any, image: Sequence[int], **fields: Any) -> PretrainedConfig:
        """What `config.json` beside an exported graph says: that of a model of transformers that is called like it.

        Runtimes choose by it what prepares the inputs, calls the graph, and reads its logits.

        Args:
            settings: the config of the adapter.
            image: `[3, H, W]`, as the image processor gives it.
            **fields: of the config: the labels, and what is decided by.

        Raises:
            ValueError: if the head does not say.
        """
        raise ValueError(
            f"{type(self).__name__} does not say which model of transformers a graph of it is called like "
            "(`graph_config`): it cannot be exported."
        )

    def loss_name(self, settings: Any) -> str:
        """What the loss is called among the parts that are logged.

        Args:
            settings: the config of the adapter.
        """
        return "cross_entropy"

    def parts_beside(self, outputs: ModelOutput, settings: Any) -> tuple[str, ...]:
        """What its loss adds to the first part, so that a loss that is computed outside the model lacks it.

        Args:
            outputs: what `compare` gave.
            settings: the config of the adapter.
        """
        return ()
