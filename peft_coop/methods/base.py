"""What a prompt method is: its config, and an entry of the table METHODS."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar

from peft import PeftConfig, PeftType, TaskType

from ..prompts import CLASS_TOKEN_POSITIONS, FAMILIES, check_class_names, check_text
from ..recipes import PROTOCOLS, Recipe

DEFAULT_N_CTX = 16


@dataclass(eq=False)
class PromptConfig(PeftConfig):
    """Settings that every method of image classification has.

    Args:
        class_names: the classes; saved in `adapter_config.json`, so that a loaded adapter is a ready classifier.
        zero_shot_template: the prompt while the adapter is disabled; of a list, the normalised features are averaged.
        tokenizer_name_or_path: the prompt's tokenizer; None: the base model's own name or path.
        modules_to_save: modules of the base model that are trained and saved with the prompt, by the ends of their
            dotted names: "visual_projection", "text_model.final_layer_norm". Each adapter has its own copies.

    Attributes:
        method: key of the method in `METHODS`.
        type_name: PEFT's name of the method; None: the key in capitals. Saved weights begin with it in small letters.
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
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules of the base model that are trained and saved with the prompt."}
    )

    method: ClassVar[str]
    type_name: ClassVar[str | None] = None
    # Settings that make the same weights mean something else, see `first_difference`.
    shaping: ClassVar[tuple[str, ...]] = ()
    # PEFT reads this of every tuner's config; the place is a fact of the model family and no setting.
    target_modules: ClassVar[str] = "|".join(sorted({family.embeddings_path for family in FAMILIES.values()}))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(self.type_name or self.method.upper())
        self.task_type = TaskType("IMAGE_CLS")
        self.loaded_from: str | None = None
        if self.class_names is not None:
            self.class_names = check_class_names(self.class_names)
        if self.tokenizer_name_or_path is not None:
            self.tokenizer_name_or_path = os.fspath(self.tokenizer_name_or_path)
        self._check_templates()
        self._check_modules()

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
        """Load the saved settings of an adapter, as `PeftConfig.from_pretrained` does."""
        config = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
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
                return f"`{name}` is {there!r} there and {here!r} here"
        return None

    @property
    def belongs_to_its_classes(self) -> bool:
        """Whether there are vectors of its own for every class, so that no other classes can be set."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


@dataclass(eq=False)
class ContextConfig(PromptConfig):
    """Settings of the methods that learn context vectors around the class names.

    Args:
        n_ctx: number of context vectors, M in the paper; None takes 16, or as many as `ctx_init` has tokens.
        class_token_position: where the name stands: "end", "middle" (`n_ctx // 2` vectors before it) or "front".
        class_specific_context: one set of vectors per class (CSC) and not one for all (unified).
        ctx_init: words whose token embeddings start the vectors; None: Gaussian, standard deviation 0.02.

    Others as `PromptConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.
    """

    n_ctx: int | None = field(
        default=None,
        metadata={
            "help": "Context vectors per prompt (M in the paper); None: 16, or as many as `ctx_init` has tokens."
        },
    )
    class_token_position: str = field(
        default="end", metadata={"help": "Where the class name stands in the context: 'end', 'middle' or 'front'."}
    )
    class_specific_context: bool = field(
        default=False, metadata={"help": "One set of context vectors per class instead of one for all."}
    )
    ctx_init: str | None = field(
        default=None, metadata={"help": "Words whose token embeddings start the vectors; None: Gaussian, std 0.02."}
    )

    shaping: ClassVar[tuple[str, ...]] = ("class_token_position", "class_specific_context")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.n_ctx = check_count(self.n_ctx, "n_ctx") if self.n_ctx is not None else None
        check_switch(self.class_specific_context, "class_specific_context")
        if self.class_token_position not in CLASS_TOKEN_POSITIONS:
            raise ValueError(
                f"`class_token_position` must be one of {CLASS_TOKEN_POSITIONS}, got {self.class_token_position!r}."
            )
        if self.ctx_init is not None and (not isinstance(self.ctx_init, str) or not self.ctx_init.strip(" _")):
            raise ValueError(f"`ctx_init` must be one word or more, or None, got {self.ctx_init!r}.")
        if self.ctx_init is not None:
            check_text(self.ctx_init, "`ctx_init`")

    @property
    def belongs_to_its_classes(self) -> bool:
        """Whether the context is class-specific."""
        return self.class_specific_context


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


def check_template(template: Any, name: str, example: str) -> None:
    """Check a text with a place for the class name.

    Raises:
        ValueError: if it has none, or several, or is no text.
    """
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ValueError(
            f"{name} must hold the class name's place, {{}}, once; got {template!r}. An example: {example!r}"
        )
    check_text(template, name)


@dataclass(frozen=True)
class Method:
    """A prompt method, as everything else knows it: an entry of `METHODS`.

    Attributes:
        key: short name for files, options and tags, such as "cocoop".
        title: as the papers write it.
        config: the class of its settings.
        reference: the paper's arXiv number.
        summary: what is special about its vectors, to follow "4 learned vectors" in a sentence; may be empty.
        recipe_of: see `recipe`; takes the number of shots, the dataset's name or None, and the protocol.
        fields_of: see `fields`; takes the protocol.
        settings: fields of the config, beside those of the context, that tell one prompt from another.
        colour: of its lines and bars, as "#rrggbb".
    """

    key: str
    title: str
    config: type[PromptConfig]
    reference: str
    recipe_of: Callable[[int, str | None, str], Recipe]
    fields_of: Callable[[str], Mapping[str, Any]]
    summary: str = ""
    settings: tuple[str, ...] = ()
    colour: str | None = None

    def recipe(self, num_shots: int, data: str | None = None, protocol: str = "few-shot") -> Recipe:
        """The settings that the paper trains with.

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
        return self.recipe_of(num_shots, data, protocol)

    def fields(self, protocol: str = "few-shot") -> dict[str, Any]:
        """The fields of the config that the papers have in a protocol, the context's length and start for example.

        Args:
            protocol: one of `PROTOCOLS`.

        Raises:
            ValueError: if there is no such protocol.
        """
        check_protocol(protocol)
        return dict(self.fields_of(protocol))

    @property
    def link(self) -> str:
        """The title as a Markdown link to the paper."""
        return f"[{self.title}](https://arxiv.org/abs/{self.reference})"


def check_protocol(protocol: str) -> None:
    """Check the name of a protocol.

    Raises:
        ValueError: if there is none of this name.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {PROTOCOLS}, got {protocol!r}.")
