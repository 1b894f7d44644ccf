"""One dataclass per method. Defaults live here and nowhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

from peft import PeftConfig, PeftType, TaskType

from .prompts import CLASS_TOKEN_POSITIONS, FAMILIES, check_class_names, check_text

DEFAULT_N_CTX = 16


@dataclass(eq=False)
class CoOpConfig(PeftConfig):
    """Settings of CoOp: learned context vectors around the class names of a CLIP classifier.

    Args:
        n_ctx: number of context vectors, M in the paper; None takes 16, or as many as `ctx_init` has tokens.
        class_names: the classes; saved in `adapter_config.json`, so that a loaded adapter is a ready classifier.
        class_token_position: where the name stands: "end", "middle" (`n_ctx // 2` vectors before it) or "front".
        class_specific_context: one set of vectors per class (CSC) and not one for all (unified).
        ctx_init: words whose token embeddings start the vectors; None: Gaussian, standard deviation 0.02.
        meta_net: shift the vectors by each image (CoCoOp).
        meta_net_reduction: the Meta-Net has `projection_dim // meta_net_reduction` hidden units.
        zero_shot_template: the prompt while the adapter is disabled; of a list, the normalised features are averaged.
        tokenizer_name_or_path: the prompt's tokenizer; None: the base model's own name or path.
        modules_to_save: modules of the base model that are trained and saved with the prompt, by the ends of their
            dotted names: "visual_projection", "text_model.final_layer_norm". Each adapter has its own copies.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: CoOp (arXiv:2109.01134) and CoCoOp (arXiv:2203.05557).
    """

    n_ctx: int | None = field(
        default=None,
        metadata={
            "help": "Context vectors per prompt (M in the paper); None: 16, or as many as `ctx_init` has tokens."
        },
    )
    class_names: list[str] | None = field(default=None, metadata={"help": "The classes, as a human writes them."})
    class_token_position: str = field(
        default="end", metadata={"help": "Where the class name stands in the context: 'end', 'middle' or 'front'."}
    )
    class_specific_context: bool = field(
        default=False, metadata={"help": "One set of context vectors per class instead of one for all."}
    )
    ctx_init: str | None = field(
        default=None, metadata={"help": "Words whose token embeddings start the vectors; None: Gaussian, std 0.02."}
    )
    meta_net: bool = field(default=False, metadata={"help": "Shift the context by each image (CoCoOp)."})
    meta_net_reduction: int = field(
        default=16, metadata={"help": "The Meta-Net's hidden units are projection_dim // meta_net_reduction."}
    )
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

    # PEFT reads this of every tuner's config; the place is a fact of the model family and no setting.
    target_modules: ClassVar[str] = "|".join(sorted({family.embeddings_path for family in FAMILIES.values()}))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("COOP")
        self.task_type = TaskType("IMAGE_CLS")
        # True after `from_pretrained`: the saved weights are still to come.
        self.awaits_weights: str | None = None
        if self.class_names is not None:
            self.class_names = check_class_names(self.class_names)
        self._check_switches()
        self._check_numbers()
        self._check_texts()
        self._check_modules()

    def _check_switches(self) -> None:
        for name in ("class_specific_context", "meta_net"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be True or False, got {getattr(self, name)!r}.")

    def _check_numbers(self) -> None:
        for name in ("n_ctx", "meta_net_reduction"):
            value = getattr(self, name)
            if name == "n_ctx" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:  # NumPy's whole numbers, too
                raise ValueError(f"`{name}` must be a whole number of 1 or more, got {value!r}.")
            setattr(self, name, int(value))

    def _check_texts(self) -> None:
        if self.class_token_position not in CLASS_TOKEN_POSITIONS:
            raise ValueError(
                f"`class_token_position` must be one of {CLASS_TOKEN_POSITIONS}, got {self.class_token_position!r}."
            )
        if self.ctx_init is not None and (not isinstance(self.ctx_init, str) or not self.ctx_init.strip(" _")):
            raise ValueError(f"`ctx_init` must be one word or more, or None, got {self.ctx_init!r}.")
        if self.ctx_init is not None:
            check_text(self.ctx_init, "`ctx_init`")
        if not isinstance(self.zero_shot_template, str | list | tuple):
            raise TypeError(f"`zero_shot_template` must be a text or a list of texts, got {self.zero_shot_template!r}.")
        if not isinstance(self.zero_shot_template, str):
            self.zero_shot_template = list(self.zero_shot_template)
        if self.tokenizer_name_or_path is not None:
            self.tokenizer_name_or_path = os.fspath(self.tokenizer_name_or_path)
        if not self.templates:
            raise ValueError("`zero_shot_template` is an empty list: give at least one template.")
        for template in self.templates:
            if not isinstance(template, str) or template.count("{}") != 1:
                raise ValueError(
                    f"`zero_shot_template` must hold the class name's place, {{}}, once; got {template!r}. "
                    "An example: 'a photo of a {}.'"
                )
            check_text(template, "`zero_shot_template`")

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
        if isinstance(config, CoOpConfig):  # the folder may hold an adapter of another method
            config.awaits_weights = str(pretrained_model_name_or_path)
        return config

    def first_difference(self, other: PeftConfig) -> str | None:
        """What makes the weights of another config mean something else here, or None.

        Lengths and sizes are not compared: the weights' shapes tell them.

        Returns:
            The setting with both values, such as "`meta_net` is True there and False here".
        """
        names = ["peft_type", "class_token_position", "class_specific_context", "meta_net"]
        if self.class_specific_context:
            names.append("class_names")
        for name in names:
            here, there = getattr(self, name), getattr(other, name, None)
            if here != there:
                return f"`{name}` is {there!r} there and {here!r} here"
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoOpConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


@dataclass(eq=False)
class CoCoOpConfig(CoOpConfig):
    """Settings of CoCoOp: CoOp whose context is shifted by each image. Saved, it loads as the equal `CoOpConfig`.

    Reference: CoCoOp (arXiv:2203.05557).
    """

    n_ctx: int | None = field(default=4, metadata={"help": "Context vectors per prompt (M in the paper)."})
    ctx_init: str | None = field(
        default="a photo of a", metadata={"help": "Words whose token embeddings start the vectors; None: Gaussian."}
    )
    meta_net: bool = field(default=True, metadata={"help": "Shift the context by each image."})
