"""The metrics as `evaluate` loads them, without a network."""

import importlib
import sys

import numpy as np
import pytest
import torch

from peft_coop.evaluation.metrics import METRICS, metric_path

evaluate = pytest.importorskip("evaluate")

CLASSES = {"accuracy": "Accuracy", "macro_accuracy": "MacroAccuracy", "base_to_new": "BaseToNew", "ece": "ECE"}
CLASSES |= {"czsl": "CZSL", "mean_iou": "MeanIoU"}
INPUTS = {
    "accuracy": {"predictions": [0, 0, 0, 1, 1], "references": [0, 0, 0, 0, 2]},
    "macro_accuracy": {"predictions": [0, 0, 0, 1, 1], "references": [0, 0, 0, 0, 2]},
    "base_to_new": {
        "predictions": [0, 1, 1, 0, 0],
        "references": [0, 1, 0, 0, 1],
        "is_new": [False, False, True, False, True],
    },
    "ece": {"predictions": [[0.7, 0.3], [0.68, 0.32], [0.1, 0.9]], "references": [0, 1, 1]},
    "mean_iou": {
        "predictions": [[[0, 1], [1, 1]], [[0, 0], [2, 1]]],
        "references": [[[0, 1], [1, 0]], [[0, 255], [1, 1]]],
    },
    "czsl": {"predictions": [[3.0, 0.0, 1.0], [1.0, 2.0, 0.0], [0.0, 9.0, -1.0]], "references": [0, 0, 2]},
}
# What is said once, and not of each image.
SETTINGS = {
    "mean_iou": {"num_labels": 4},
    "czsl": {
        "pair_ids": [[0, 0], [1, 1], [0, 1]],
        "seen": [True, False, False],
        "candidates": [True, False, True],
    },
}
RESULTS = {
    "accuracy": {"accuracy": 0.6},
    "macro_accuracy": {"macro_accuracy": 0.375},
    "base_to_new": {"base_accuracy": 1.0, "new_accuracy": 0.0, "harmonic_mean": 0.0},
    "ece": {"ece": pytest.approx(0.16)},
    "mean_iou": {
        "mean_iou": pytest.approx((2 / 3 + 3 / 5 + 0) / 3),
        "mean_accuracy": pytest.approx((2 / 3 + 3 / 4) / 2),
        "overall_accuracy": pytest.approx(5 / 7),
        "per_category_iou": pytest.approx([2 / 3, 3 / 5, 0, float("nan")], nan_ok=True),
        "per_category_accuracy": pytest.approx([2 / 3, 3 / 4, float("nan"), float("nan")], nan_ok=True),
    },
    # Images of the seen pair are right below a bias of 2 and of 1, that of the unseen one above a bias of 1.
    "czsl": {
        "best_seen": 1.0,
        "best_unseen": 1.0,
        "best_hm": pytest.approx(2 / 3),
        "auc": 0.75,
        "best_hm_seen": 0.5,
        "best_hm_unseen": 1.0,
        "best_hm_bias": 1.5,
        "attr_acc": 1.0,
        "obj_acc": pytest.approx(2 / 3),
        "pair_acc": pytest.approx(2 / 3),
        "seen_acc": 1.0,
        "unseen_acc": 0.0,
    },
}


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    """No cache outside the tests, where copies of the scripts and inputs would lie."""
    folder, path = tmp_path_factory.mktemp("evaluate"), list(sys.path)
    forget_loaded()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE", "DOWNLOADED_EVALUATE_PATH"):
            patch.setattr(evaluate.config, name, folder / name)
        yield
    sys.path[:] = path
    forget_loaded()


def forget_loaded():
    """What `evaluate` has loaded is a package at one place, where nothing of another cache is found."""
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


def load(name, how, tmp_path):
    if how == "loaded":
        return evaluate.load(metric_path(name), experiment_id=name)
    module = importlib.import_module(f"peft_coop.evaluation.metrics.{name}")
    return getattr(module, CLASSES[name])(cache_dir=str(tmp_path))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("how", ["loaded", "instance"])
@pytest.mark.parametrize("name", METRICS)
def test_compute(name, how, kind, tmp_path):
    inputs = {key: kind(value) for key, value in INPUTS[name].items()}
    assert load(name, how, tmp_path).compute(**inputs, **SETTINGS.get(name, {})) == RESULTS[name]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("name", METRICS)
def test_in_batches(name, kind, tmp_path):
    metric = load(name, "loaded", tmp_path)
    for part in (slice(0, 2), slice(2, None)):
        metric.add_batch(**{key: kind(value[part]) for key, value in INPUTS[name].items()})
    assert metric.compute(**SETTINGS.get(name, {})) == RESULTS[name]


def test_together():
    combined = evaluate.combine([evaluate.load(metric_path(name)) for name in ("accuracy", "macro_accuracy")])
    assert combined.compute(**INPUTS["accuracy"]) == {"accuracy": 0.6, "macro_accuracy": 0.375}


def test_base_to_new_with_both_parts(tmp_path):
    inputs = {"predictions": [0, 1, 1, 0], "references": [0, 0, 1, 0], "is_new": [0, 0, 1, 1]}
    expected = {"base_accuracy": 0.5, "new_accuracy": 1.0, "harmonic_mean": pytest.approx(2 / 3)}
    assert load("base_to_new", "loaded", tmp_path).compute(**inputs) == expected


@pytest.mark.parametrize("is_new, count", [([True, True], 2), ([False, False], 0)])
def test_base_to_new_needs_both_parts(is_new, count, tmp_path):
    with pytest.raises(ValueError, match=f"true of some images and false of others, got {count} of 2"):
        load("base_to_new", "instance", tmp_path).compute(predictions=[0, 1], references=[0, 1], is_new=is_new)


def test_number_of_bins_can_be_given(tmp_path):
    metric = load("ece", "loaded", tmp_path)
    assert metric.compute(**INPUTS["ece"], num_bins=1) == {"ece": pytest.approx(abs(0.7 + 0.68 + 0.9 - 2) / 3)}


def test_ece_refuses_logits(tmp_path):
    with pytest.raises(ValueError, match="of logits, take the softmax"):
        load("ece", "loaded", tmp_path).compute(predictions=[[2.0, 3.0]], references=[0])


def images_of_all_sizes(seed: int) -> tuple[list, list]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, (6, 2))
    predictions = [rng.integers(0, 5, size) for size in sizes]
    references = [np.where(rng.random(size) < 0.2, 255, rng.integers(0, 5, size)) for size in sizes]
    return predictions, references


def pixel_by_pixel(predictions, references, num_labels, ignore_index=255) -> dict:
    """Slow and obvious: every pixel looked at for every class."""
    pixels = [
        (predicted, true)
        for image, mask in zip(predictions, references, strict=True)
        for predicted, true in zip(np.ravel(image).tolist(), np.ravel(mask).tolist(), strict=True)
        if true != ignore_index
    ]
    iou, accuracy = [], []
    for label in range(num_labels):
        both = sum(predicted == label and true == label for predicted, true in pixels)
        either = sum(predicted == label or true == label for predicted, true in pixels)
        there = sum(true == label for _, true in pixels)
        iou.append(both / either if either else float("nan"))
        accuracy.append(both / there if there else float("nan"))
    return {
        "mean_iou": np.mean([value for value in iou if value == value]),
        "mean_accuracy": np.mean([value for value in accuracy if value == value]),
        "overall_accuracy": sum(predicted == true for predicted, true in pixels) / len(pixels),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


def histograms(predictions, references, num_labels, ignore_index=255) -> dict:
    """As the metric on the Hub defines it: histograms of what both have, of each one, and of their union."""
    area = np.zeros((3, num_labels))
    for image, mask in zip(predictions, references, strict=True):
        valid = mask != ignore_index
        image, mask = image[valid], mask[valid]
        for row, values in enumerate((image[image == mask], image, mask)):
            area[row] += np.histogram(values, bins=num_labels, range=(0, num_labels - 1))[0]
    both, predicted, true = area
    with np.errstate(invalid="ignore"):
        iou, accuracy = both / (predicted + true - both), both / true
    return {
        "mean_iou": np.nanmean(iou),
        "mean_accuracy": np.nanmean(accuracy),
        "overall_accuracy": both.sum() / true.sum(),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


@pytest.mark.parametrize("definition", [pixel_by_pixel, histograms])
@pytest.mark.parametrize("num_labels", [5, 7])
def test_mean_iou_of_images_of_all_sizes(definition, num_labels, tmp_path):
    """Added one by one, in batches and at once; two of seven classes are nowhere."""
    predictions, references = images_of_all_sizes(num_labels)
    expected = definition(predictions, references, num_labels)
    metric = load("mean_iou", "loaded", tmp_path)
    for how in ("one by one", "batches", "at once"):
        given = {}
        if how == "one by one":
            for prediction, reference in zip(predictions, references, strict=True):
                metric.add(prediction=prediction, reference=reference)
        elif how == "batches":
            for part in (slice(0, 4), slice(4, None)):
                metric.add_batch(predictions=predictions[part], references=references[part])
        else:
            given = {"predictions": predictions, "references": references}
        result = metric.compute(num_labels=num_labels, **given)
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            assert result[name] == pytest.approx(value, nan_ok=True, abs=1e-12)


def test_mean_iou_pools_over_images_and_does_not_average_their_scores(tmp_path):
    images = {"predictions": [np.zeros((1, 9), int), np.zeros((1, 1), int)]}
    images["references"] = [np.zeros((1, 9), int), np.ones((1, 1), int)]
    assert load("mean_iou", "instance", tmp_path).compute(**images, num_labels=2)["per_category_iou"] == [0.9, 0.0]


def test_mean_iou_of_reduced_labels_and_of_what_is_not_there(tmp_path):
    metric = load("mean_iou", "instance", tmp_path)
    images = {"predictions": [np.array([[0, 1, 1, 0]])], "references": [np.array([[1, 2, 0, 255]])]}
    result = metric.compute(**images, num_labels=3, reduce_labels=True, nan_to_num=-1.0)
    assert result["per_category_iou"] == [1.0, 1.0, -1.0]
    assert result["mean_iou"] == 1.0


WRONG_MAPS = {
    "shape": ([[0, 1]], [[0], [1]], r"must have one shape, got \(1, 2\) and \(2, 1\)"),
    "logits": ([[0.5, 1.0]], [[0, 1]], "`predictions` must be whole numbers, got float64; of logits, take the largest"),
    "class": ([[0, 2]], [[0, 1]], "`predictions` must be from 0 to 1, got 2"),
    "reference": ([[0, 1]], [[0, 7]], "`references` must be from 0 to 1 or 255, got 7"),
    "nothing": ([[0, 1]], [[255, 255]], "There is no pixel with a class"),
}


@pytest.mark.parametrize("case", WRONG_MAPS)
def test_mean_iou_refuses_what_it_cannot_count(case, tmp_path):
    prediction, reference, message = WRONG_MAPS[case]
    with pytest.raises(ValueError, match=message):
        load("mean_iou", "instance", tmp_path).compute(predictions=[prediction], references=[reference], num_labels=2)
    with pytest.raises(ValueError, match="There are 2 predictions and 1 references"):
        load("mean_iou", "instance", tmp_path).compute(predictions=[prediction] * 2, references=[reference])


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"A metric is one of .*'ece'.*, got 'f1'"):
        metric_path("f1")
