"""The demo's scenes: their classes, masks that fit their pictures, and what is the same on every call."""

import colorsys

import numpy as np
import pytest

from peft_coop.data import MaskRows, load_masks
from peft_coop.demo import load_scene_task
from peft_coop.demo.drawing import HELD_OUT
from peft_coop.demo.scene_images import SCENES, draw_scene
from peft_coop.demo.styles import COLOURS


@pytest.fixture(scope="module")
def data():
    return load_masks("demo:scenes")


@pytest.fixture(scope="module")
def drawn(data) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures `[N, 96, 96, 3]` and labels `[N, 96, 96]` of each split."""
    rows = {split: MaskRows(getattr(data, split), data.values) for split in ("train", "test")}
    pairs = {split: [one[index] for index in range(len(one))] for split, one in rows.items()}
    return {
        split: (np.stack([np.asarray(image) for image, _ in own]), np.stack([labels for _, labels in own]))
        for split, own in pairs.items()
    }


def test_classes_are_backgrounds_and_things_that_pretraining_has_not_drawn(data):
    assert data.class_names[:3] == ["grey background", "brown background", "dark blue background"]
    assert [tuple(name.split(" ")) for name in data.class_names[3:]] == list(HELD_OUT[:10])
    assert data.values.reduce_labels


def test_every_class_is_in_both_splits(data, drawn):
    for split, (images, labels) in drawn.items():
        assert images.shape == (SCENES[split], 96, 96, 3)
        assert set(np.unique(labels)) == {*range(13), 255}
        assert min(data.summary.splits[split].with_class) >= 5
        assert 0.01 < data.summary.splits[split].ignored_share < 0.05


def test_a_scene_has_one_background_and_at_least_one_thing(drawn):
    for labels in drawn["test"][1]:
        found = set(np.unique(labels)) - {255}
        assert len(found & {0, 1, 2}) == 1
        assert 1 <= len(found - {0, 1, 2}) <= 5


def test_a_thing_has_its_colour_where_its_mask_is(data, drawn):
    """So that pictures and masks belong together, and classes to their names."""
    images, labels = drawn["test"]
    for number, name in enumerate(data.class_names[3:], start=3):
        red, green, blue = np.median(images[labels == number] / 255, axis=0)
        hue = 360 * colorsys.rgb_to_hsv(red, green, blue)[0]
        assert abs((hue - COLOURS[name.split(" ")[0]][0] + 180) % 360 - 180) < 15


def test_no_scene_is_drawn_twice_and_all_are_drawn_the_same_again(drawn):
    pictures = [image.tobytes() for images, _ in drawn.values() for image in images]
    assert len(set(pictures)) == len(pictures) == sum(SCENES.values())
    again = load_scene_task("scenes")
    assert np.array_equal(np.asarray(again.test["image"][7]), drawn["test"][0][7])
    image, values = draw_scene(np.random.default_rng(5))
    same, same_values = draw_scene(np.random.default_rng(5))
    assert np.array_equal(image, same)
    assert np.array_equal(values, same_values)


def test_an_unknown_task_names_the_known_one():
    with pytest.raises(ValueError, match=r"must be one of \('scenes',\), got 'shapes'"):
        load_masks("demo:shapes")
