"""Which images are drawn, against the original's choices."""

import json

import pytest
from conftest import GOLDEN
from datasets import ClassLabel, Dataset, Features, Value

from peft_coop.data import base_and_new_names, few_shot_indices, select_classes, with_pair_labels
from peft_coop.evaluation import by_known_classes

FEW_SHOT = json.loads((GOLDEN / "few_shot.json").read_text())


@pytest.mark.parametrize("case", FEW_SHOT["cases"], ids=lambda case: f"seed{case['seed']}-{case['num_shots']}shots")
def test_the_same_images_as_the_original(case):
    drawn = few_shot_indices(FEW_SHOT["train_labels"], FEW_SHOT["val_labels"], case["num_shots"], case["seed"])
    assert drawn == (case["train"], case["val"])


def test_no_shots_are_refused():
    with pytest.raises(ValueError, match="`num_shots` must be 1 or more, got 0"):
        few_shot_indices([0, 1], [], 0, seed=1)


def test_the_first_half_is_base():
    assert base_and_new_names(["a", "b", "c", "d", "e"]) == (["a", "b", "c"], ["d", "e"])
    with pytest.raises(ValueError, match="two classes or more"):
        base_and_new_names(["a"])


def test_selected_classes_are_relabelled():
    features = Features({"label": ClassLabel(names=["a", "b", "c"]), "x": Value("int64")})
    dataset = Dataset.from_dict({"label": [0, 1, 2, 1], "x": [10, 11, 12, 13]}, features=features)
    kept = select_classes(dataset, first=1, count=2)
    assert list(kept["label"]) == [0, 1, 0]
    assert list(kept["x"]) == [11, 12, 13]
    assert kept.features["label"].names == ["b", "c"]


@pytest.mark.parametrize("emptied", [lambda rows: rows.select([]), lambda rows: rows.filter(lambda row: False)])
def test_classes_of_rows_that_were_all_taken_out(emptied):
    """`datasets` adds no column to what is left of two that were put side by side."""
    features = Features({"image": Value("int64"), "label": ClassLabel(names=["cat", "dog", "bird"])})
    rows = Dataset.from_dict({"image": [0, 1, 2], "label": [0, 1, 2]}, features=features, split="test")
    left = emptied(select_classes(rows, 0, 2))
    kept = select_classes(left, 1, 1)
    assert (len(kept), kept.features["label"].names, kept.split) == (0, ["dog"], "test")
    assert kept.features["image"] == features["image"]
    parts = by_known_classes(left, ["cat", "dog"], ["dog", "fish"])
    assert (len(parts.known), parts.known.features["label"].names) == (0, ["dog", "fish"])
    words = Features({"attribute": ClassLabel(names=["old", "wet"]), "object": ClassLabel(names=["car", "dog"])})
    pairs = Dataset.from_dict({"attribute": [0], "object": [0]}, features=words)
    again = with_pair_labels(emptied(with_pair_labels(pairs, [("old", "car")])), [("old", "car"), ("wet", "dog")])
    assert (len(again), set(again.column_names)) == (0, {"attribute", "object", "label"})
