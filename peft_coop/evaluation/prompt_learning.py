"""The prompt methods as methods of an experiment."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from transformers import set_seed

from ..data import AugmentedImages, PreparedImages
from ..data.features import check_views
from ..methods import DEFAULT_METHOD, METHODS, PromptConfig, find_method
from ..methods.context import DEFAULT_N_CTX
from ..methods.deep_context import cut_depths
from ..models import encode_in_parts
from ..recipes import Recipe
from ..towers import cosine_logits, dtype_of, projection_dim, scale_and_bias
from .compared_methods import (
    Classifier,
    ComparedMethod,
    LabelledImages,
    Scorer,
    TimedSteps,
    columns_of,
    in_words,
    row_parts,
)
from .experiment_tracking import reporting, reporting_arguments
from .frozen_clip import FrozenCLIP
from .prompt_training import (
    BATCH_SIZE,
    PIXEL_BATCH_SIZE,
    predict_logits,
    predict_logits_of_pixels,
    train_prompt,
)

if TYPE_CHECKING:
    from datasets import Dataset


class PromptClassifier(Classifier):
    """A CLIP with a learned prompt.

    Args:
        model: with its adapter.
        clip: whose features the images have, unless the adapter reads the images themselves.
        num_workers: processes that load the images then.
    """

    def __init__(self, model: PeftModel, clip: FrozenCLIP, num_workers: int = 0):
        self.model = model
        self.clip = clip
        self.num_workers = num_workers
        self.learned_names = list(model.class_names or [])

    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """See `Classifier.logits`; vectors of each class's own answer for these classes and subsets of them."""
        if self.model.active_peft_config.belongs_to_its_classes:
            columns = columns_of(class_names, self.learned_names, "A class-specific context")
            return self._logits(images)[:, columns]
        return self._logits(images, list(class_names))

    def scorer(self, class_names: Sequence[str]) -> Scorer:
        """See `Classifier.scorer`: text features are computed once, in parts, unless each image has its own."""
        config, prompt = self.model.active_peft_config, self.model.prompt_layer.prompt
        own_texts = prompt.needs_images or prompt.has_class_vectors
        if own_texts or config.changes_vision or config.belongs_to_its_classes:
            return super().scorer(class_names)
        base = self.model.get_base_model()
        with torch.no_grad():
            texts = encode_in_parts(base, list(class_names), CLASSES_AT_ONCE, progress=True).float()

        @torch.no_grad()
        def logits_of(images: Dataset) -> Iterator[np.ndarray]:
            embeds = self.clip.image_embeds(images)
            scale, bias = scale_and_bias(base, embeds)
            for rows in row_parts(len(embeds), len(texts)):
                yield cosine_logits(embeds[rows.start : rows.stop], texts, scale, bias).cpu().numpy()

        return logits_of

    def _logits(self, images: Dataset, class_names: list[str] | None = None) -> np.ndarray:
        size = self.clip.batch_size
        if not self.model.active_peft_config.changes_vision:
            embeds = self.clip.with_image_embeds(images)
            return predict_logits(self.model, embeds, size or BATCH_SIZE, class_names)
        processor, size = self.clip.processor.image_processor, size or PIXEL_BATCH_SIZE
        return predict_logits_of_pixels(self.model, images, processor, size, self.num_workers, class_names)

    def save(self, folder: Path) -> None:
        """Write the adapter."""
        self.model.save_pretrained(folder)


# Of so many classes the prompts are read together, where features are wanted of more.
CLASSES_AT_ONCE = 1024
# The fields that tell one prompt from another, where a method's config has them.
CONTEXT_FIELDS = ("n_ctx", "class_token_position", "class_specific_context", "ctx_init")
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
        of_papers: the names of those `fields` that are the papers' for the protocol; set likewise. Where the papers'
            depth is more than a tower has layers, it is the tower's.

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

    def __post_init__(self) -> None:
        check_fields(self.key, self.fields)
        config = self.make_config()  # what is wrong with the fields and the recipe is said here
        if config.method != self.key:
            raise ValueError(f"With {self.fields} the method is {config.method!r} and not {self.key!r}: ask for that.")
        self.recipe_for(num_shots=1)
        self._check_views()

    def _check_views(self) -> None:
        check_views(self.views)
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
        return self.make_config(class_names=images.class_names, zero_shot_template=images.zero_shot_template, **made_of)

    def for_protocol(self, protocol: str) -> PromptLearning:
        """With the papers' fields and recipe for a protocol, but for the fields that it has been given.

        Raises:
            ValueError: if the method takes no part in it.
        """
        if not self.takes_part_in(protocol):
            own = ", ".join(METHODS[self.key].protocols)
            raise ValueError(f"{self.name} takes no part in {protocol!r}, for which it is not made. It has {own}.")
        papers = METHODS[self.key].fields(protocol, self.data)
        if CONTEXT_START & self.fields.keys():
            papers = {name: value for name, value in papers.items() if name not in CONTEXT_START}
        of_papers = self.of_papers | (papers.keys() - self.fields.keys())
        return replace(self, fields={**papers, **self.fields}, protocol=protocol, of_papers=of_papers)

    def takes_part_in(self, protocol: str) -> bool:
        """See `ComparedMethod.takes_part_in`."""
        return protocol in METHODS[self.key].protocols

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
            labels = torch.zeros(batch, dtype=torch.long, device=clip.device)
            inputs = clip.blank_images(batch) if self.changes_vision else {"image_embeds": random_embeds(clip, batch)}
            return lambda: model(**inputs, labels=labels).loss.backward()

        encodes = self.augment and not self.changes_vision
        return TimedSteps(self.training_steps(images), batch, make_step, encodes_images=encodes)

    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> PromptClassifier:
        """See `ComparedMethod.fit`."""
        return PromptClassifier(self.train_model(clip, images, seed, folder), clip, self.num_workers)

    def train_model(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> PeftModel:
        """A copy of the model with the prompt that these images teach it; arguments are those of `fit`."""
        set_seed(seed)
        model = self._new_model(clip, images)
        train = self._training_images(clip, images, seed)
        run_name = f"{self.name} on {images.data}, {in_words(images.num_shots)}, seed {seed}"
        reads_pixels = self.augment or self.changes_vision
        workers = {"dataloader_num_workers": self.num_workers if reads_pixels else 0}
        arguments = reporting_arguments(self.report_to, run_name) | workers
        with reporting(self.report_to, self.log_dir or folder.parent / "logs"):
            train_prompt(model, train, self.recipe_for(images.num_shots), seed, folder, **arguments)
        model.requires_grad_(False)  # from now on it classifies, also into classes that nothing could teach it
        return model

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
        if self.augment:
            return AugmentedImages(train, clip.processor.image_processor, seed, flip=self.flip)
        if self.views is not None:
            return clip.augmented_features(train, self.views, seed, self.flip, self.num_workers)
        if self.changes_vision:
            return PreparedImages(train, clip.processor.image_processor)
        return clip.with_image_embeds(train)


def random_embeds(clip: FrozenCLIP, count: int) -> torch.Tensor:
    """`[count, P]`, in place of image features."""
    numbers: dict[str, Any] = {"device": clip.device, "generator": torch.Generator(clip.device)}
    return torch.randn(count, projection_dim(clip.model), dtype=dtype_of(clip.model), **numbers)
