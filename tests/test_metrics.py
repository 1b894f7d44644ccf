"""The metrics as `evaluate` loads them, without a network."""

import importlib
import sys

import numpy as np
import pytest
import torch

from peft_coop.evaluation.metrics import METRICS, metric_path

evaluate = pytest.importorskip("evaluate")

CLASSES = {"accuracy": "Accuracy", "macro_accuracy": "MacroAccuracy", "base_to_new": "BaseToNew", "ece": "ECE"}
CLASSES["czsl"] = "CZSL"
INPUTS = {
    "accuracy": {"predictions": [0, 0, 0, 1, 1], "references": [0, 0, 0, 0, 2]},
    "macro_accuracy": {"predictions": [0, 0, 0, 1, 1], "references": [0, 0, 0, 0, 2]},
    "base_to_new": {
        "predictions": [0, 1, 1, 0, 0],
        "references": [0, 1, 0, 0, 1],
        "is_new": [False, False, True, False, True],
    },
    "ece": {"predictions": [[0.7, 0.3], [0.68, 0.32], [0.1, 0.9]], "references": [0, 1, 1]},
    "czsl": {"predictions": [[3.0, 0.0, 1.0], [1.0, 2.0, 0.0], [0.0, 9.0, -1.0]], "references": [0, 0, 2]},
}
# What is said once, and not of each image.
SETTINGS = {
    "czsl": {
        "pair_ids": [[0, 0], [1, 1], [0, 1]],
        "seen": [True, False, False],
        "candidates": [True, False, True],
    }
}
RESULTS = {
    "accuracy": {"accuracy": 0.6},
    "macro_accuracy": {"macro_accuracy": 0.375},
    "base_to_new": {"base_accuracy": 1.0, "new_accuracy": 0.0, "harmonic_mean": 0.0},
    "ece": {"ece": pytest.approx(0.16)},
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
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE", "DOWNLOADED_EVALUATE_PATH"):
            patch.setattr(evaluate.config, name, folder / name)
        yield
    sys.path[:] = path
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


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"A metric is one of .*'ece'.*, got 'f1'"):
        metric_path("f1")
