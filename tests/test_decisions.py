"""Temperatures, thresholds and areas against torch, scikit-learn, slow loops and numbers computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score

from peft_coop.evaluation import (
    Decided,
    calibration_scores,
    choose_min_probability,
    coverage_figure,
    decided_logits,
    detection_auroc,
    fit_temperature,
    reliability_figure,
    risk_coverage,
)
from peft_coop.models import answers_other


def random_task(num_images=300, num_classes=6, seed=0):
    """Logits that are twice too large for the labels."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_images, num_classes))
    labels = np.array([generator.choice(num_classes, p=softmax(row)) for row in logits])
    return 2 * logits, labels


def several_labels(seed=0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(120, 5)) - 0.5
    return 3 * logits, (generator.random(logits.shape) < expit(logits)).astype(float)


def by_lbfgs(loss_of):
    """The temperature that torch's optimizer finds."""
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=50, tolerance_grad=1e-12, tolerance_change=0.0)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(log_temperature.exp())
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_temperature.exp().item()


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_that_of_the_lowest_cross_entropy(seed):
    logits, labels = random_task(seed=seed)
    values, true = torch.tensor(logits), torch.tensor(labels)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(by_lbfgs(lambda each: F.cross_entropy(values / each, true)), abs=1e-6)
    assert 1.6 < found < 2.5


def test_the_temperature_of_several_labels_is_that_of_the_lowest_binary_cross_entropy():
    logits, labels = several_labels()
    values, true = torch.tensor(logits), torch.tensor(labels)
    expected = by_lbfgs(lambda each: F.binary_cross_entropy_with_logits(values / each, true))
    assert fit_temperature(logits, labels) == pytest.approx(expected, abs=1e-6)
    assert expected > 2


def test_a_class_that_is_out_of_the_question_changes_no_temperature():
    logits, labels = random_task()
    beside = np.concatenate([logits, np.full((len(logits), 1), -np.inf)], axis=1)
    assert fit_temperature(beside, labels) == pytest.approx(fit_temperature(logits, labels), abs=1e-9)


@pytest.mark.parametrize(
    "logits, labels, message",
    [
        ([[1.0, 0.0], [0.0, 2.0]], [0, 1], r"All answers for these images \(2\) are right"),
        ([[1.0, 0.0], [1.0, 0.0]], [0, 1], r"say nothing of the labels of these images \(2\)"),
        ([[1.0, 0.0]], [1], r"say nothing of the labels of these images \(1\)"),
        ([[1.0], [2.0]], [0, 0], "There is a single class"),
        ([[1.0, np.nan]], [0], "`logits` must be finite numbers.* got nan in row 0, column 1"),
        ([[0.0, -np.inf], [1.0, 0.0]], [1, 0], "true class is minus infinity in row 0"),
        (np.zeros((0, 2)), np.zeros(0, int), "`labels` is empty"),
        ([[1.0, 0.0]], [[0.5, 1.0]], r"must be 0 or 1, got 0\.5"),
        ([[1.0, 0.0]], [[1.0, 0.0, 0.0]], r"must be \(1, 2\), as `logits` are, got \(1, 3\)"),
    ],
)
def test_what_tells_no_temperature(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)


def test_scores_of_probabilities_agree_with_loops():
    logits, labels = random_task(40)
    probabilities = softmax(logits, axis=1)
    found = calibration_scores(logits, labels)
    nll = sum(-np.log(row[label]) for row, label in zip(probabilities, labels, strict=True)) / 40
    brier = sum(
        sum((row[k] - (k == label)) ** 2 for k in range(6)) for row, label in zip(probabilities, labels, strict=True)
    )
    assert found["nll"] == pytest.approx(nll, abs=1e-9)
    assert found["brier"] == pytest.approx(brier / 40, abs=1e-9)


def test_scores_of_several_labels_agree_with_torch():
    logits, labels = several_labels()
    found = calibration_scores(logits, labels)
    nll = F.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(labels)).item()
    assert found["nll"] == pytest.approx(nll, abs=1e-9)
    assert found["brier"] == pytest.approx(((expit(logits) - labels) ** 2).mean(), abs=1e-9)


def test_a_fitted_temperature_lowers_the_calibration_error_of_other_images():
    logits, labels = random_task(2000)
    temperature = fit_temperature(*random_task(2000, seed=1))
    before, after = calibration_scores(logits, labels), calibration_scores(logits / temperature, labels)
    assert before["ece"] > 0.1
    assert after["ece"] < before["ece"] / 3
    assert after["nll"] < before["nll"]


def test_coverage_and_accuracy_by_hand():
    curve = risk_coverage([0.9, 0.5, 0.9, 0.7], np.array([True, False, False, True]))
    assert curve.min_probability.tolist() == [0.9, 0.7, 0.5]
    assert curve.coverage.tolist() == [0.5, 0.75, 1.0]
    assert curve.accuracy == pytest.approx([1 / 2, 2 / 3, 2 / 4])
    assert curve.aurc == pytest.approx((0.5 + 0.5 + 1 / 3 + 0.5) / 4)


@pytest.mark.parametrize("seed", range(2))
def test_the_area_agrees_with_a_loop(seed):
    generator = np.random.default_rng(seed)
    confidence, right = generator.integers(0, 10, 60) / 10, generator.random(60) < 0.6
    risks = [1 - right[confidence >= each].mean() for each in confidence]
    assert risk_coverage(confidence, right).aurc == pytest.approx(np.mean(risks), abs=1e-12)


CONFIDENCE = np.array([0.9, 0.8, 0.8, 0.6, 0.5, 0.4])
RIGHT = np.array([True, True, False, True, True, False])


@pytest.mark.parametrize(
    "wish, threshold",
    [
        ({"min_accuracy": 0.8}, 0.45),  # 4 of 5; after 2 of 3 and 3 of 4
        ({"min_accuracy": 1.0}, 0.85),
        ({"min_accuracy": 0.5}, None),
        ({"min_coverage": 0.3}, 0.7),  # the tie at 0.8 is answered whole
        ({"min_coverage": 0.1}, 0.85),
        ({"min_coverage": 1.0}, None),
    ],
)
def test_the_threshold_allows_as_many_answers_as_the_wish(wish, threshold):
    found = choose_min_probability(CONFIDENCE, RIGHT, **wish)
    assert found == (None if threshold is None else pytest.approx(threshold))
    answered = np.ones(6, bool) if found is None else found <= CONFIDENCE
    assert RIGHT[answered].mean() >= wish.get("min_accuracy", 0)
    assert answered.mean() >= wish.get("min_coverage", 0)


@pytest.mark.parametrize(
    "confidence, right, wish, message",
    [
        (
            [0.9, 0.8],
            [False, True],
            {"min_accuracy": 0.9},
            r"No threshold makes 90\.0% .* at best 50\.0%.* 0\.800",
        ),
        ([0.9], [True], {}, "Give either `min_accuracy` or `min_coverage`"),
        ([0.9], [True], {"min_accuracy": 0.9, "min_coverage": 0.9}, "Give either `min_accuracy` or `min_coverage`"),
        ([0.9], [True], {"min_accuracy": 95}, "`min_accuracy` must be a fraction .* got 95"),
        ([0.9], [True], {"min_coverage": 0}, "`min_coverage` must be a fraction .* got 0"),
        ([0.9], [True], {"min_coverage": float("nan")}, "`min_coverage` must be a fraction .* got nan"),
        ([], [], {"min_accuracy": 0.9}, "`confidence` must be a list with a number for each image"),
        ([np.nan], [True], {"min_accuracy": 0.9}, "`confidence` must be finite numbers, got nan at index 0"),
        ([0.9], [1], {"min_accuracy": 0.9}, "`right` must say True or False of each of the 1 images, got int64"),
    ],
)
def test_wishes_that_no_threshold_fulfils(confidence, right, wish, message):
    right = np.array(right) if right else np.zeros(0, bool)
    with pytest.raises(ValueError, match=message):
        choose_min_probability(confidence, right, **wish)


def test_detection_agrees_with_scikit_learn_also_with_ties():
    generator = np.random.default_rng(0)
    known, unknown = generator.integers(2, 9, 50) / 10, generator.integers(0, 7, 30) / 10
    expected = roc_auc_score([1] * 50 + [0] * 30, np.concatenate([known, unknown]))
    assert detection_auroc(known, unknown) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="`unknown` must be a list with a number for each image"):
        detection_auroc(known, [])


def test_other_names_are_one_answer():
    logits = np.random.default_rng(0).normal(size=(4, 5))
    probabilities = softmax(logits / 1.7, axis=1)
    found = softmax(decided_logits(logits, 3, 1.7), axis=1)
    assert found[:, :3] == pytest.approx(probabilities[:, :3], abs=1e-12)
    assert found[:, 3] == pytest.approx(probabilities[:, 3:].sum(axis=1), abs=1e-12)


def test_what_is_answered():
    logits = np.log([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])
    decided = Decided(logits, 2, np.array([0, 1, 1]))
    assert decided.answered(None).tolist() == [True, False, True]
    assert decided.answered(0.55).tolist() == [False, False, True]
    measured = decided.scores(0.55)
    assert (measured["coverage"], measured["accuracy"]) == (pytest.approx(1 / 3), 0.0)
    assert decided.scores(0.99)["accuracy"] is None
    with pytest.raises(ValueError, match="Images of none of the classes have no right answer"):
        Decided(logits, 2).scores(None)


@pytest.mark.parametrize("width", [3, 4])
def test_other_is_looked_for_along_the_classes(width):
    """Of pixels they are the second axis, and not the last."""
    pixels = torch.rand(2, width, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [
        [[bool(p[:3].max() < 0.8 or (width > 3 and p[3] > p[:3].max())) for p in row] for row in image.permute(1, 2, 0)]
        for image in pixels
    ]
    assert answers_other(pixels, 3, 0.8).tolist() == expected
    rows = pixels.permute(0, 2, 3, 1).reshape(-1, width)
    assert answers_other(rows, 3, 0.8).tolist() == torch.tensor(expected).flatten().tolist()
    assert answers_other(rows[0], 3, 0.8).item() == expected[0][0][0]
    for wrong in (pixels[0], pixels.permute(0, 2, 3, 1), rows[:, :2]):
        with pytest.raises(ValueError, match=r"with 3 classes, and perhaps 'other'; got \("):
            answers_other(wrong, 3)


def test_pictures_show_what_was_computed():
    logits, labels = random_task(100)
    decided = Decided(logits, 6, labels)
    figure = reliability_figure({"before": decided, "after": Decided(logits / 2, 6, labels)})
    error = calibration_scores(logits, labels)["ece"]
    assert figure.axes[0].get_title() == f"before: ECE {100 * error:.1f}%"
    figure = coverage_figure({"the prompt": decided}, [0.6])
    [curve, mark] = figure.axes[0].lines
    assert curve.get_ydata()[-1] == pytest.approx(100 * (logits.argmax(1) == labels).mean())
    answered = softmax(logits, axis=1).max(axis=1) >= 0.6
    assert mark.get_xdata()[0] == pytest.approx(100 * answered.mean())
    for draw in (reliability_figure, coverage_figure):
        with pytest.raises(ValueError, match="There is nothing to draw"):
            draw({})
