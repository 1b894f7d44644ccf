"""The settings that every method has, and the checks of what a user typed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar

from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftType, TaskType

from ..prompts import check_class_names, check_template
from ..prompts.alike_names import alike
from ..towers import FAMILIES

LOSS_TYPES = ("softmax", "sigmoid")
# As transformers calls them: an image has one class, or any number of them.
SINGLE_LABEL, SEVERAL_LABELS = "single_label_classification", "multi_label_classification"
SHOWN_ENTRIES = 8  # of a list of settings, in a message
# How probabilities are made and what is answered, which is chosen after training for the classes of then.
DECISION_FIELDS = ("calibration_temperature", "min_probability", "other_names")
OTHER = "other"  # what is answered for images of none of the classes


@dataclass(eq=False)
class PromptConfig(PeftConfig):
    """Settings that every method has.

    Args:
        class_names: the classes; saved in `adapter_config.json`, so that a loaded adapter is a ready classifier.
        zero_shot_template: the prompt while the adapter is disabled; of a list, the normalised features are averaged.
        tokenizer_name_or_path: the prompt's tokenizer; None: the base model's own name or path.
        loss_type: "softmax", cross-entropy over the classes, or "sigmoid", which asks of each class for itself whether
            the image shows it, as SigLIP was trained.
        modules_to_save: modules of the base model that are trained and saved with the prompt, by the ends of their
            dotted names: "visual_projection", "text_model.final_layer_norm". Each adapter has its own copies.
        calibration_temperature: what logits are divided by before they become probabilities; fitted to these classes
            after training, see `peft_coop.evaluation.calibrate`. Forward's logits and the loss know nothing of it.
        min_probability: from 0 to 1; an image whose best class is less likely than that is answered with "other". Where
            an image has any number of classes, those at least so likely are answered; None: 0.5.
        other_names: names of what is none of the classes; their probability is that of "other".
        problem_type: "single_label_classification", or "multi_label_classification" where an image has any number of
            classes: labels are rows of 0 and 1, each class is judged by a sigmoid, and scale and bias of the logits are
            learned with the prompt. None: as the base model's config has it, and one class where it says nothing.

    Attributes:
        method: key of the method in `METHODS`.
        type_name: PEFT's name of the method; None: the key in capitals. Saved weights begin with it in small letters.
        task_name: PEFT's name of the task, that of the prompt's head.
        loaded_from: the folder or repository that these settings were read from, whose weights are still to come; None
            for settings that were made here.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.
    """

    class_names: list[str] | None = field(default=None, metadata={"help": "The classes, as a human writes them."})
    zero_shot_template: str | list[str] = field(
        default="a photo of a {}.",
        metadata={"help": "Prompt with {} for the name, used while the adapter is disabled; a list is averaged."},
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "The prompt's tokenizer; None: the base model's own name or path."}
    )
    loss_type: str = field(
        default="softmax",
        metadata={"help": "'softmax': cross-entropy over the classes; 'sigmoid': each class for itself, as SigLIP."},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules of the base model that are trained and saved with the prompt."}
    )
    calibration_temperature: float | None = field(
        default=None, metadata={"help": "What logits are divided by before they become probabilities; None: 1."}
    )
    min_probability: float | None = field(
        default=None, metadata={"help": "An image whose best class is less likely is answered with 'other'."}
    )
    other_names: list[str] | None = field(
        default=None, metadata={"help": "Names of what is none of the classes; together they are 'other'."}
    )
    problem_type: str | None = field(
        default=None,
        metadata={"help": "'multi_label_classification' where an image has any number of classes; None: one."},
    )

    method: ClassVar[str]
    type_name: ClassVar[str | None] = None
    task_name: ClassVar[str] = "IMAGE_CLS"
    # Why an image cannot have several labels; None where it can.
    needs_one_label: ClassVar[str | None] = None
    # Settings that make the same weights mean something else, see `first_difference`.
    shaping: ClassVar[tuple[str, ...]] = ()
    # PEFT reads this of every tuner's config; the place is a fact of the model family and no setting.
    target_modules: ClassVar[str] = "|".join(sorted({family.embeddings for family in FAMILIES.values()}))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(self.type_name or self.method.upper())
        self.task_type = TaskType(self.task_name)
        self.loaded_from: str | None = None
        if self.class_names is not None:
            self.class_names = check_class_names(self.class_names)
        if self.tokenizer_name_or_path is not None:
            self.tokenizer_name_or_path = os.fspath(self.tokenizer_name_or_path)
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"`loss_type` must be one of {LOSS_TYPES}, got {self.loss_type!r}.")
        self._check_templates()
        self._check_modules()
        self.check_problem_type()
        self.calibration_temperature, self.min_probability, self.other_names = check_decision(
            self.calibration_temperature, self.min_probability, self.other_names, self.class_names
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them; what came after the first saved adapters is there only where it was chosen."""
        settings, later = super().to_dict(), (*DECISION_FIELDS, "problem_type")
        return {name: value for name, value in settings.items() if name not in later or value is not None}

    @property
    def has_several_labels(self) -> bool:
        """Whether an image has any number of classes."""
        return self.problem_type == SEVERAL_LABELS

    def check_problem_type(self) -> None:
        """Check how many classes an image has.

        Raises:
            ValueError: if that is no problem type, or the method needs one class.
        """
        if self.problem_type not in (None, SINGLE_LABEL, SEVERAL_LABELS):
            raise ValueError(
                f"`problem_type` must be {SINGLE_LABEL!r}, {SEVERAL_LABELS!r} or None, got {self.problem_type!r}."
            )
        if self.has_several_labels and (self.needs_one_label is not None or self.task_name != "IMAGE_CLS"):
            reason = self.needs_one_label or "its labels are not those of images"
            raise ValueError(f"{type(self).__name__} cannot have several labels per image: {reason}.")
        self.check_answers(self.min_probability, self.other_names)

    def check_answers(self, min_probability: float | None, other_names: Sequence[str] | None) -> None:
        """Check that what is classified can be answered with "other" in this way.

        Args:
            min_probability: see `PromptConfig`.
            other_names: likewise.

        Raises:
            ValueError: if it cannot.
        """
        if self.has_several_labels and other_names is not None:
            raise ValueError(
                "`other_names` are for images of one class each: where an image has any number of classes, it may have "
                "none of them."
            )
        given = {"min_probability": min_probability, "other_names": other_names}
        chosen = [name for name, value in given.items() if value is not None]
        if self.task_name == "SEMANTIC_SEG" and chosen:
            raise ValueError(
                f"`{chosen[0]}` is for what has one answer: no pixel is answered with {OTHER!r}. Name what else there "
                "is among the classes, such as 'background'."
            )

    def _check_templates(self) -> None:
        if not isinstance(self.zero_shot_template, str | list | tuple):
            raise TypeError(f"`zero_shot_template` must be a text or a list of texts, got {self.zero_shot_template!r}.")
        if not isinstance(self.zero_shot_template, str):
            self.zero_shot_template = list(self.zero_shot_template)
        if not self.templates:
            raise ValueError("`zero_shot_template` is an empty list: give at least one template.")
        for template in self.templates:
            check_template(template, "`zero_shot_template`", "a photo of a {}.")

    def _check_modules(self) -> None:
        names = self.modules_to_save
        if names is None:
            return
        if isinstance(names, str) or not isinstance(names, list | tuple | set):
            raise TypeError(f"`modules_to_save` must be a list of names of modules, got {names!r}.")
        if not all(isinstance(name, str) and name for name in names):
            raise TypeError(f"`modules_to_save` must hold names of modules, got {names!r}.")
        self.modules_to_save = sorted(names) if isinstance(names, set) else list(names)

    @property
    def templates(self) -> tuple[str, ...]:
        """`zero_shot_template` as a tuple, of one template or of several."""
        if isinstance(self.zero_shot_template, str):
            return (self.zero_shot_template,)
        return tuple(self.zero_shot_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, subfolder=None, **kwargs):
        """Load the saved settings of an adapter, as `PeftConfig.from_pretrained` does.

        Raises:
            ValueError: if there are none, or they are of a method that nobody has registered.
        """
        try:
            config = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        except KeyError as error:
            raise_if_unregistered(error, pretrained_model_name_or_path)
            raise
        if isinstance(config, PromptConfig):  # the folder may hold an adapter of another method
            config.loaded_from = str(pretrained_model_name_or_path)
        return config

    def first_difference(self, other: PeftConfig) -> str | None:
        """What makes the weights of another config mean something else here, or None.

        Lengths and sizes are not compared: the weights' shapes tell them.

        Returns:
            The setting with both values, such as "`meta_net` is True there and False here".
        """
        for name in ("peft_type", *self.shaping, *(["class_names"] if self.belongs_to_its_classes else [])):
            here, there = getattr(self, name), getattr(other, name, None)
            if here != there:
                shown, shown_here = shown_apart(there, here)
                return f"`{name}` is {shown} there and {shown_here} here"
        return None

    @property
    def n_vectors(self) -> int | None:
        """How many vectors are learned, of each class where it has its own; None where the settings do not say."""
        return getattr(self, "n_ctx", None)

    @property
    def belongs_to_its_classes(self) -> bool:
        """Whether something is learned for each class alone, so that no other classes can be set."""
        return False

    @property
    def has_vectors_per_class(self) -> bool:
        """Whether these are the vectors: `n_vectors` for each class."""
        return self.belongs_to_its_classes

    @property
    def changes_vision(self) -> bool:
        """Whether images are read with learned prompts: what the frozen model makes of them is of no use then."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def shown_apart(one: Any, other: Any) -> tuple[str, str]:
    """Two values that differ, as a message shows them: of long lists the first entries that do."""
    is_long = isinstance(one, list) and isinstance(other, list) and max(len(one), len(other)) > SHOWN_ENTRIES
    if not is_long:
        return repr(one), repr(other)
    differs = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    place = min(len(one), len(other)) if differs is None else differs

    def shown(entries: list[Any]) -> str:
        entry = f"{entries[place]!r} at index {place}" if place < len(entries) else f"none at index {place}"
        return f"a list of {len(entries):,} with {entry}"

    return shown(one), shown(other)


def raise_if_unregistered(error: KeyError, adapter: Any) -> None:
    """Say what to do about an adapter whose method PEFT has looked for in vain.

    Args:
        error: what PEFT has raised; any other is left alone.
        adapter: the folder or repository.

    Raises:
        ValueError: if it is that.
    """
    name = error.args[0] if error.args else None
    if isinstance(name, str) and name.isupper() and name not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ValueError(
            f"The adapter {str(adapter)!r} is of the method {name}, which PEFT does not know: import the package that "
            "registers it first. For a method of one's own that is the module which calls "
            "`peft_coop.register_method`; the adapter's README.md names it."
        ) from error


def check_decision(
    temperature: Any, min_probability: Any, other_names: Any, class_names: list[str] | None
) -> tuple[float | None, float | None, list[str] | None]:
    """Check what a classifier decides by, see `PromptConfig`, and return it as plain values.

    Raises:
        TypeError, ValueError: if one is not among those accepted.
    """
    if temperature is not None:
        temperature = check_number(temperature, "calibration_temperature", above_zero=True)
    if min_probability is not None:
        min_probability = check_number(min_probability, "min_probability")
        if min_probability > 1:
            raise ValueError(f"`min_probability` must be from 0 to 1, got {min_probability!r}.")
    if other_names is not None:
        try:
            other_names = check_class_names(other_names)
        except (TypeError, ValueError) as error:
            raise type(error)(f"`other_names` are no names: {error}") from error
        both = [name for name in other_names if name in (class_names or ())]
        if both:
            raise ValueError(f"`other_names` name what is none of the classes, and {both[0]!r} is one of them.")
        twice = next((name for name in other_names if other_names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"`other_names` have {twice!r} more than once, and each adds to the probability of {OTHER!r}."
            )
        pairs = alike([*(class_names or ()), *other_names])
        same = next((pair for pair in pairs if pair[1] in other_names), None)
        if same is not None:
            raise ValueError(f"`other_names` have {same[1]!r}, which reads as {same[0]!r}: leave out one of the two.")
    if OTHER in (class_names or ()) and not (min_probability is None and other_names is None):
        raise ValueError(
            f"One of the classes is called {OTHER!r}, and so is the answer for images of none of them: rename the "
            "class, or leave out `min_probability` and `other_names`."
        )
    return temperature, min_probability, other_names


def check_switch(value: Any, name: str) -> None:
    """Check a setting that is True or False.

    Raises:
        TypeError: if it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r}.")


def check_count(value: Any, name: str) -> int:
    """Check a number of things and return it as an `int`; NumPy's whole numbers are taken, too.

    Raises:
        ValueError: if it is no whole number of 1 or more.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of 1 or more, got {value!r}.")
    return int(value)


def check_number(value: Any, name: str, *, above_zero: bool = False) -> float:
    """Check a weight or a factor and return it as a `float`; NumPy's numbers are taken, too.

    Args:
        value: the number.
        name: of the setting.
        above_zero: whether 0 itself is none.

    Raises:
        ValueError: if it is no finite number of 0 or more.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (above_zero and value == 0):
        least = "above 0" if above_zero else "of 0 or more"
        raise ValueError(f"`{name}` must be a finite number {least}, got {value!r}.")
    return float(value)
