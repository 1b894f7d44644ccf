"""Every method in the forms that it comes in: what the tests run over that each method must pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from peft import PeftConfig
from task_inputs import FRAMES, task_of

from peft_coop.methods import METHODS, Prompt
from peft_coop.towers import FAMILIES as SUPPORTED

POSITIONS = {position: {"class_token_position": position} for position in ("end", "middle", "front")}
# What a step does with its images depends on the parts that they come in: each has a gradient that is projected.
IN_PARTS = ("prograd",)
PAIRS = ["striped cat", "running dog", "paper kite"]
# As the tiny towers are, and with few prompts for a teacher.
SHALLOW = {"replaced_layer": 1, "teacher_templates": ["a photo of a {}.", "the {}."]}
SHALLOW |= {"out_indices": (0, 0, 1, 1), "train_vision": False, "max_class_tokens": 9, "head": "none"}
SHALLOW |= {"decoder_width": 16, "decoder_layers": 1, "head_channels": 8, "decoder_dropout": 0.0, "head_dropout": 0.0}
# Videos of few frames, with few vectors around a name.
SHALLOW |= {"num_frames": FRAMES, "n_prefix": 2, "n_suffix": 2, "temporal_heads": 4}
SPECIFIC = {"class_specific_context": True}
FORMS = {
    **POSITIONS,
    **{f"class-specific-{position}": {**SPECIFIC, **settings} for position, settings in POSITIONS.items()},
    "words": {"n_ctx": None, "ctx_init": "a photo of a"},
    "pairs": {"template": "a photo of a {attribute} {object}."},
    "template": {"class_template": "{}, a type of pet."},
    "relative": {"suffix_indexing": "relative"},
    "absolute": {"suffix_indexing": "absolute"},
    "mean-of-frames": {"suffix_indexing": "relative", "temporal_layers": 0},
    "score-map": {"head": "none"},
    "semantic-fpn": {"head": "semantic_fpn"},
    "text-alone": {"n_ctx_vision": 0, "prompt_depth_vision": 0, "prompt_depth": 2},
}


@dataclass(frozen=True)
class Kind:
    """A method in one of its forms.

    Attributes:
        method: its key in METHODS.
        form: its key in FORMS.
        config_class: the class of its settings.
        settings: what they are beside classes and tokenizer.
    """

    method: str
    form: str
    config_class: type[PeftConfig]
    settings: dict[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        return f"{self.method}-{self.form}"

    def config(self, **settings: Any) -> PeftConfig:
        return self.config_class(**{**self.settings, **settings})


def kinds() -> list[Kind]:
    """Each method in every form whose fields its config has; of those that have nothing of their own, the first."""
    found, covering_all = [], covering()
    for key, method in METHODS.items():
        names = {each.name for each in fields(method.config)}
        common = {name: value for name, value in {"n_ctx": 3, "ctx_init": None, **SHALLOW}.items() if name in names}
        if task_of(key) != "IMAGE_CLS":  # whose own is longer than tiny towers read
            common["zero_shot_template"] = "a photo of a {}."
        forms = {form: settings for form, settings in FORMS.items() if names.issuperset(settings)}
        if key not in covering_all:
            forms = dict(list(forms.items())[:1])
        for form, settings in (forms or {"only": {}}).items():
            found.append(Kind(key, form, method.config, {**common, **settings}))
    return found


def small_config(key: str, **settings: Any) -> PeftConfig:
    """A method's config as it is trained here: four vectors, and a Meta-Net that has some hidden units.

    A method that takes no plain names has as many pairs of words as there are names.
    """
    config_class = METHODS[key].config
    if METHODS[key].protocols == ("composition",) and "class_names" in settings:
        settings["class_names"] = PAIRS[: len(settings["class_names"])]
    names = {each.name for each in fields(config_class)}
    small = {name: 4 for name in ("n_ctx", "meta_net_reduction") if name in names}
    shallow = {name: value for name, value in SHALLOW.items() if name in names}
    return config_class(**{**small, **shallow, **settings})


def traits(key: str) -> set[str]:
    """What a method does in a step that others do not."""
    prompt = METHODS[key].prompt
    own = {name for name in ("extra_losses", "deep_vectors") if getattr(prompt, name) is not getattr(Prompt, name)}
    own |= {name for name in ("needs_images", "has_class_vectors", "call_arguments") if getattr(prompt, name)}
    own |= {"given_as_it_is"} if not prompt.changes_text else set()
    own |= {task_of(key)}
    own |= {"changes_vision"} if METHODS[key].config().changes_vision else set()
    return own | ({"in_parts"} if key in IN_PARTS else set())


def covering() -> list[str]:
    """The first method and as few others as have all traits: for what is not asked of each method by itself."""
    [first, *others] = METHODS
    chosen, seen = [first], traits(first)
    for key in sorted(others, key=lambda key: -len(traits(key))):
        if traits(key) - seen:
            chosen.append(key)
            seen |= traits(key)
    return [key for key in METHODS if key in chosen]


def is_specific(kind: Kind) -> bool:
    return kind.settings.get("class_specific_context", False)


def fits_family(kind: Kind, model_type: str) -> bool:
    """Whether a family's vision tower can do what the method asks of it, if anything."""
    family = SUPPORTED[model_type]
    if task_of(kind.method) == "SEMANTIC_SEG":  # the tiny joined towers have ViT's, which projects its pooler's output
        return family.no_place_features is None and model_type != "vision-text-dual-encoder"
    return not (kind.config().changes_vision and family.no_vision_prompts)


def in_turn(kinds: Sequence[Kind], index: int, count: int) -> list[Kind]:
    """As many of some kinds as one family is tried with: the next one goes on where it stops."""
    return [kinds[(count * index + place) % len(kinds)] for place in range(min(count, len(kinds)))]


COVERING = covering()
COVERING_TOWERS = [key for key in COVERING if key not in IN_PARTS]
KINDS = kinds()
# Where the form makes no difference: the first of each method, and the first with vectors for each class.
PLAIN_KINDS = [
    next(kind for kind in KINDS if (kind.method, is_specific(kind)) == pair)
    for pair in dict.fromkeys((kind.method, is_specific(kind)) for kind in KINDS)
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
