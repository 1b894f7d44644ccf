"""Scores against scikit-learn, slow loops and numbers computed by hand."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score

from peft_coop.evaluation.scores import accuracy, expected_calibration_error, harmonic_mean, macro_accuracy, scores


def random_task(num_images=200, num_classes=7, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.minimum(generator.geometric(0.4, num_images) - 1, num_classes - 1)
    logits = generator.normal(size=(num_images, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    return logits, labels


def slow_ece(probabilities, labels, num_bins):
    """Guo et al., equation 3, as it is written."""
    total = 0.0
    for number in range(1, num_bins + 1):
        inside = [
            (max(row), int(np.argmax(row)) == label)
            for row, label in zip(probabilities, labels, strict=True)
            if (number - 1) / num_bins < max(row) <= number / num_bins
        ]
        if inside:
            confidence = sum(top for top, _ in inside) / len(inside)
            right = sum(hit for _, hit in inside) / len(inside)
            total += len(inside) / len(labels) * abs(right - confidence)
    return total


def test_accuracy_is_the_share_of_right_predictions():
    assert accuracy([0, 1, 2, 2], [0, 1, 1, 2]) == 0.75


def test_macro_accuracy_counts_every_class_once():
    # Class 0: 3 of 4; class 2: 0 of 1. Class 1 is only predicted.
    assert macro_accuracy([0, 0, 0, 1, 1], [0, 0, 0, 0, 2]) == 0.375


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(3))
def test_macro_accuracy_agrees_with_scikit_learn(seed):
    logits, labels = random_task(30, seed=seed)
    predictions = logits.argmax(1)
    assert macro_accuracy(predictions, labels) == pytest.approx(balanced_accuracy_score(labels, predictions))


@pytest.mark.parametrize(
    "base, new, mean", [(0.8047, 0.7169, 0.7583), (0.5, 0.5, 0.5), (0, 0.7, 0), (0.7, 0, 0), (0, 0, 0)]
)
def test_harmonic_mean(base, new, mean):
    assert harmonic_mean(base, new) == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize("base, new", [(-0.1, 0.5), (0.5, float("nan"))])
def test_harmonic_mean_wants_accuracies(base, new):
    with pytest.raises(ValueError, match=r"must be an accuracy of 0 or more, got (-0.1|nan)"):
        harmonic_mean(base, new)


@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_calibration_error_agrees_with_a_loop(num_bins):
    logits, labels = random_task()
    probabilities = softmax(logits, axis=1)
    expected = slow_ece(probabilities, labels, num_bins)
    assert expected > 0.01
    assert expected_calibration_error(probabilities, labels, num_bins) == pytest.approx(expected)


def test_calibration_error_by_hand():
    # 15 bins: 0.7 and 0.68 share one, 0.9 is alone. |1.38 - 1| / 3 + |0.9 - 1| / 3.
    probabilities = [[0.7, 0.3], [0.68, 0.32], [0.1, 0.9]]
    assert expected_calibration_error(probabilities, [0, 1, 1]) == pytest.approx((0.38 + 0.1) / 3)


def test_a_bin_holds_its_upper_end():
    # With 4 bins, 0.75 is in the third, together with 0.7: the gaps 0.25 and -0.7 add up before they count.
    assert expected_calibration_error([[0.75, 0.25], [0.7, 0.3]], [0, 1], 4) == pytest.approx(0.45 / 2)


def test_sure_and_right_is_calibrated_whatever_the_rounding():
    assert expected_calibration_error(np.float32([[1, 0], [0, 1 + 1e-6]]), [0, 1]) == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_scores_of_logits(dtype):
    logits, labels = random_task()
    logits = logits.astype(dtype)
    predictions = logits.argmax(1)
    measured = scores(logits, labels.tolist())
    probabilities = softmax(logits.astype(np.float64), axis=1)
    assert measured == {
        "accuracy": (predictions == labels).mean(),
        "macro_accuracy": pytest.approx(balanced_accuracy_score(labels, predictions)),
        "ece": pytest.approx(slow_ece(probabilities, labels, 15)),
        "num_examples": 200,
    }
    assert {type(value) for value in measured.values()} == {float, int}


def test_scores_of_logits_that_overflow_when_exponentiated():
    assert scores([[1000.0, 0.0], [0.0, -1000.0]], [0, 1]) == {
        "accuracy": 0.5,
        "macro_accuracy": 0.5,
        "ece": 0.5,
        "num_examples": 2,
    }


def test_scores_where_classes_are_out_of_the_question():
    logits, labels = random_task()
    logits[:, 2] = -np.inf
    logits[5, [0, 1, 3]] = -np.inf
    measured = scores(logits, labels)
    far_below = np.where(np.isneginf(logits), -1e4, logits)
    assert measured == pytest.approx(scores(far_below, labels))
    assert measured["ece"] == pytest.approx(slow_ece(softmax(far_below, axis=1), labels, 15))
    assert measured["accuracy"] == (far_below.argmax(1) == labels).mean()
    assert scores([[-np.inf, 3.0]], [0]) == {"accuracy": 0, "macro_accuracy": 0, "ece": 1, "num_examples": 1}


@pytest.mark.parametrize(
    "logits, labels, message",
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=int), "`labels` is empty: there must be at least one image"),
        ([[0.0, 1.0]], [2], "`labels` must be from 0 to 1, as there are 2 columns; got 2"),
        ([[0.0, 1.0]], [-1], "from 0 to 1, as there are 2 columns; got -1"),
        ([[0.0, 1.0]], [0, 1], r"row for each of the 2 labels and a column for each class, got the shape \(1, 2\)"),
        ([0.0, 1.0], [0, 1], r"got the shape \(2,\)"),
        ([[0.0, 1.0]], [[0]], r"one for each image, got the shape \(1, 1\)"),
        ([[0.0, 1.0], [float("nan"), 0.0]], [0, 1], "`logits` must be finite numbers, .* got nan in row 1, column 0"),
        ([[0.0, 1.0], [-np.inf, -np.inf]], [0, 1], "finite one in the row, got -inf in row 1, column 0"),
        ([[-np.inf, np.inf]], [0], "got -inf in row 0, column 0"),
        ([[-np.inf, 0.0, float("nan")]], [0], "got nan in row 0, column 2"),
        ([[-np.inf, 0.0, np.inf]], [0], "got inf in row 0, column 2"),
        ([[0.0, float("inf")]], [0], "got inf in row 0, column 1"),
        ([[0.0, 1.0]], [0.5], r"`labels` must be whole numbers, got \[0.5\] of type float64"),
        ([[0.0, 1.0]], [True], "of type bool"),
    ],
)
def test_scores_refuse_what_does_not_fit(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        scores(logits, labels)


@pytest.mark.parametrize("measure", [accuracy, macro_accuracy])
def test_accuracies_refuse_what_does_not_fit(measure):
    with pytest.raises(ValueError, match="got 2 and 1 labels"):
        measure([0, 1], [0])
    with pytest.raises(ValueError, match="`predictions` is empty"):
        measure(np.zeros(0, dtype=int), np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="`predictions` must be whole numbers"):
        measure([0.2, 0.8], [0, 1])


@pytest.mark.parametrize(
    "row, message",
    [([2.0, 3.0], "row 1 sums to 5, its lowest is 2"), ([-0.5, 1.5], "row 1 sums to 1, its lowest is -0.5")],
)
def test_calibration_error_refuses_logits(row, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error([[0.5, 0.5], row], [0, 1])


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_calibration_error_refuses_what_is_not_finite(value):
    with pytest.raises(ValueError, match=f"`probabilities` must be finite numbers, got {value} in row 0, column 1"):
        expected_calibration_error([[1.0, value]], [0])


def test_calibration_error_needs_a_bin():
    with pytest.raises(ValueError, match="`num_bins` must be 1 or more, got 0"):
        expected_calibration_error([[0.5, 0.5]], [0], 0)
