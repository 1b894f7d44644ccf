"""The demo's task of compositions: its pairs and words, its images, and what the tiny CLIP knows of them."""

from collections import Counter

import numpy as np
import pytest
import torch

from peft_coop.demo import DemoCompositions, load_clip, load_composition_task, load_processor
from peft_coop.demo.composition_images import IMAGES_PER_PAIR

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def task() -> DemoCompositions:
    return load_composition_task("compositions")


@pytest.fixture(scope="module")
def drawn(task) -> dict[str, np.ndarray]:
    """`[N, 48, 48, 3]`, uint8, of each split."""
    return {split: np.stack([np.asarray(image) for image in getattr(task, split)["image"]]) for split in SPLITS}


def pairs_of_images(task, split) -> list[tuple[str, str]]:
    images = getattr(task, split)
    names = [images.features[column].int2str(images[column][:]) for column in ("attribute", "object")]
    return list(zip(*names, strict=True))


def test_words_are_sorted_and_name_the_columns(task):
    assert (len(task.attributes), len(task.objects)) == (8, 10)
    assert task.attributes == sorted(task.attributes)
    assert task.objects == sorted(task.objects)
    for split in SPLITS:
        features = getattr(task, split).features
        assert list(features) == ["image", "attribute", "object"]
        assert features["attribute"].names == task.attributes
        assert features["object"].names == task.objects
    assert task.template.format(attribute="old", object="car") == "a photo of old car"
    assert task.flip is False


def test_pairs_of_validation_and_test_beside_those_of_training_are_others(task):
    """As in the papers' natural splits; together they are the whole grid."""
    train, val, test = set(task.train_pairs), set(task.val_pairs), set(task.test_pairs)
    assert train <= val
    assert train <= test
    assert (len(train), len(val - train), len(test - train)) == (48, 16, 16)
    assert val & test == train
    assert val | test == {(attribute, each) for attribute in task.attributes for each in task.objects}


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_has_its_images_of_each_of_its_pairs(task, split):
    pairs = getattr(task, f"{split}_pairs")
    assert pairs == sorted(pairs)
    assert Counter(pairs_of_images(task, split)) == Counter(dict.fromkeys(pairs, IMAGES_PER_PAIR[split]))


def test_every_word_is_trained_in_several_pairs_and_unseen_in_some(task):
    train = set(task.train_pairs)
    for place, words, at_least in ((0, task.attributes, 6), (1, task.objects, 4)):
        trained = Counter(pair[place] for pair in train)
        assert min(trained[word] for word in words) == at_least
        for pairs in (task.val_pairs, task.test_pairs):
            assert {pair[place] for pair in set(pairs) - train} == set(words)


def test_no_image_is_drawn_twice(drawn):
    images = [image.tobytes() for split in SPLITS for image in drawn[split]]
    assert len(set(images)) == len(images) == 768 + 640 + 1280
    assert drawn["train"].shape[1:] == (48, 48, 3)


def test_loading_twice_gives_the_same_images(task, drawn):
    again = load_composition_task("compositions")
    assert again.train_pairs == task.train_pairs
    for split in SPLITS:
        assert pairs_of_images(again, split) == pairs_of_images(task, split)
        some = range(0, len(drawn[split]), 50)
        images = [np.asarray(image) for image in getattr(again, split).select(some)["image"]]
        assert np.array_equal(images, drawn[split][::50])


def test_colour_tells_nothing_of_the_pair(task, drawn):
    """Of every texture and of every shape there are reddish, greenish and bluish pictures."""
    middle = drawn["test"][:, 18:30, 18:30].mean(axis=(1, 2))
    strongest = middle.argmax(axis=1)
    for column, n_words in (("attribute", 8), ("object", 10)):
        words = np.array(task.test[column])
        shares = np.array([np.bincount(strongest[words == word], minlength=3) for word in range(n_words)])
        assert (shares / shares.sum(axis=1, keepdims=True)).min() > 0.1


@torch.no_grad()
def test_zero_shot_knows_the_shapes_but_hardly_the_textures(task, drawn):
    """Chance is 1 in 64, 8 and 10."""
    clip, processor = load_clip(), load_processor()
    prompts = [task.template.format(attribute=attribute, object=each) for attribute, each in task.test_pairs]
    some = task.test.select(range(0, len(task.test), 4))
    inputs = processor(text=prompts, images=list(some["image"]), padding=True, return_tensors="pt")
    best = [task.test_pairs[index] for index in clip(**inputs).logits_per_image.argmax(dim=1)]
    true = pairs_of_images(task, "test")[::4]
    right = np.array([(a == b, a[0] == b[0], a[1] == b[1]) for a, b in zip(best, true, strict=True)])
    pair, attribute, each = right.mean(axis=0)
    assert 0.03 < pair < 0.5
    assert attribute < 0.5
    assert each > 0.25


def test_unknown_task_names_the_known_ones():
    with pytest.raises(ValueError, match=r"must be one of \('compositions',\), got 'shapes'"):
        load_composition_task("shapes")
