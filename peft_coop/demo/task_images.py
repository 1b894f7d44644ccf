"""The images and labels of the demo's tasks. Each loader gives the fields of a `DemoTask` but its name."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from .drawing import HELD_OUT, IMAGE_SIZE, draw_shape, sample_picture

TaskFields = tuple[list[str], str, Dataset, Dataset]

SHAPES_SEED = 20_000_000  # far from any seed that the pretraining draws with
SHAPES_STYLE = "night"
SHAPES_PER_CLASS = {"train": 32, "test": 60}
DIGIT_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def load_shapes() -> TaskFields:
    """Draw the held-out combinations of colour and shape."""
    class_names = [f"{colour} {shape}" for colour, shape in HELD_OUT]
    splits = [_draw_split(i, n_images, class_names) for i, n_images in enumerate(SHAPES_PER_CLASS.values())]
    return class_names, "a photo of a {}.", splits[0], splits[1]


def _draw_split(split_seed: int, per_class: int, class_names: list[str]) -> Dataset:
    labels = [label for label in range(len(class_names)) for _ in range(per_class)]
    images = []
    for index, label in enumerate(labels):
        rng = np.random.default_rng([SHAPES_SEED, split_seed, index])
        images.append(draw_shape(sample_picture(rng, {SHAPES_STYLE: 1}, [HELD_OUT[label]]), rng))
    return _to_dataset(images, labels, class_names)


def load_digits() -> TaskFields:
    """Scikit-learn's scanned digits: of each digit's scans, in their order, every second is a test image."""
    from sklearn.datasets import load_digits as load_scans

    scans, labels = load_scans(return_X_y=True)
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(len(DIGIT_WORDS)):
        is_test[np.flatnonzero(labels == digit)[1::2]] = True
    train, test = (
        _to_dataset([_enlarge(scan) for scan in scans[half]], labels[half].tolist(), DIGIT_WORDS)
        for half in (~is_test, is_test)
    )
    return list(DIGIT_WORDS), "a photo of the digit {}.", train, test


def _enlarge(scan: np.ndarray) -> np.ndarray:
    """`[64]` ink counts from 0 to 16 to a picture `[48, 48, 3]`, uint8, white on black."""
    grey = PILImage.fromarray((scan.reshape(8, 8) * (255 / 16)).round().astype(np.uint8))
    return np.asarray(grey.resize((IMAGE_SIZE, IMAGE_SIZE), PILImage.Resampling.BICUBIC).convert("RGB"))


def _to_dataset(images: list[np.ndarray], labels: list[int], class_names: list[str]) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=class_names)})
    columns = {"image": [PILImage.fromarray(image) for image in images], "label": labels}
    return Dataset.from_dict(columns, features=features)
