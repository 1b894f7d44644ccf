"""Compositional zero-shot metrics: against dense, slow versions, the original's numbers, and what is refused."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from czsl_dense import dense_metrics, dense_reference, make_case
from safetensors.torch import load_file

import peft_coop
from peft_coop import CZSLMetrics, czsl, czsl_metrics, evaluation

# Our name of what the original's evaluator calls otherwise.
ORIGINAL = {
    "best_seen": "best_seen",
    "best_unseen": "best_unseen",
    "best_hm": "best_hm",
    "auc": "AUC",
    "best_hm_seen": "hm_seen",
    "best_hm_unseen": "hm_unseen",
    "best_hm_bias": "biasterm",
    "attr_acc": "attr_acc",
    "obj_acc": "obj_acc",
    "pair_acc": "closed_ub_match",
    "seen_acc": "closed_ub_seen_match",
    "unseen_acc": "closed_ub_unseen_match",
}
CASES = [(seed, levels, topk) for seed in range(4) for levels in (None, 4, 24) for topk in (1, 2, 3)]
cases = pytest.mark.parametrize("seed, levels, topk", CASES)
either_way = pytest.mark.parametrize("quirks", [False, True])


def same(one: dict, other: dict) -> bool:
    """Whether metrics are equal to the bit."""
    numbers = set(one) - {"curve"}
    curves = all(np.array_equal(one["curve"][name], other["curve"][name]) for name in one["curve"])
    return curves and one.keys() == other.keys() and all(one[name] == other[name] for name in numbers)


@cases
def test_the_exact_curve_is_that_of_all_biases(seed, levels, topk):
    given = make_case(seed, levels=levels)
    found, expected = czsl_metrics(**given, topk=topk), dense_metrics(**given, topk=topk)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found["best_hm"] > 0


@cases
def test_the_quirks_are_those_of_the_dense_float32_sweep(seed, levels, topk):
    given = make_case(seed, num_images=90, levels=levels)
    expected = dense_reference(**given, topk=topk)
    found = czsl_metrics(**given, topk=topk, reference_quirks=True)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_a_bias_of_a_thousand_blurs_scores_as_the_original_does():
    given = make_case(1, num_images=200)
    given["scores"] = 20 + (given["scores"] - 20) * np.float32(1e-4)
    expected = dense_reference(**given)
    found = czsl_metrics(**given, reference_quirks=True)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found["best_unseen"] != czsl_metrics(**given)["best_unseen"]


def test_the_original_s_scores_are_of_float32():
    given = make_case(2, num_images=90)
    single = czsl_metrics(**given, reference_quirks=True)
    given["scores"] = given["scores"].astype(np.float64)
    best = given["scores"].max(axis=1, where=given["candidates"], initial=-np.inf)
    given["scores"][:, 19] = np.where(given["candidates"][19], best * (1 + 1e-12), 0)
    rounded = czsl_metrics(**given | {"scores": given["scores"].astype(np.float32)}, reference_quirks=True)
    assert same(czsl_metrics(**given, reference_quirks=True), rounded)
    assert czsl_metrics(**given)["pair_acc"] < rounded["pair_acc"] == single["pair_acc"]


@pytest.mark.parametrize("key", ["eval/closed_test", "eval/open_test", "feasibility/calibrated0"])
def test_the_original_evaluations(key):
    settings, tensors = json.loads((GOLDEN / "csp.json").read_text()), load_file(GOLDEN / "csp.safetensors")
    [case] = [case for case in settings["evaluations"] if case["key"] == key]
    closed = case["world"] == "closed"
    ids = tensors["all_pair_ids" if closed else "feasibility/pair_ids"].numpy()
    trained = {tuple(pair) for pair in tensors["train_pair_ids"].tolist()}
    attributes, objects = settings["attributes"], settings["objects"]
    of_test = {(attributes.index(a), objects.index(o)) for a, o in settings["test_pairs"]}
    found = czsl_metrics(
        tensors.get(f"{key}/scores", tensors.get(key)),
        tensors[f"{case.get('labels_from', key)}/pair_labels"],
        ids,
        np.array([tuple(pair) in trained for pair in ids]),
        np.array([not closed or tuple(pair) in trained | of_test for pair in ids]),
        topk=case["topk"],
        reference_quirks=True,
    )
    expected = {own: case["metrics"][theirs] for own, theirs in ORIGINAL.items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def perfect(margins: np.ndarray) -> dict:
    """Scores of images each of which has its true pair above all others, by a margin of its own."""
    labels = np.arange(len(margins)) % 8
    scores = np.zeros((len(margins), 8))
    scores[np.arange(len(margins)), labels] = margins
    pair_ids = [(column // 4, column % 4) for column in range(8)]
    return {"scores": scores, "labels": labels, "pair_ids": pair_ids, "seen": [True] * 4 + [False] * 4} | {
        "candidates": [True] * 8
    }


@pytest.mark.parametrize("margins", [np.ones(80), np.random.default_rng(0).uniform(1, 2, 80)])
def test_a_perfect_scorer_is_perfect(margins):
    found = czsl_metrics(**perfect(margins))
    ones = ("best_seen", "best_unseen", "best_hm", "auc", "attr_acc", "obj_acc", "pair_acc", "seen_acc", "unseen_acc")
    assert {name: found[name] for name in ones} == dict.fromkeys(ones, 1.0)
    assert abs(found["best_hm_bias"]) < 1


def test_a_perfect_scorer_as_the_original_has_it():
    found = czsl_metrics(**perfect(np.ones(80)), reference_quirks=True)
    assert (found["best_hm"], found["auc"], found["attr_acc"]) == (0, 0.5, 1)
    found = czsl_metrics(**perfect(np.random.default_rng(0).uniform(1, 2, 80)), reference_quirks=True)
    assert 0.9 < found["best_hm"] < 1
    assert 0.9 < found["auc"] < 1


def test_without_a_right_unseen_image_the_original_has_one_point():
    given = perfect(np.ones(16))
    given["scores"] = np.where(given["seen"], given["scores"], -given["scores"])
    found = czsl_metrics(**given, reference_quirks=True)
    assert found["curve"] == {"bias": [1000.0], "seen": [0.0], "unseen": [0.0]}
    assert (found["auc"], found["best_seen"]) == (0, 0)
    exact = czsl_metrics(**given)
    assert (exact["auc"], exact["best_seen"], exact["best_unseen"]) == (0, 1, 0)


def test_the_original_reaches_less_of_the_curve():
    found = [czsl_metrics(**make_case(5, num_images=400), reference_quirks=quirks) for quirks in (True, False)]
    assert found[0]["best_seen"] < found[1]["best_seen"]
    assert found[0]["auc"] < found[1]["auc"]


@pytest.mark.parametrize("topk", [1, 2])
def test_every_point_of_the_curve_is_what_its_bias_gives(topk):
    given = make_case(3, levels=8)
    curve = czsl_metrics(**given, topk=topk)["curve"]
    assert len(curve["bias"]) > 5
    assert (np.diff(curve["bias"]) > 0).all()
    for bias, seen, unseen in zip(*curve.values(), strict=True):
        biased = given["scores"] + np.where(given["seen"], 0, bias)
        at_bias = czsl_metrics(**given | {"scores": biased}, topk=topk)
        assert (at_bias["seen_acc"], at_bias["unseen_acc"]) == (seen, unseen)


def test_two_images_that_change_at_one_bias_count_half():
    given = {"pair_ids": [(0, 0), (0, 1)], "seen": [True, False], "candidates": [True, True], "labels": [0, 1]}
    found = czsl_metrics([[2.0, 1.0], [4.0, 3.0]], **given)
    assert (found["auc"], found["best_hm"]) == (0.5, 0)
    assert {name: values.tolist() for name, values in found["curve"].items()} == {
        "bias": [0.0, 2.0],
        "seen": [1.0, 0.0],
        "unseen": [0.0, 1.0],
    }


def test_of_equal_scores_the_lower_column_is_first():
    given = {"pair_ids": [(0, 0), (0, 1), (1, 0)], "seen": [True, True, False], "candidates": [True] * 3}
    scores = [[1.0, 1.0, 0.0]] * 2 + [[0.0, 0.0, 9.0]]
    found = czsl_metrics(scores, [0, 1, 2], **given)
    assert (found["best_seen"], found["obj_acc"]) == (0.5, 2 / 3)


@pytest.mark.parametrize("topk", [1, 3])
def test_minus_infinity_is_never_predicted(topk):
    given = make_case(2)
    out = np.random.default_rng(0).random(given["scores"].shape) < 0.3
    out[:, 0] = False
    given["scores"][out] = -np.inf
    found, expected = czsl_metrics(**given, topk=topk), dense_metrics(**given, topk=topk)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert out[np.arange(len(out)), given["labels"]].any()


@either_way
@pytest.mark.parametrize("topk", [1, 2, 3])
@pytest.mark.parametrize("levels", [None, 6])
def test_scores_in_batches_and_in_blocks_give_the_same_bits(topk, levels, quirks):
    given = make_case(4, num_images=50, levels=levels)
    scores, labels = given.pop("scores"), given.pop("labels")
    whole = czsl_metrics(scores, labels, **given, topk=topk, reference_quirks=quirks)
    batches = CZSLMetrics(**given, topk=topk, reference_quirks=quirks)
    blocks = CZSLMetrics(**given, topk=topk, reference_quirks=quirks)
    shuffled = np.random.default_rng(0).permutation(len(given["seen"]))
    for rows in (slice(0, 1), slice(1, 33), slice(33, None)):
        batches.update(scores[rows], labels[rows])
        parts = [
            (shuffled[start : start + 3], scores[rows][:, shuffled[start : start + 3]]) for start in range(6, 21, 3)
        ]
        parts.append((shuffled[:6], torch.tensor(scores[rows][:, shuffled[:6]])))
        blocks.update_parts(iter(parts), labels[rows])
    assert same(batches.compute(), whole)
    assert same(blocks.compute(), whole)


def test_blocks_may_be_slices_and_leave_out_what_is_no_candidate():
    given = make_case(4)
    scores, labels = given.pop("scores"), given.pop("labels")
    metrics = CZSLMetrics(**given)
    metrics.update_parts([(slice(0, 10), scores[:, :10]), (slice(10, None), scores[:, 10:])], labels)
    fewer = CZSLMetrics(**given)
    fewer.update_parts([(np.flatnonzero(given["candidates"]), scores[:, given["candidates"]])], labels)
    assert same(metrics.compute(), czsl_metrics(scores, labels, **given))
    assert same(fewer.compute(), metrics.compute())


def test_more_images_may_follow():
    given = make_case(6)
    scores, labels = given.pop("scores"), given.pop("labels")
    metrics = CZSLMetrics(**given)
    for rows in (slice(0, 20), slice(20, None)):
        metrics.update(scores[rows], labels[rows])
        metrics.compute()
    assert same(metrics.compute(), czsl_metrics(scores, labels, **given))


def test_what_a_caller_does_to_its_arrays_later_changes_nothing():
    given = make_case(6)
    expected = czsl_metrics(**given)
    scores, labels = given.pop("scores"), given.pop("labels")
    metrics = CZSLMetrics(**given)
    metrics.update(scores, labels)
    for array in (scores, labels, *given.values()):
        array[:] = 0
    assert same(metrics.compute(), expected)


@either_way
def test_many_rows_are_taken_in_together_or_not(quirks, monkeypatch):
    given = make_case(7)
    whole = czsl_metrics(**given, reference_quirks=quirks)
    monkeypatch.setattr(czsl.rivals, "BLOCK", 50)
    assert same(czsl_metrics(**given, reference_quirks=quirks), whole)


def test_memory_grows_with_images_not_with_pairs():
    num_images, num_attributes, num_objects, width = 200, 50, 400, 400
    ids = np.stack(np.divmod(np.arange(num_attributes * num_objects), num_objects), axis=1)
    rng = np.random.default_rng(0)
    metrics = CZSLMetrics(ids, rng.random(len(ids)) < 0.1, np.ones(len(ids), dtype=bool))
    labels = rng.integers(0, len(ids), num_images)
    blocks = range(0, len(ids), width)
    tracemalloc.start()
    parts = ((slice(at, at + width), rng.normal(size=(num_images, width))) for at in blocks)
    metrics.update_parts(parts, labels)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    dense = num_images * len(ids) * 8
    assert peak < dense / 5
    assert kept < num_images * 500


@pytest.mark.parametrize("kind", ["lists", "bfloat16", "float16", "gradients", "integers"])
def test_scores_of_every_kind(kind):
    given = make_case(8, levels=8)
    expected = czsl_metrics(**given)
    tensor = torch.tensor(given["scores"])
    kinds = {
        "lists": lambda: tensor.tolist(),
        "bfloat16": lambda: tensor.bfloat16(),
        "float16": lambda: tensor.half(),
        "gradients": lambda: tensor.requires_grad_(),
        "integers": lambda: tensor.long(),
    }
    given = {name: torch.tensor(value) for name, value in given.items()} | {"scores": kinds[kind]()}
    assert same(czsl_metrics(**given), expected)


def test_triples_of_two_attributes_and_an_object():
    given = make_case(9, width=3)
    found, expected = czsl_metrics(**given), dense_metrics(**given)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found["attr_acc"] < czsl_metrics(**given | {"pair_ids": given["pair_ids"][:, 1:]})["attr_acc"]


REFUSED = {
    "one axis of scores": ({"scores": np.zeros(30)}, r"a row for each of the 30 labels and .* 20 pairs, got .*\(30,\)"),
    "too few columns": ({"scores": np.zeros((30, 19))}, r"for each of the 20 pairs, got the shape \(30, 19\)"),
    "words": ({"scores": [["a"] * 20] * 30}, "must be real numbers, got the type <U1"),
    "an array with a mask": ({"scores": np.ma.masked_array(np.zeros((30, 20)), True)}, "Arrays with a mask"),
    "no image": ({"scores": np.zeros((0, 20)), "labels": []}, "`labels` is empty"),
    "labels of two axes": ({"labels": np.zeros((30, 1), dtype=int)}, r"`labels` must have 1 axes, got .*\(30, 1\)"),
    "labels of halves": ({"labels": np.full(30, 0.5)}, "`labels` must be whole numbers, got the type float64"),
    "label too high": ({"labels": np.full(30, 20)}, "`labels` must be from 0 to 19, .* got 20"),
    "label negative": ({"labels": np.full(30, -1)}, "`labels` must be from 0 to 19, .* got -1"),
    "seen images only": ({"labels": np.zeros(30, dtype=int)}, "got 30 and 0 of them"),
    "unseen images only": ({"labels": np.full(30, 2)}, "got 0 and 30 of them"),
    "ids": ({"pair_ids": np.zeros((20, 4), dtype=int)}, r"\(attribute, attribute, object\) .* \(20, 4\)"),
    "pairs twice": ({"pair_ids": np.zeros((20, 2), dtype=int)}, r"columns 0 and 1 of `pair_ids` are both \(0, 0\)"),
    "seen as indices": ({"seen": list(range(20))}, r"`seen` must be 20 times True or False, .* type int64"),
    "mask too short": ({"candidates": [True] * 19}, r"`candidates` must be 20 times True or False, .*\(19,\)"),
    "nothing seen": ({"seen": [False] * 20}, "none of the [0-9]+ candidates is seen"),
    "all seen": ({"seen": [True] * 20}, "none of the [0-9]+ candidates is unseen"),
    "k of 0": ({"topk": 0}, "`topk` must be a whole number from 1 to .*; got 0"),
    "k of a half": ({"topk": 1.5}, "`topk` must be a whole number .*; got 1.5"),
    "k too high": ({"topk": 21}, "`topk` must be a whole number from 1 to [0-9]+, the number of candidates; got 21"),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        czsl_metrics(**make_case(0) | change)


def test_a_label_that_is_no_candidate_is_refused():
    given = make_case(0)
    excluded = int(np.flatnonzero(~given["candidates"])[0])
    given["labels"][5] = excluded
    with pytest.raises(ValueError, match=f"Every label must be a candidate, got {excluded} "):
        czsl_metrics(**given)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 2])
def test_a_score_that_decides_nothing_is_refused_and_nothing_is_kept(value, column):
    given = make_case(0)
    scores, labels = given.pop("scores"), given.pop("labels")
    metrics = CZSLMetrics(**given)
    metrics.update(scores, labels)
    broken = scores.copy()
    broken[7, column] = value
    with pytest.raises(ValueError, match=f"or minus infinity .*; got {value} in row 7, column {column}"):
        metrics.update(broken, labels)
    assert same(metrics.compute(), czsl_metrics(scores, labels, **given))


def test_what_is_no_candidate_is_never_looked_at():
    given = make_case(0)
    expected = czsl_metrics(**given)
    given["scores"][:, ~given["candidates"]] = np.nan
    assert same(czsl_metrics(**given), expected)


def test_a_row_without_a_candidate_left_is_refused():
    given = make_case(0)
    given["scores"][4] = -np.inf
    with pytest.raises(ValueError, match="row 4 has none"):
        czsl_metrics(**given)


def test_the_original_knows_no_minus_infinity_and_needs_k_seen_pairs():
    given = make_case(0)
    count = int((given["seen"] & given["candidates"]).sum())
    with pytest.raises(ValueError, match=f"from 1 to {count}, the number of seen candidates; got {count + 1}"):
        czsl_metrics(**given, topk=count + 1, reference_quirks=True)
    assert czsl_metrics(**given, topk=count + 1)["best_hm"] > 0
    given["scores"][3, 2] = -np.inf
    with pytest.raises(ValueError, match="must be finite; got -inf in row 3, column 2"):
        czsl_metrics(**given, reference_quirks=True)


@pytest.mark.parametrize(
    "columns, message",
    [
        ([range(20), [3]], "got column 3 again"),
        ([[*range(20), 4]], "got column 4 again"),
        ([range(1, 20)], "1 of [0-9]+ are missing, the first is column 0"),
        ([], "are missing, the first is column 0"),
        ([[20]], "Columns must be from 0 to 19, got 20"),
        ([[0.5]], "`columns` must be whole numbers"),
    ],
)
def test_blocks_that_do_not_make_a_whole_are_refused(columns, message):
    given = make_case(0)
    metrics = CZSLMetrics(given["pair_ids"], given["seen"], given["candidates"])
    parts = [(np.array(own), np.zeros((30, len(own)))) for own in columns]
    with pytest.raises(ValueError, match=message):
        metrics.update_parts(parts, given["labels"])
    with pytest.raises(ValueError, match="no scores yet: call `update`"):
        metrics.compute()


def test_the_names_are_the_package_s_own():
    assert len(czsl.__all__) == 7
    for name in czsl.__all__:
        assert getattr(peft_coop, name) is getattr(evaluation, name) is getattr(czsl, name)
        assert name in dir(peft_coop)
        assert name in peft_coop.__all__
        assert name in evaluation.__all__
