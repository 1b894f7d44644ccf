"""The prompt methods as methods of an experiment."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model
from transformers import TrainerCallback, set_seed

from ..data import AugmentedImages, PreparedImages, VideoClips, has_several_labels
from ..data.features import check_views
from ..methods import DEFAULT_METHOD, METHODS, PromptConfig, find_method
from ..methods.config import SEVERAL_LABELS
from ..methods.context import DEFAULT_N_CTX
from ..methods.deep_context import cut_depths
from ..recipes import Recipe
from ..towers import dtype_of, projection_dim
from .compared_methods import ComparedMethod, LabelledImages, TimedSteps
from .experiment_tracking import reporting, reporting_arguments
from .frozen_clip import FrozenCLIP
from .prompt_classifier import PromptClassifier
from .prompt_training import train_prompt
from .video_classification import NUM_CLIPS, VideoPromptClassifier, check_clips

if TYPE_CHECKING:
    pass


# The fields that tell one prompt from another, where a method's config has them.
CONTEXT_FIELDS = ("n_ctx", "class_token_position", "class_specific_context", "ctx_init")
# What the methods of a task classify.
ITEMS_OF_TASKS = {"IMAGE_CLS": "images", "VIDEO_CLS": "videos"}
# Those that say what the vectors start as: one follows from the other.
CONTEXT_START = {"n_ctx", "ctx_init"}


def own_fields(key: str) -> tuple[str, ...]:
    """The fields of a method's config beside those that every prompt has, such as its classes.

    Raises:
        ValueError: if there is no such method.
    """
    common = {each.name for each in fields(PromptConfig)}
    return tuple(each.name for each in fields(find_method(key).config) if each.name not in common)


def check_fields(key: str, names: Collection[str]) -> None:
    """Check names of fields of a method's config.

    Raises:
        ValueError: if there is no such method, or its config has no such field.
    """
    known = {each.name for each in fields(find_method(key).config)}
    for name in names:
        if name not in known:
            raise ValueError(f"{METHODS[key].title} has no setting {name!r}; its own are {', '.join(own_fields(key))}.")


@dataclass(frozen=True)
class PromptLearning(ComparedMethod):
    """A prompt, learned by one of `METHODS`.

    Attributes:
        key: of the method.
        fields: of its config, without classes and template, which come with the images. What is not among them is the
            papers' for the protocol (`peft_coop.methods.Method.fields`); `n_ctx` and `ctx_init` go together.
        recipe: fields of `Recipe` that differ from the paper's for the number of shots.
        data: the dataset's name, for the paper's recipe.
        augment: train on random crops and flips instead of on features that are computed once.
        views: train on features, computed once, of so many random crops and flips of each image, another one in every
            epoch; None: of the images as they are.
        flip: whether `augment` and `views` mirror images.
        num_workers: processes that load images where pixels are read: with `augment` and `views`, and by what prompts
            the vision tower.
        report_to: what the Trainer reports to, such as "tensorboard" or "wandb".
        log_dir: TensorBoard's folder; None: `logs` beside the checkpoints' folder.
        protocol: whose recipe it is trained with; set by `for_protocol`.
        num_clips: of each video that is classified; their probabilities are averaged. For methods that read videos.
        of_papers: the names of those `fields` that are the papers' for the protocol; set likewise. Where the papers'
            depth is more than a tower has layers, it is the tower's.
        callbacks: for the Trainer, beside the method's own; they are no setting, and change no number.

    Raises:
        ValueError: if there is no such method, or it has no such field; if `views` is below 1, beside `augment`, or the
            method changes the vision tower.
    """

    key: str = DEFAULT_METHOD
    fields: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    augment: bool = False
    views: int | None = None
    flip: bool = True
    num_workers: int = 0
    report_to: tuple[str, ...] = ()
    log_dir: Path | None = None
    protocol: str = "few-shot"
    of_papers: frozenset[str] = frozenset()
    num_clips: int = NUM_CLIPS
    callbacks: tuple[TrainerCallback, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self.key, self.fields)
        config = self.make_config()  # what is wrong with the fields and the recipe is said here
        if config.method != self.key:
            raise ValueError(f"With {self.fields} the method is {config.method!r} and not {self.key!r}: ask for that.")
        self.recipe_for(num_shots=1)
        check_clips(self.num_clips)
        self._check_views()

    def _check_views(self) -> None:
        check_views(self.views)
        if self.reads == "videos" and (self.augment or self.views):
            raise ValueError(
                f"{self.name} reads videos, and has another clip of each in every epoch: `augment` and `views` are for "
                f"images, got augment={self.augment} and views={self.views}."
            )
        if self.views is None:
            return
        if self.augment:
            raise ValueError(
                f"`views` are features computed once, `augment` draws pixels in every epoch: give one of them, got "
                f"views={self.views} and augment=True."
            )
        if self.changes_vision:
            raise ValueError(
                f"{self.name} changes the vision tower, so that features of views would not be its own: use `augment` "
                f"in place of views={self.views}."
            )

    @property
    def changes_vision(self) -> bool:  # type: ignore[override]
        """Whether it prompts the vision tower."""
        return self.make_config().changes_vision

    @property
    def reads(self) -> str:  # type: ignore[override]
        """See `ComparedMethod.reads`."""
        return items_of_method(self.key)

    @property
    def needs_one_label(self) -> str | None:
        """See `ComparedMethod.needs_one_label`."""
        return METHODS[self.key].config.needs_one_label

    @property
    def reads_each_image(self) -> bool:
        """See `ComparedMethod.reads_each_image`: also where each image has texts of its own."""
        return self.changes_vision or METHODS[self.key].prompt.needs_images

    @property
    def name(self) -> str:  # type: ignore[override]
        """As the papers write it."""
        return METHODS[self.key].title

    @property
    def takes_new_classes(self) -> bool:  # type: ignore[override]
        """Whether all classes share the vectors."""
        return not self.make_config().belongs_to_its_classes

    def make_config(self, **more: Any) -> PromptConfig:
        """Its config, with further fields."""
        return METHODS[self.key].config(**self.fields, **more)

    def config_for(self, images: LabelledImages) -> PromptConfig:
        """Its config for the classes of these images, and for what they are made of where it has the fields."""
        known = {each.name for each in fields(METHODS[self.key].config)}
        made_of = {name: value for name, value in images.made_of.items() if name in known - self.fields.keys()}
        if len(images.train) and has_several_labels(images.train):
            made_of["problem_type"] = SEVERAL_LABELS
        return self.make_config(class_names=images.class_names, zero_shot_template=images.zero_shot_template, **made_of)

    def for_protocol(self, protocol: str) -> PromptLearning:
        """With the papers' fields and recipe for a protocol, but for the fields that it has been given.

        Raises:
            ValueError: if the method takes no part in it.
        """
        if not self.takes_part_in(protocol):
            own = ", ".join(METHODS[self.key].protocols) or "none"
            raise ValueError(
                f"{self.name} takes no part in {protocol!r}, for which it is not made: it classifies {self.reads}. It "
                f"has {own}."
            )
        papers = METHODS[self.key].fields(protocol, self.data)
        if CONTEXT_START & self.fields.keys():
            papers = {name: value for name, value in papers.items() if name not in CONTEXT_START}
        of_papers = self.of_papers | (papers.keys() - self.fields.keys())
        return replace(self, fields={**papers, **self.fields}, protocol=protocol, of_papers=of_papers)

    def takes_part_in(self, protocol: str) -> bool:
        """See `ComparedMethod.takes_part_in`."""
        return METHODS[self.key].takes_part_in(protocol)

    def settings(self) -> dict[str, Any]:
        """The prompt's settings and, where it is not the paper's, the recipe."""
        config = self.make_config()
        names = (*CONTEXT_FIELDS, *METHODS[self.key].own_settings, *self.fields)
        settings: dict[str, Any] = {name: getattr(config, name) for name in names if hasattr(config, name)}
        if settings.keys() >= CONTEXT_START and all(settings[name] is None for name in CONTEXT_START):
            settings["n_ctx"] = DEFAULT_N_CTX
        settings["augment"] = self.augment
        if self.views is not None:
            settings["views"] = self.views
        if self.augment or self.views is not None:
            settings["flip"] = self.flip
        if self.num_clips != NUM_CLIPS:
            settings["num_clips"] = self.num_clips
        return settings | self.recipe

    def recipe_for(self, num_shots: int) -> Recipe:
        """How it is trained on so many images per class."""
        return replace(METHODS[self.key].recipe(num_shots, self.data, self.protocol), **self.recipe)

    def training_steps(self, images: LabelledImages) -> int:
        """See `ComparedMethod.training_steps`."""
        recipe = self.recipe_for(images.num_shots)
        return math.ceil(recipe.num_epochs * recipe.steps_per_epoch(len(images.train)))

    def timed_steps(self, clip: FrozenCLIP, images: LabelledImages) -> TimedSteps:
        """Forwards and backwards through the text tower, on random image features.

        With prompts of the vision tower: through both, on images.
        """
        batch = min(self.recipe_for(images.num_shots).batch_size, len(images.train))

        def make_step() -> Callable[[], None]:
            model = self._new_model(clip, images).train()
            several = model.active_peft_config.has_several_labels
            labels = torch.zeros((batch, len(images.class_names)) if several else batch, dtype=torch.long)
            labels = labels.to(clip.device)
            embeds = (batch, self.clip_length) if self.reads == "videos" else (batch,)
            inputs = clip.blank_images(batch) if self.changes_vision else {"image_embeds": random_embeds(clip, *embeds)}
            return lambda: model(**inputs, labels=labels).loss.backward()

        encodes = self.augment and not self.changes_vision
        return TimedSteps(self.training_steps(images), batch, make_step, encodes_images=encodes)

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> PromptClassifier:
        """See `ComparedMethod.fit`."""
        return prompt_classifier(self.train_model(clip, images, seed, folder), clip, self.num_workers, self.num_clips)

    def train_model(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> PeftModel:
        """A copy of the model with the prompt that these images teach it; arguments are those of `fit`."""
        set_seed(seed)
        model = self._new_model(clip, images)
        train = self._training_images(clip, images, seed)
        run_name = f"{self.name} on {images.data}, {images.amount}, seed {seed}"
        reads_pixels = self.augment or self.changes_vision
        workers = {"dataloader_num_workers": self.num_workers if reads_pixels else 0}
        arguments = reporting_arguments(self.report_to, run_name) | workers
        with reporting(self.report_to, self.log_dir or folder.parent / "logs"):
            recipe = self.recipe_for(images.num_shots)
            train_prompt(model, train, recipe, seed, folder, self.callbacks, **arguments)
        model.requires_grad_(False)  # from now on it classifies, also into classes that nothing could teach it
        return model

    @property
    def clip_length(self) -> int:
        """Frames of a clip, where videos are read."""
        return self.make_config().num_frames

    def _new_model(self, clip: FrozenCLIP, images: LabelledImages) -> PeftModel:
        """A copy of the model with a prompt of these classes."""
        papers = {name: value for name, value in self.fields.items() if name in self.of_papers}
        cut = cut_depths(papers, clip.model)
        config = replace(self, fields={**self.fields, **cut}).config_for(images)
        return get_peft_model(deepcopy(clip.model), config)

    def grid(
        self,
        n_ctx: Sequence[int | None] = (None,),
        ctx_init: Sequence[str] = (),
        class_token_position: Sequence[str] = ("end",),
        class_specific_context: Sequence[bool] = (False,),
    ) -> list[PromptLearning]:
        """This method with every combination of contexts, as in the paper's ablations.

        What its config has no field for is no part of them: a method without any of these is in the list once.

        Args:
            n_ctx: lengths of contexts that start with random vectors.
            ctx_init: words that others start with; they are as long as these.
            class_token_position: where the class name stands.
            class_specific_context: whether every class has a context of its own.
        """
        starts: list[dict[str, Any]] = [{"n_ctx": length, "ctx_init": None} for length in n_ctx]
        starts += [{"n_ctx": None, "ctx_init": words} for words in ctx_init]
        combinations = [
            {**start, "class_token_position": position, "class_specific_context": specific}
            for specific in class_specific_context
            for position in class_token_position
            for start in starts
        ]
        own = own_fields(self.key)
        different: list[dict[str, Any]] = []
        for each in combinations:
            fields = {name: value for name, value in each.items() if name in own}
            if fields not in different:
                different.append(fields)
        return [replace(self, fields={**self.fields, **fields}) for fields in different]

    def _training_images(self, clip: FrozenCLIP, images: LabelledImages, seed: int) -> Any:
        train = images.train
        if self.reads == "videos":
            return VideoClips(clip.with_frame_embeds(train), self.clip_length, seed)
        if self.augment:
            return AugmentedImages(train, clip.processor.image_processor, seed, flip=self.flip)
        if self.views is not None:
            return clip.augmented_features(train, self.views, seed, self.flip, self.num_workers)
        if self.changes_vision:
            return PreparedImages(train, clip.processor.image_processor)
        return clip.with_image_embeds(train)


def items_of_method(key: str) -> str:
    """What a prompt method classifies, by its task: "images", "videos", or the places of images."""
    return ITEMS_OF_TASKS.get(METHODS[key].prompt.task_head.task_type, "places")


def prompt_classifier(
    model: PeftModel, clip: FrozenCLIP, num_workers: int = 0, num_clips: int = NUM_CLIPS
) -> PromptClassifier:
    """A learned prompt as a classifier, of images or of videos.

    Args:
        model: with its adapter.
        clip: whose features the images or frames have.
        num_workers: processes that load images that the adapter reads itself.
        num_clips: of each video.

    Raises:
        ValueError: if it classifies neither.
    """
    items = items_of_method(model.active_peft_config.method)
    if items == "videos":
        return VideoPromptClassifier(model, clip, num_clips)
    if items != "images":
        raise ValueError(f"{METHODS[model.active_peft_config.method].title} classifies {items}, not images or videos.")
    return PromptClassifier(model, clip, num_workers)


def random_embeds(clip: FrozenCLIP, *shape: int) -> torch.Tensor:
    """`[…, P]`, in place of image features."""
    numbers: dict[str, Any] = {"device": clip.device, "generator": torch.Generator(clip.device)}
    return torch.randn(*shape, projection_dim(clip.model), dtype=dtype_of(clip.model), **numbers)
