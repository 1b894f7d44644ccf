"""What an experiment compares: ways to turn a CLIP and a few labelled images into a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import label_counts
from ..data.masks import has_masks
from ..data.videos import has_videos
from ..recipes import IMAGE_PROTOCOLS, SEVERAL_PROTOCOLS, VIDEO_PROTOCOLS

if TYPE_CHECKING:
    from datasets import Dataset

    from .frozen_clip import FrozenCLIP


# So many logits are looked at together, 32 MiB of them.
CELLS = 2**23
Scorer = Callable[["Dataset"], Iterator[np.ndarray]]


@dataclass(frozen=True)
class LabelledImages:
    """What a method learns from.

    Attributes:
        class_names: in the order of the labels.
        zero_shot_template: the prompt without learning; "{}" stands for the class name.
        train: columns `image` and `label`, the few images of each class; no image for methods that learn nothing.
        val: the same columns, for choosing what a method has to choose; may have no image.
        data: the dataset's name.
        made_of: what the classes are made of, by the fields of a config that take it, such as `attributes`, `objects`
            and `train_pairs`; a method whose config has no such field knows the classes by their names alone.
    """

    class_names: list[str]
    zero_shot_template: str
    train: Dataset
    val: Dataset
    data: str | None = None
    made_of: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_shots(self) -> int:
        """Training images of the class that has most; 0 if there is none."""
        return self.shots_used[1]

    @property
    def amount(self) -> str:
        """How many images there are to learn from, in words."""
        return in_words(self.num_shots)

    @property
    def shots_used(self) -> tuple[int, int]:
        """Training images of the class that has fewest, and of the one that has most."""
        counts = label_counts(self.train, max(1, len(self.class_names)))
        return int(counts.min()), int(counts.max())


class Learned:
    """What a method has learned."""

    def save(self, folder: Path) -> None:
        """Write what is worth keeping into a folder; most have nothing."""


class Classifier(Learned, ABC):
    """What a method has learned, where images have one class each."""

    @abstractmethod
    def logits(self, images: Dataset, class_names: Sequence[str]) -> np.ndarray:
        """Logits `[N, K]`, float32, of N images over K classes.

        Args:
            images: columns `image` and `label`.
            class_names: the classes; other ones than those learned only where the method can.

        Raises:
            ValueError: if the method cannot classify into these classes.
        """

    def scorer(self, class_names: Sequence[str]) -> Scorer:
        """What gives the logits of images over many classes in parts, so that all of them never exist at once.

        Args:
            class_names: K classes, as for `logits`.

        Returns:
            What takes images and gives their logits `[n, K]`, some images after the other; what it has computed of the
            classes it keeps.
        """

        def logits_of(images: Dataset) -> Iterator[np.ndarray]:
            for part in row_parts(len(images), len(class_names)):
                yield self.logits(images.select(part), class_names)

        return logits_of

    def for_data(self, data: str, zero_shot_template: str) -> Classifier:
        """What classifies another dataset's images; itself, unless its prompt is written by hand for each dataset.

        Args:
            data: the dataset's name.
            zero_shot_template: the dataset's prompt; "{}" stands for the class name.
        """
        return self


@dataclass(frozen=True)
class TimedSteps:
    """The steps of a training that take most of its time, for estimates of it.

    Attributes:
        count: how many of them there are.
        batch: images in each.
        make_step: gives a step without its optimizer, on inputs that no image is read for.
        encodes_images: whether a batch's images also pass through the frozen vision tower, which is not in that step.
    """

    count: int
    batch: int
    make_step: Callable[[], Callable[[], None]]
    encodes_images: bool = False


class ComparedMethod(ABC):
    """A way to learn a classifier.

    Attributes:
        key: short name for files and options, such as "linear-probe".
        name: as tables and figures print it.
        takes_new_classes: whether what is learned can be asked for classes that it was not learned from.
        learns: whether it uses the training images at all.
        reads: what it classifies, "images", "videos" or "places"; "both": also videos, by the mean feature of their
            frames.
        changes_vision: whether it trains or prompts the vision tower, so that features computed before are not its own.
        views: augmented views of each training image that it learns from, computed once; None: the images as they are.
    """

    key: str
    name: str
    takes_new_classes: bool = True
    learns: bool = True
    reads: str = "images"
    changes_vision: bool = False
    views: int | None = None

    @property
    def reads_each_image(self) -> bool:
        """Whether to classify an image takes as long as the forward pass of a training step on it."""
        return self.changes_vision

    @property
    def needs_one_label(self) -> str | None:
        """Why it cannot learn from images with any number of labels; None where it can."""
        return "it learns which one class an image has" if self.learns else None

    def for_protocol(self, protocol: str) -> ComparedMethod:
        """The method as the papers have it in a protocol; itself, unless what it leaves open depends on that.

        Args:
            protocol: one of `peft_coop.recipes.PROTOCOLS`.
        """
        return self

    def takes_part_in(self, protocol: str) -> bool:
        """Whether it can have a protocol's classes, and is known to learn from its images, or videos.

        Of compositions, with thousands of images and pairs that are never shown, that is known of prompts only.
        """
        if protocol in VIDEO_PROTOCOLS:
            return self.reads != "images"
        if protocol in SEVERAL_PROTOCOLS:
            return self.reads in ("images", "both") and self.needs_one_label is None
        return protocol in IMAGE_PROTOCOLS and (protocol != "composition" or not self.learns)

    def training_steps(self, images: LabelledImages) -> int | None:
        """Optimizer steps of a fit on these images; None where nothing is trained in steps."""
        return None if self.learns else 0

    def timed_steps(self, clip: FrozenCLIP, images: LabelledImages) -> TimedSteps | None:
        """What a fit on these images takes long for; None where that is not known."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What identifies this way beside its key, as JSON."""

    @abstractmethod
    def fit(self, clip: FrozenCLIP, images: LabelledImages, seed: int, folder: Path) -> Classifier:
        """Learn from images.

        Args:
            clip: the pretrained model, left as it is.
            images: what to learn from.
            seed: of everything random.
            folder: for checkpoints; a fit that was killed goes on from what it finds there.
        """


def check_reads(method: ComparedMethod, images: Dataset) -> None:
    """Refuse videos for a method of images, images for one of videos, and either for one of their places.

    Args:
        method: that is to learn.
        images: what from.

    Raises:
        ValueError: names both.
    """
    items = "places" if has_masks(images) else "videos" if has_videos(images) else "images"
    if method.reads != items and (method.reads != "both" or items == "places"):
        raise ValueError(f"{method.name} classifies {method.reads}, and the data are {items}.")


def identifying_fields(method: Any) -> dict[str, Any]:
    """The fields of a method that is a dataclass, as `ComparedMethod.settings` gives them.

    Without `data`, which is part of every result, and without what changes nothing: `num_workers`, `views` that there
    are none of, and `flip` where no image is augmented.
    """
    fields = asdict(method)
    left_out = {"data", "num_workers"}
    if not fields.get("views"):
        left_out |= {"views"} if fields.get("augment") else {"views", "flip"}
    return {name: value for name, value in fields.items() if name not in left_out}


def row_parts(num_rows: int, num_columns: int) -> Iterator[range]:
    """The rows of a matrix in parts of at most `CELLS` numbers, or of one row."""
    size = max(1, CELLS // max(1, num_columns))
    for start in range(0, num_rows, size):
        yield range(start, min(start + size, num_rows))


def in_words(num_shots: int) -> str:
    """A number of images per class."""
    return f"{num_shots:,} {'shot' if num_shots == 1 else 'shots'}"


def columns_of(class_names: Sequence[str], learned: Sequence[str], what: str) -> list[int]:
    """Where classes stand among those that were learned, for what can classify into these only.

    Args:
        class_names: the classes asked for.
        learned: those learned; of duplicates the first counts, unless all are asked for in their order.
        what: the beginning of the error message.

    Raises:
        ValueError: if a class was not learned.
    """
    if list(class_names) == list(learned):
        return list(range(len(learned)))
    unknown = [name for name in class_names if name not in learned]
    if unknown:
        raise ValueError(f"{what} is for the classes that it was learned from; {unknown[0]!r} is none of them.")
    return [list(learned).index(name) for name in class_names]
