"""Few images of the demo's digits, and its CLIP: what baselines are tried on."""

from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation import FrozenCLIP, LabelledImages


def few_images(task) -> LabelledImages:
    """Two training images and one for validation of each digit."""
    rows = [[i for i, label in enumerate(task.train["label"]) if label == digit][:3] for digit in range(10)]
    train = task.train.select([index for group in rows for index in group[:2]])
    return LabelledImages(task.class_names, task.zero_shot_template, train, task.train.select([g[2] for g in rows]))


def frozen_clip() -> FrozenCLIP:
    return FrozenCLIP(load_clip(), load_processor(), "demo")
