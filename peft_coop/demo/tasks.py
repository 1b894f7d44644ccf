"""The tasks that the demo's CLIP is tried on: shapes, scanned digits, textures on shapes, scenes, and videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

TASK_NAMES = ("shapes", "digits", "colours")
COMPOSITION_TASK_NAMES = ("compositions",)
SCENE_TASK_NAMES = ("scenes",)
Pair = tuple[str, str]


@dataclass(frozen=True)
class DemoTask:
    """A task of classifying images or videos, small enough for a CPU.

    Attributes:
        name: what `load_task` calls it.
        class_names: as a human writes them, in the order of the labels.
        zero_shot_template: the prompt without learning; "{}" stands for the class name.
        train: columns `image` (PIL, RGB, 48 by 48 pixels) and `label` (`ClassLabel`, or a list of 0 and 1 where an
            image has any number of classes).
        test: the same columns; no image is in both.
        val: the same columns; None where the task has none for validation.
    """

    name: str
    class_names: list[str]
    zero_shot_template: str
    train: Dataset
    test: Dataset
    val: Dataset | None = None


@dataclass(frozen=True)
class DemoCompositions:
    """A task of images that show an object with an attribute, some of the pairs never shown in training.

    Attributes:
        name: what `load_composition_task` calls it.
        attributes: the words of the attributes, sorted.
        objects: the words of the objects, sorted.
        train_pairs: (attribute, object) of the training images, sorted.
        val_pairs: those of the validation images: all of training, and some that are in no other split.
        test_pairs: those of the test images, likewise.
        train: columns `image` (PIL, RGB, 48 by 48 pixels), `attribute` and `object` (both `ClassLabel`).
        val: the same columns; no image is in two splits.
        test: the same columns.
        template: the prompt without learning.
        flip: whether training may mirror the images.
    """

    name: str
    attributes: list[str]
    objects: list[str]
    train_pairs: list[Pair]
    val_pairs: list[Pair]
    test_pairs: list[Pair]
    train: Dataset
    val: Dataset
    test: Dataset
    template: str = "a photo of {attribute} {object}"
    flip: bool = False


@dataclass(frozen=True)
class DemoScenes:
    """A task of images that show several things: which class is each pixel of?

    Attributes:
        name: what `load_scene_task` calls it.
        class_names: as a human writes them, in the order of the labels.
        zero_shot_template: the prompt without learning; "{}" stands for the class name.
        train: columns `image` (PIL, RGB, 96 by 96 pixels) and `mask` (PIL, the same size, a number for each pixel).
        test: the same columns; no image is in both.
        reduce_labels: 0 is no class in the masks, and the classes count from 1.
    """

    name: str
    class_names: list[str]
    zero_shot_template: str
    train: Dataset
    test: Dataset
    reduce_labels: bool = True


def load_task(name: str) -> DemoTask:
    """Load a task; the same images on every call.

    - "shapes": 20 classes such as "red circle", drawn while loading. Their combinations of colour and
      shape were never drawn for the pretraining, and their style, pictures taken at night, hardly ever.
      The first ten are the base classes of a base-to-new split, the last ten the new ones.
    - "digits": "zero" to "nine", scikit-learn's 1,797 scanned handwritten digits, halved. The
      pretraining has seen none of them. Do not flip them: a mirrored digit is another thing.
    - "colours": which of eight colours the one to three shapes in a picture have, drawn while loading; an image has
      several labels. The pretraining has seen one shape at a time.

    Raises:
        ValueError: if there is no such task.
        ImportError: if one of the packages that the tasks need is not installed.
    """
    _check_name(name, TASK_NAMES)
    with _packages_needed(name):
        from .task_images import load_digits, load_shapes

        if name == "colours":
            from .colour_images import CLASS_NAMES, TEMPLATE, draw_split

            train, val, test = map(draw_split, ("train", "val", "test"))
            return DemoTask(name, list(CLASS_NAMES), TEMPLATE, train, test, val)

        return DemoTask(name, *(load_shapes() if name == "shapes" else load_digits()))


def load_composition_task(name: str) -> DemoCompositions:
    """Load a task of compositions; the same images on every call.

    - "compositions": eight textures (attributes) of ten shapes (objects), drawn while loading; colour and background
      are any. 48 of the 80 pairs are trained, with every texture and every shape among them; 16 more are in the
      validation images, and the other 16 in the test images. Textures are what the tiny CLIP hardly knows: its
      pretraining named three of them, finer ones, now and then. Do not flip them: the left half of a "halved" shape
      is the pale one.

    Raises:
        ValueError: if there is no such task.
        ImportError: if one of the packages that the tasks need is not installed.
    """
    _check_name(name, COMPOSITION_TASK_NAMES)
    with _packages_needed(name):
        from .composition_images import ATTRIBUTES, OBJECTS, draw_split, pairs_of

        return DemoCompositions(
            name,
            list(ATTRIBUTES),
            list(OBJECTS),
            train_pairs=pairs_of("train"),
            val_pairs=pairs_of("val"),
            test_pairs=pairs_of("test"),
            train=draw_split("train"),
            val=draw_split("val"),
            test=draw_split("test"),
        )


def load_scene_task(name: str) -> DemoScenes:
    """Load a task of scenes; the same images on every call.

    - "scenes": two to five drawn shapes before one of three backgrounds, 96 by 96 pixels, which are four times the
      pictures that the tiny CLIP reads. 13 classes: the backgrounds, and ten things such as "red circle", whose
      combinations of colour and shape were never drawn for the pretraining, nor were scenes. The rim of a thing is of
      no class. 48 scenes to train on, 120 to test on.

    Raises:
        ValueError: if there is no such task.
        ImportError: if one of the packages that the tasks need is not installed.
    """
    _check_name(name, SCENE_TASK_NAMES)
    with _packages_needed(name):
        from .scene_images import SCENE_CLASSES, draw_scenes

        parts = {split: draw_scenes(split) for split in ("train", "test")}
        return DemoScenes(name, list(SCENE_CLASSES), "a photo of a {}.", **parts)


def load_motion_task() -> DemoTask:
    """Load the task of videos; the same ones on every call.

    24 classes such as "red circle right", drawn while loading: four coloured shapes, and six motions in three
    pairs of which one is the other played backwards, so that the order of the frames alone tells them apart. A video
    has 17 to 24 frames. Every shape and every motion are in the first half of the classes and in the second, each pair
    of motions whole, so that a base-to-new split asks for new combinations. Do not flip them.

    `train` and `test` have a column `video` in place of `image`: `path`, which is None, and `frames`, image files of 48
    by 48 pixels.

    Raises:
        ImportError: if one of the packages that the tasks need is not installed.
    """
    with _packages_needed("motion"):
        from .motion_videos import all_moves, draw_split

        names = [move.class_name for move in all_moves()]
        return DemoTask("motion", names, "a photo of a {}.", draw_split("train"), draw_split("test"))


def _check_name(name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(f"`name` must be one of {known}, got {name!r}.")


@contextmanager
def _packages_needed(name: str) -> Iterator[None]:
    """Say of a package that is missing how to get it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'The task {name!r} needs the package {error.name!r}, which is not installed: pip install "peft-coop[cli]".'
        ) from error
