"""Feasibility of pairs, scores without infeasible ones, the threshold between, and word vectors from a file."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from czsl_dense import make_case, slow_feasibility
from safetensors.torch import load_file

from peft_coop import (
    FeasibilityThreshold,
    calibrate_scores,
    czsl_metrics,
    feasibility,
    feasibility_threshold,
    read_word_vectors,
)

either_way = pytest.mark.parametrize("quirks", [False, True])


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "csp.safetensors")


def test_feasibility_is_the_original_s(golden):
    vectors = golden["feasibility/attr_vectors"], golden["feasibility/obj_vectors"]
    found = feasibility(*vectors, golden["train_pair_ids"])
    assert found.shape == (5, 5)
    np.testing.assert_allclose(found.ravel(), golden["feasibility/scores"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed, count", [(0, 1), (1, 6), (2, 40)])
def test_feasibility_against_one_pair_at_a_time(seed, count):
    rng = np.random.default_rng(seed)
    attrs, objs = rng.normal(size=(7, 5)), rng.normal(size=(6, 3))
    pairs = np.stack([rng.integers(0, 7, count), rng.integers(0, 6, count)], axis=1)
    found = feasibility(attrs.tolist(), torch.tensor(objs), pairs)
    np.testing.assert_allclose(found, slow_feasibility(attrs, objs, set(map(tuple, pairs))), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"attr_vecs": np.zeros((3, 2))}, "Every row of `attr_vecs` must have a direction, got only zeros in row 0"),
        ({"obj_vecs": [[1.0, np.nan]]}, r"`obj_vecs` must be finite, got nan at \(0, 1\)"),
        ({"obj_vecs": [1.0, 2.0]}, r"`obj_vecs` must be numbers of shape \(any, any\), got \(2,\)"),
        ({"train_pairs": [[0, 0, 0]]}, r"a row \(attribute, object\) for each pair, got \(1, 3\)"),
        ({"train_pairs": np.zeros((0, 2), dtype=int)}, r"for each pair, got \(0, 2\)"),
        ({"train_pairs": [[3, 0]]}, "attributes from 0 to 2, rows of the vectors; got 3"),
        ({"train_pairs": [[0, -1]]}, "objects from 0 to 3, rows of the vectors; got -1"),
        ({"train_pairs": [["red", "car"]]}, "`train_pairs` must be whole numbers"),
    ],
)
def test_feasibility_refuses(change, message):
    given = {"attr_vecs": np.eye(3), "obj_vecs": np.eye(4), "train_pairs": [[0, 0]]}
    with pytest.raises(ValueError, match=message):
        feasibility(**given | change)


def test_calibrated_scores_are_the_original_s(golden):
    [case] = json.loads((GOLDEN / "csp.json").read_text())["calibrations"]
    trained = {tuple(pair) for pair in golden["train_pair_ids"].tolist()}
    seen = np.array([tuple(pair) in trained for pair in golden["feasibility/pair_ids"].tolist()])
    given = golden[case["input"]], golden["feasibility/scores"], case["threshold"], seen
    found = calibrate_scores(*given, reference_quirks=True)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, golden[case["key"]])
    np.testing.assert_array_equal(np.isneginf(calibrate_scores(*given)), golden[case["key"]] == 0)


def test_infeasible_pairs_are_out_of_the_question_and_seen_ones_never():
    scores, seen = torch.tensor([[-1.0, 2.0, -3.0, 4.0]]), [True, False, False, False]
    given = [0.0, 0.2, 0.5, 0.7], 0.5, seen
    assert calibrate_scores(scores, *given).tolist() == [[-1, -np.inf, -3, 4]]
    assert calibrate_scores(scores, *given, reference_quirks=True).tolist() == [[-1, 0, -3, 4]]


@pytest.mark.parametrize("of_seen", [0.0, -0.9, 0.9])
def test_at_a_threshold_of_zero_the_original_doubles_seen_scores(of_seen):
    given = [[-1.0, 2.0, -3.0]], [of_seen, -0.5, 0.5], 0.0, [True, False, False]
    assert calibrate_scores(*given).tolist() == [[-1, -np.inf, -3]]
    assert calibrate_scores(*given, reference_quirks=True).tolist() == [[-2, 0, -3]]


def test_the_original_compares_in_float32():
    given = [[1.0, 2.0]], [0.1, 0.1], np.float64(0.100000002), [True, False]
    assert calibrate_scores(*given).tolist() == [[1, -np.inf]]
    assert calibrate_scores(*given, reference_quirks=True).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"threshold": np.nan}, "`threshold` must be a finite number, got nan"),
        ({"scores": [1.0, 2.0]}, r"a column for each pair; got \(2,\)"),
        ({"feasibility_scores": [0.0]}, r"`feasibility_scores` must be numbers of shape \(2\), got \(1,\)"),
        ({"seen": [0, 1]}, "`seen` must be 2 times True or False, .* type int64"),
    ],
)
def test_calibration_refuses(change, message):
    given = {"scores": [[1.0, 2.0]], "feasibility_scores": [0.0, 0.5], "threshold": 0.1, "seen": [True, False]}
    with pytest.raises(ValueError, match=message):
        calibrate_scores(**given | change)


def feasible_case(seed: int, low: float = -1, **settings) -> tuple[dict, np.ndarray]:
    given = make_case(seed, **settings)
    scores = np.random.default_rng(seed + 100).uniform(low, 1, len(given["seen"]))
    return given, np.where(given["seen"], 0, scores)


@either_way
@pytest.mark.parametrize("seed, levels, topk, low", [(0, None, 1, -1), (1, 6, 1, 0.1), (2, 6, 2, -1), (3, 24, 3, 0.2)])
def test_the_search_is_that_over_calibrated_scores(seed, levels, topk, low, quirks):
    given, feasible = feasible_case(seed, low=low, num_images=60, levels=levels)
    found = feasibility_threshold(**given, feasibility_scores=feasible, topk=topk, reference_quirks=quirks)
    among = feasible[~given["seen"] & given["candidates"]]
    np.testing.assert_allclose(found["thresholds"], np.linspace(among.min(), among.max(), 50), atol=1e-6, rtol=0)
    expected = []
    for threshold in found["thresholds"]:
        calibrated = calibrate_scores(given["scores"], feasible, threshold, given["seen"], quirks)
        expected.append(czsl_metrics(**given | {"scores": calibrated}, topk=topk, reference_quirks=quirks)["auc"])
    assert found["aucs"].tolist() == expected
    assert len(set(expected)) > 3
    assert found["auc"] == max(expected)
    assert found["threshold"] == found["thresholds"][expected.index(max(expected))]


@either_way
def test_the_search_in_batches_and_in_blocks(quirks):
    given, feasible = feasible_case(4)
    expected = feasibility_threshold(**given, feasibility_scores=feasible, reference_quirks=quirks)
    scores, labels = given.pop("scores"), given.pop("labels")
    batches = FeasibilityThreshold(**given, feasibility_scores=feasible, reference_quirks=quirks)
    blocks = FeasibilityThreshold(**given, feasibility_scores=feasible, reference_quirks=quirks)
    for rows in (slice(0, 9), slice(9, None)):
        batches.update(scores[rows], labels[rows])
        blocks.update_parts([(own, scores[rows][:, own]) for own in (slice(13, 20), slice(0, 13))], labels[rows])
    for found in (batches.compute(), blocks.compute()):
        assert found["aucs"].tolist() == expected["aucs"].tolist()
        assert found["threshold"] == expected["threshold"]


def test_thresholds_may_be_given_and_the_lowest_of_the_best_is_taken():
    given, feasible = feasible_case(5, low=0)
    among = feasible[~given["seen"] & given["candidates"]]
    found = feasibility_threshold(**given, feasibility_scores=feasible, thresholds=[5.0, -1.0, among.min()])
    assert found["thresholds"].tolist() == [-1.0, among.min(), 5.0]
    assert found["aucs"][0] == found["aucs"][1] == czsl_metrics(**given)["auc"] == found["auc"]
    assert found["threshold"] == -1
    assert found["aucs"][2] == 0  # nothing unseen is left
    one = feasibility_threshold(**given, feasibility_scores=feasible, thresholds=1)
    assert one["threshold"] == among.min()


@pytest.mark.parametrize("thresholds, message", [(0, "1 or more, .*; got 0"), ([], "`thresholds` is empty")])
def test_no_threshold_is_refused(thresholds, message):
    given, feasible = feasible_case(5)
    with pytest.raises(ValueError, match=message):
        feasibility_threshold(**given, feasibility_scores=feasible, thresholds=thresholds)


def test_the_search_keeps_no_scores():
    num_images, num_pairs, width = 100, 20000, 500
    rng = np.random.default_rng(0)
    ids = np.stack(np.divmod(np.arange(num_pairs), 200), axis=1)
    seen = rng.random(num_pairs) < 0.1
    search = FeasibilityThreshold(ids, seen, np.ones(num_pairs, dtype=bool), rng.random(num_pairs))
    tracemalloc.start()
    parts = ((slice(at, at + width), rng.normal(size=(num_images, width))) for at in range(0, num_pairs, width))
    search.update_parts(parts, rng.integers(0, num_pairs, num_images))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < num_images * num_pairs * 8 / 4


GLOVE = """\
the 1 1 1
red 1.5 -2 0.25
fake 2 0 1
leather 4 -1 0
leather 9 9 9
. . . 1 2 3
car 0 1e-3 5
"""


@pytest.fixture
def glove(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(GLOVE, encoding="utf-8")
    return path


def test_word_vectors(glove):
    found = read_word_vectors(glove, ["Red", "Fake_Leather", "car", "red"])
    assert found.tolist() == [[1.5, -2, 0.25], [3, -0.5, 0.5], [0, 1e-3, 5], [1.5, -2, 0.25]]


def test_words_of_lines_that_python_would_cut(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes("a\x85 1 2\nköln\u2028 3 4\nköln 5 6\r\n".encode())
    assert read_word_vectors(str(path), ["Köln"]).tolist() == [[5, 6]]


@pytest.mark.parametrize(
    "words, message",
    [
        (["red", "Faux.Leather", "tall"], "no vector for 2 words: 'faux.leather', 'tall'. Give other names"),
        (["red", "_"], "Every name must have a word, got '_'"),
        ([], r"must be a list of names, got \[\]"),
        ("red", "must be a list of names, got 'red'"),
        (["red", "short"], "one length, got 2 numbers for 'short' and 3 numbers for 'red'"),
        (["bad"], r"must have finite numbers after each word, got b'bad 1 x 2.*' in line 9"),
        (["hole"], r"finite numbers after each word, got b'hole.*' in line 10"),
        (["nan"], r"finite numbers after each word, got b'nan nan 1 2.*' in line 11"),
    ],
)
def test_word_vectors_refuse(glove, words, message):
    glove.write_text(GLOVE + "short 1 2\nbad 1 x 2\nhole\nnan nan 1 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_word_vectors(glove, words)
