"""What a prompt method must answer: its prompt, the terms of its loss, and its entry of the table METHODS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..heads import Head, ImageClassificationHead
from ..prompts import PromptSequences, check_class_names
from ..recipes import (
    IMAGE_PROTOCOLS,
    PROTOCOL_FIELDS,
    PROTOCOL_RECIPES,
    PROTOCOLS,
    SEVERAL_PROTOCOLS,
    Recipe,
    coop_recipe,
)
from ..towers import NO_DEEP_VECTORS, DeepVectors, has_bias, scale_and_bias, text_reader
from .config import PromptConfig

if TYPE_CHECKING:
    from transformers import TrainerCallback

SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0


@dataclass(frozen=True)
class LossTerm:
    """A term of the loss beside cross-entropy.

    Attributes:
        value: scalar, before weighting.
        weight: what it is multiplied by; 0 for a part that is reported and not added.
    """

    value: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Step:
    """What a training step has computed, for further terms of the loss.

    Shapes: B images, C classes, V learnable vectors, D text width, P projection width.

    Attributes:
        logits: `[B, C]`.
        labels: `[B]`; None where the loss is computed outside the model.
        image_embeds: `[B, P]`, L2-normalised.
        text_embeds: `[C, P]`, or `[B, C, P]` if the prompt depends on the image; L2-normalised.
        vectors: what `Prompt.vectors` gave for this step, `[V, D]` or `[B, V, D]`.
        dtype: what the text features were computed in: bfloat16 under autocast, for example.
        zero_shot_text_embeds: computes `[C, P]`, L2-normalised, of the frozen model with `zero_shot_template`; kept
            from step to step.
        zero_shot_image_embeds: computes `[B, P]`, L2-normalised, of the frozen model.
        compare: logits `[B, C]` of image and text features.
        teacher_text_embeds: computes `[C, P]`, L2-normalised: of the frozen model with `Prompt.teacher_texts`, their
            features averaged before they are normalised; kept from step to step.
    """

    logits: Tensor
    labels: Tensor | None
    image_embeds: Tensor
    text_embeds: Tensor
    vectors: Tensor
    dtype: torch.dtype
    zero_shot_text_embeds: Callable[[], Tensor]
    zero_shot_image_embeds: Callable[[], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]
    teacher_text_embeds: Callable[[], Tensor]

    def zero_shot_logits(self) -> Tensor:
        """Logits `[B, C]` of the frozen model with `zero_shot_template`, without a gradient."""
        return self.compare(self.zero_shot_image_embeds(), self.zero_shot_text_embeds())


@dataclass(frozen=True)
class VectorName:
    """What a learned vector is called, for people.

    Attributes:
        index: its place in its group, from 0.
        group: the class that it belongs to, or the kind of words that it is one of; None for one that all classes have.
        word: what it stands for; None where that was not a word.
        place: where in the prompt its group stands, in words; None where all stand in one place.
    """

    index: int
    group: str | None = None
    word: str | None = None
    place: str | None = None


class Prompt(nn.Module, ABC):
    """One adapter: all that a method learns, and what becomes of it.

    Shapes: B images, C classes, V learnable vectors, D text width, P projection width.

    Args:
        config: the adapter's settings, a copy of the user's; what it leaves open is settled in it.
        model: the dual encoder, without the adapter. It may be read here and must not be kept or changed.

    Attributes:
        settings: the config.
        reader: turns texts into the token ids of this model.
        needs_images: whether the text side depends on the image.
        changes_text: whether the classes are read with learned vectors, and not with `zero_shot_template`.
        has_class_vectors: whether each class has vectors of its own at deeper layers, see `class_vectors`.
        call_arguments: names of further arguments of the model's forward, by which a call chooses its own classes.
        task_head: what stands around the towers in the method's task: images in, logits and loss out.
    """

    task_head: ClassVar[Head] = ImageClassificationHead()
    needs_images: bool = False
    changes_text: bool = True
    has_class_vectors: bool = False
    call_arguments: tuple[str, ...] = ()

    def __init__(self, config: Any, model: nn.Module):
        super().__init__()
        self.settings = config
        self.reader = text_reader(model, config.tokenizer_name_or_path)
        if config.has_several_labels:
            self.label_scale, self.label_bias = map(nn.Parameter, start_of_sigmoid(model))

    @property
    def scale_and_bias(self) -> tuple[Tensor, Tensor] | None:
        """The learned factor of the cosines and what is added, where an image has any number of classes."""
        return (self.label_scale.exp(), self.label_bias) if self.settings.has_several_labels else None

    @abstractmethod
    def sequences(self, class_names: Sequence[str]) -> PromptSequences:
        """The prompts of some classes: token ids, and id V + r for row r of `vectors`.

        Raises:
            TypeError, ValueError: if the names are none, or a prompt is too long.
        """

    def hand_written(self, class_names: Sequence[str]) -> list[PromptSequences]:
        """The prompts of the same classes without learnable vectors, by template: their features are averaged.

        Raises:
            ValueError: if a prompt is too long.
        """
        return [self.reader.hand_written(class_names, template) for template in self.settings.templates]

    def teacher_texts(self, class_names: Sequence[str]) -> list[PromptSequences]:
        """The classes' prompts, by template, that the frozen model teaches with: see `Step.teacher_text_embeds`.

        Raises:
            ValueError: if a prompt is too long.
        """
        return self.hand_written(class_names)

    def class_names(self, classes: Sequence[Any]) -> list[str]:
        """The names of classes as a user gives them: names already, unless the method takes something else, too.

        Raises:
            TypeError, ValueError: if they are no classes.
        """
        return check_class_names(classes)

    def classes_of_call(self, **given: Any) -> list[str]:
        """The names of the classes that a call chooses, by what it gives for `call_arguments`.

        Raises:
            TypeError, ValueError: if it chooses none.
        """
        raise NotImplementedError(f"{type(self).__name__} has `call_arguments`, and does not say what they choose.")

    def arguments_of_step(self, labels: Any) -> dict[str, Any]:
        """What a training step gives for `call_arguments` by itself where its call gives nothing; nothing by default.

        Args:
            labels: of the step, as the call gives them; None where the loss is computed outside the model.
        """
        return {}

    def labels_of_call(self, labels: Any, **given: Any) -> Any:
        """Labels that count the classes which a call chooses; as they are if not overridden.

        Args:
            labels: as the call gives them.
            **given: what it gives for `call_arguments`.

        Raises:
            ValueError: if one of them is no class of the call.
        """
        return labels

    @abstractmethod
    def vectors(self, image_embeds: Tensor | None = None) -> Tensor:
        """The table of learnable vectors, `[V, D]`, or `[B, V, D]` if the prompt depends on the image.

        Args:
            image_embeds: `[B, P]`, L2-normalised; only if `needs_images`.
        """

    def deep_vectors(self) -> DeepVectors:
        """What replaces the hidden states at the vectors' places before deeper layers of the text tower.

        By the number of the layer, 1 or more and below the tower's number of layers: `[V, D]`.
        """
        return NO_DEEP_VECTORS

    def class_vectors(self, zero_shot: Tensor) -> DeepVectors:
        """As `deep_vectors`, other vectors for each class: `[C, V, D]` by layer; asked for if `has_class_vectors`.

        The prompts of `sequences` have `parts=True` then, and their vectors in front of the class names.

        Args:
            zero_shot: `[C, P]`, L2-normalised, the classes' features in the frozen model with `zero_shot_template`.
        """
        return NO_DEEP_VECTORS

    def vision_vectors(self) -> Sequence[Tensor]:
        """Prompts of the vision tower, each `[n, W]` of its width W; none where the config's `changes_vision` is False.

        The first is appended to an image's tokens, and entry i stands in its place before layer i.
        """
        return ()

    def named_vectors(self, class_names: Sequence[str]) -> tuple[list[VectorName], Tensor]:
        """The learned vectors as they stand among the embeddings of words, and what each is called.

        Args:
            class_names: the adapter's classes.

        Returns:
            R names, and the vectors `[R, D]`, without what single images change; all of `vectors` if not overridden.
        """
        vectors = self.vectors()
        return [VectorName(index) for index in range(len(vectors))], vectors

    def given_texts(self, input_ids: Tensor) -> PromptSequences:
        """Prompts with the learned vectors put into given texts, for the base model's own call, with texts.

        Args:
            input_ids: `[N, L]`, as the model's tokenizer gives them.

        Raises:
            ValueError: if the method has no such prompts, or a row is no text.
        """
        raise ValueError(f"A prompt of {type(self).__name__} cannot be put into other texts: leave out `input_ids`.")

    def check_classes(self, class_names: Sequence[str], own: Sequence[str] | None) -> None:
        """Check that the prompt can have other classes than those that it was made with.

        Args:
            class_names: the new names.
            own: those that it has; None for none.

        Raises:
            ValueError: if it cannot.
        """

    def check_taught(self, class_names: Sequence[str]) -> None:
        """Check that the prompt can be trained for some classes: that what teaches it of them can be read.

        Asked when an adapter that is trained is given its classes; one that only classifies needs no teacher.

        Raises:
            ValueError: if it cannot, since a text of the teacher's is too long for example.
        """

    def rate_and_decay(self, name: str | None) -> tuple[float, float]:
        """Factors of the learning rate and of the weight decay for a trained weight, as the paper has them.

        Args:
            name: of a weight in this module; None for the vision tower's own weights.
        """
        return 1.0, 1.0

    def extra_losses(self, step: Step) -> dict[str, LossTerm]:
        """Terms of the loss beside cross-entropy, by the names under which they are logged; in training only.

        Asked for without labels, too, where the loss is computed outside the model, as the Trainer does with
        `label_smoothing_factor`: terms with a weight are then left out with a warning.
        """
        return {}


def start_of_sigmoid(model: nn.Module) -> tuple[Tensor, Tensor]:
    """What the logarithm of the scale and the bias of logits start as, that judge each class for itself.

    The model's own where it was trained so; otherwise those that SigLIP's pretraining starts from, with which nearly
    every class is answered no. With CLIP's own scale, of 100, the first steps would be far too large.

    Reference: SigLIP (arXiv:2303.15343), section 3.2.
    """
    if has_bias(model):
        scale, bias = scale_and_bias(model, torch.zeros((), dtype=torch.float32))
        return scale.detach().log().reshape(1).clone(), cast(Tensor, bias).detach().reshape(1).clone()
    return torch.tensor([SIGLIP_SCALE]).log(), torch.tensor([SIGLIP_BIAS])  # one axis, for FSDP takes no scalars


@dataclass(frozen=True)
class Method:
    """A prompt method, as everything else knows it: an entry of `METHODS`.

    Attributes:
        key: short name for files, options and tags, such as "cocoop".
        title: as the papers write it.
        config: the class of its settings.
        prompt: the class of what it learns, made of settings and a model.
        reference: the paper's arXiv number; None where there is none.
        summary: what is special about its vectors, to follow "4 learned vectors" in a sentence; may be empty.
        recipe_of: see `recipe`; takes the number of shots, the dataset's name or None, and the protocol. CoOp's if not
            given.
        fields_of: see `fields`; takes the protocol. What the config has by default if not given.
        other_classes: which other classes a trained prompt can have, a sentence of the model card; may be empty.
        settings: fields of the config, beside those of the context, that tell one prompt from another; None: all that
            the config has and `PromptConfig` has not.
        colour: of its lines and bars, as "#rrggbb".
        protocols: the experiments that it takes part in: those whose classes it can have. See `takes_part_in`.
        fields_of_data: further fields of the config that the papers have in a protocol, by it and the dataset's name.
        callbacks_of: what the Trainer is to be given beside, by the config and the recipe.
    """

    key: str
    title: str
    config: type[PromptConfig]
    prompt: type[Prompt]
    reference: str | None = None
    recipe_of: Callable[[int, str | None, str], Recipe] = coop_recipe
    fields_of: Callable[[str], Mapping[str, Any]] = lambda protocol: {}
    summary: str = ""
    other_classes: str = ""
    settings: tuple[str, ...] | None = None
    colour: str | None = None
    protocols: tuple[str, ...] = IMAGE_PROTOCOLS
    fields_of_data: Callable[[str, str | None], Mapping[str, Any]] = lambda protocol, data: {}
    callbacks_of: Callable[[Any, Recipe], Sequence[TrainerCallback]] = lambda config, recipe: ()

    def recipe(self, num_shots: int, data: str | None = None, protocol: str = "few-shot") -> Recipe:
        """The settings that the paper trains with; in a protocol that trains all methods alike, these.

        Args:
            num_shots: images per class.
            data: the dataset's name.
            protocol: one of `PROTOCOLS`.

        Raises:
            ValueError: if there is no shot, or no such protocol.
        """
        check_protocol(protocol)
        if num_shots < 1:
            raise ValueError(f"`num_shots` must be 1 or more, got {num_shots}.")
        if protocol in PROTOCOL_RECIPES:
            return PROTOCOL_RECIPES[protocol](data)
        return self.recipe_of(num_shots, data, protocol)

    def fields(self, protocol: str = "few-shot", data: str | None = None) -> dict[str, Any]:
        """The fields of the config that the papers have in a protocol, the context's length and start for example.

        Args:
            protocol: one of `PROTOCOLS`.
            data: the dataset's name.

        Raises:
            ValueError: if there is no such protocol.
        """
        check_protocol(protocol)
        known = {each.name for each in fields(self.config)}
        of_protocol = {name: value for name, value in PROTOCOL_FIELDS.get(protocol, {}).items() if name in known}
        return {**self.fields_of(protocol), **of_protocol, **self.fields_of_data(protocol, data)}

    def takes_part_in(self, protocol: str) -> bool:
        """Whether it can have a protocol's classes, and several labels per image where the protocol has them.

        Args:
            protocol: one of `PROTOCOLS`.
        """
        if protocol in SEVERAL_PROTOCOLS:
            return self.config.needs_one_label is None and "few-shot" in self.protocols
        return protocol in self.protocols

    @property
    def own_settings(self) -> tuple[str, ...]:
        """Fields of the config that tell one prompt of the method from another, see `settings`."""
        if self.settings is not None:
            return self.settings
        common = {each.name for each in fields(PromptConfig)}
        return tuple(each.name for each in fields(self.config) if each.name not in common)

    @property
    def link(self) -> str:
        """The title, as a Markdown link to the paper where there is one."""
        return f"[{self.title}](https://arxiv.org/abs/{self.reference})" if self.reference else self.title


def check_protocol(protocol: str) -> None:
    """Check the name of a protocol.

    Raises:
        ValueError: if there is none of this name.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {PROTOCOLS}, got {protocol!r}.")
