"""The demo's tasks: what is in them, that they repeat, and what they say when something is missing."""

import sys

import numpy as np
import pytest

from peft_coop.demo import DemoTask, load_task


@pytest.fixture(scope="module", params=["shapes", "digits"])
def task(request) -> DemoTask:
    return load_task(request.param)


def pixels(dataset, indices) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in dataset.select(indices)["image"]]


def test_images_are_rgb_of_the_size_the_model_reads(task):
    for split in (task.train, task.test):
        image = split[0]["image"]
        assert (image.mode, image.size) == ("RGB", (48, 48))


def test_labels_name_the_classes(task):
    for split in (task.train, task.test):
        assert split.features["label"].names == task.class_names
        assert set(split["label"]) == set(range(len(task.class_names)))


def test_no_image_is_in_both_halves(task):
    train, test = (set(pixels(split, range(len(split)))) for split in (task.train, task.test))
    assert len(train) > 0.95 * len(task.train)
    assert not train & test


def test_loading_twice_gives_the_same_images(task):
    again = load_task(task.name)
    for split, split_again in ((task.train, again.train), (task.test, again.test)):
        some = range(0, len(split), 50)
        assert list(split["label"]) == list(split_again["label"])
        assert pixels(split, some) == pixels(split_again, some)


def test_template_has_room_for_one_name(task):
    assert task.zero_shot_template.count("{}") == 1


@pytest.mark.parametrize("task", ["shapes"], indirect=True)
def test_shapes_have_enough_images_of_every_class(task):
    assert len(task.class_names) == 20
    assert np.bincount(task.train["label"]).tolist() == [32] * 20
    assert np.bincount(task.test["label"]).tolist() == [60] * 20


@pytest.mark.parametrize("task", ["digits"], indirect=True)
def test_digits_are_all_of_scikit_learns_halved(task):
    assert len(task.train) + len(task.test) == 1797
    per_digit = np.bincount(task.train["label"]) - np.bincount(task.test["label"])
    assert set(per_digit.tolist()) <= {0, 1}


def test_unknown_task_names_the_known_ones():
    with pytest.raises(ValueError, match=r"must be one of \('shapes', 'digits', 'colours'\), got 'letters'"):
        load_task("letters")


def test_missing_scikit_learn_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"'digits' needs .*sklearn.*pip install \"peft-coop\[cli\]\""):
        load_task("digits")
