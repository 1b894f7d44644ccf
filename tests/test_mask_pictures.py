"""Pictures of classified pixels: masks that are read again, classes in colour over an image, score maps."""

import numpy as np
import pytest
from PIL import Image

from peft_coop.data import MaskValues
from peft_coop.evaluation.segmentation.pictures import (
    class_colours,
    coloured,
    mask_picture,
    overlay,
    score_map_figure,
)


@pytest.mark.parametrize(("num_classes", "mode"), [(3, "P"), (256, "P"), (300, "I;16")])
def test_a_mask_on_disk_has_the_numbers_of_its_classes(num_classes, mode, tmp_path):
    labels = np.random.default_rng(0).integers(0, num_classes, (7, 9))
    mask_picture(labels, num_classes).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == mode
        assert np.array_equal(np.asarray(mask), labels)
        assert np.array_equal(MaskValues(num_classes).labels(mask), labels)
        if mode == "P":
            assert np.array_equal(np.asarray(mask.convert("RGB")), coloured(labels, num_classes))


def test_classes_have_colours_of_their_own_and_no_class_is_white():
    colours = class_colours(150)
    assert len({tuple(colour) for colour in colours.tolist()}) == 150
    assert np.array_equal(class_colours(20), colours[:20])
    near = np.abs(colours[:13, None].astype(int) - colours[None, :13]).sum(-1) + 1000 * np.eye(13, dtype=int)
    assert near.min() > 40
    assert coloured(np.array([[0, 255]]), 150).tolist() == [[colours[0].tolist(), [255, 255, 255]]]


def test_an_overlay_has_the_image_with_its_colours_and_a_legend_of_what_is_there():
    image, labels = Image.new("RGB", (200, 50), (100, 100, 100)), np.zeros((50, 200), int)
    labels[:, 150:] = 2
    names = ["a wall", "nowhere", "a sky"]
    picture = np.asarray(overlay(image, labels, names)).astype(int)
    colours = class_colours(3).astype(int)
    for x, label in ((10, 0), (190, 2)):
        assert np.abs(picture[25, x] - (0.45 * 100 + 0.55 * colours[label])).max() <= 1
    legend = picture[50:]
    assert len(legend) > 15
    for label, there in ((0, True), (1, False), (2, True)):
        assert (legend == colours[label]).all(-1).any() == there


@pytest.mark.parametrize(("num_classes", "panels"), [(3, 3), (40, 5)])
def test_there_is_a_panel_for_each_class_and_of_many_for_those_that_are_there(num_classes, panels):
    names = [f"class {number} of $5" for number in range(num_classes)]
    prediction, truth = np.zeros((6, 8), int), np.full((6, 8), 255)
    prediction[:, 4:], truth[:3] = 2, 1
    if num_classes > 24:
        prediction[0, :2] = 30, 31
    maps = np.random.default_rng(0).random((num_classes, 6, 8))
    figure = score_map_figure(Image.new("RGB", (8, 6)), prediction, maps, names, truth)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    shown = range(3) if num_classes == 3 else (0, 1, 2, 30, 31)
    assert titles == ["image", "truth", "prediction", *(names[label] for label in shown)]
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images and axes.get_title().startswith("class")]
    assert len(drawn) == panels
    assert all(np.array_equal(each, maps[label]) for each, label in zip(drawn, shown, strict=True))
    without = score_map_figure(Image.new("RGB", (8, 6)), prediction, maps, names)
    assert "truth" not in [axes.get_title() for axes in without.axes]
