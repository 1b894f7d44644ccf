"""The protocol of compositions on the demo's CLIP and some of its drawn shapes, with trainings that are cut short."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from czsl_dense import dense_metrics, dense_reference
from datasets import ClassLabel
from peft import PeftModel, get_peft_model
from task_inputs import task_of

from peft_coop.czsl import calibrate_scores, czsl_metrics, feasibility, feasibility_threshold
from peft_coop.data import load_compositions
from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation import (
    FrozenCLIP,
    LinearProbe,
    PromptClassifier,
    PromptEnsemble,
    PromptLearning,
    TextBias,
    ZeroShot,
    compared_methods,
    composition,
    draw_pairs,
    load_runs,
)
from peft_coop.evaluation.baselines import hand_written_prompts
from peft_coop.evaluation.compared_methods import Classifier, row_parts
from peft_coop.evaluation.compositions import ALL, CALIBRATED
from peft_coop.evaluation.measured_pairs import Calibration, Candidates, MeasuredPairs, thinned
from peft_coop.evaluation.planning import only_listed
from peft_coop.methods import METHODS

SHORT = {"num_epochs": 2, "learning_rate": 0.005, "batch_size": 24}
NUMBERS = ("best_seen", "best_unseen", "best_hm", "auc", "best_hm_seen", "best_hm_unseen", "attr_acc", "obj_acc")


@pytest.fixture(scope="module")
def clip():
    return FrozenCLIP(load_clip(), load_processor(), "demo")


@pytest.fixture(scope="module")
def data():
    """Two images of each training pair, and one of each pair to test and to validate on."""
    whole = load_compositions("demo:compositions")
    parts = {"train": range(0, len(whole.train), 8), "val": range(0, len(whole.val), 10)}
    parts["test"] = range(0, len(whole.test), 20)
    return replace(whole, **{split: getattr(whole, split).select(rows) for split, rows in parts.items()})


def csp(**recipe):
    return PromptLearning("csp", recipe={**SHORT, **recipe})


def coop(**recipe):
    return PromptLearning("coop", recipe={**SHORT, **recipe})


class Given(Classifier):
    """Answers with scores that were given, by the image's row; remembers in how many parts it was asked."""

    def __init__(self, scores):
        self.scores, self.parts = scores, []

    def logits(self, images, class_names):
        self.parts.append(len(images))
        columns = [NAMES.index(name) for name in class_names]
        return self.scores[images["row"]][:, columns]


@pytest.fixture
def random_case(data):
    global NAMES
    rng = np.random.default_rng(0)
    closed, every = Candidates(data, data.closed_world()), Candidates(data, data.open_world())
    NAMES = every.class_names
    images = data.test.add_column("row", list(range(len(data.test))))
    scores = rng.normal(size=(len(images), len(NAMES)))
    scores[np.arange(len(images)), every.labels(images)] += 1.5
    return {"closed": closed, "open": every}, images, scores


@pytest.mark.parametrize("world", ["closed", "open"])
@pytest.mark.parametrize("quirks", [False, True])
def test_the_numbers_are_those_of_all_scores_at_once(random_case, monkeypatch, world, quirks):
    worlds, images, scores = random_case
    images = images.select(range(0, len(images), 3))
    scores_of_images = scores[::3]
    candidates = worlds[world]
    monkeypatch.setattr(compared_methods, "CELLS", 7 * len(candidates.pairs))
    classifier = Given(scores)
    found = MeasuredPairs(images, candidates, images, None, quirks).measure(classifier, classifier.scorer)
    assert len(classifier.parts) == -(-len(images) // 7)
    columns = [NAMES.index(name) for name in candidates.class_names]
    trained = set(candidates.data.train_pairs)
    seen = np.array([pair in trained for pair in candidates.pairs])
    rows = {pair: column for column, pair in enumerate(candidates.pairs)}
    labels = [rows[pair] for pair in shown(images)]
    dense = dense_reference if quirks else dense_metrics
    words = candidates.data.attributes, candidates.data.objects
    ids = np.array([(words[0].index(attribute), words[1].index(each)) for attribute, each in candidates.pairs])
    expected = dense(scores_of_images[:, columns], np.array(labels), ids, seen, np.full(len(columns), True))
    for name in NUMBERS[:-2] if quirks else NUMBERS:
        assert found[name] == pytest.approx(expected[name], abs=1e-6 if quirks else 1e-9), name
    assert (found["num_examples"], found["num_candidates"]) == (len(images), 64 if world == "closed" else 80)


def shown(images):
    words = [images.features[name].int2str(images[name]) for name in ("attribute", "object")]
    return list(zip(*words, strict=True))


@pytest.mark.parametrize("quirks", [False, True])
def test_the_threshold_is_chosen_on_validation_images(random_case, quirks):
    worlds, images, scores = random_case
    rng, candidates = np.random.default_rng(1), worlds["open"]
    ids, seen, every = candidates.pair_ids, candidates.seen, np.full(80, True)
    likely = feasibility(rng.normal(size=(8, 5)), rng.normal(size=(10, 5)), ids[seen])
    test, val = images.select(range(0, len(images), 2)), images.select(range(1, len(images), 2))
    classifier = Given(scores + 20)
    measured = MeasuredPairs(test, candidates, val, Calibration(likely), quirks)
    found = measured.measure(classifier, classifier.scorer)
    of_val = scores[1::2] + 20, candidates.labels(val), ids, seen, every
    chosen = feasibility_threshold(*of_val, likely.ravel(), reference_quirks=quirks)["threshold"]
    assert found["feasibility_threshold"] == chosen
    calibrated = calibrate_scores(scores[::2] + 20, likely.ravel(), chosen, seen, quirks)
    dense = dense_reference if quirks else dense_metrics
    expected = dense(calibrated, candidates.labels(test), ids, seen, every)
    assert found["auc"] == pytest.approx(expected["auc"], abs=1e-6)
    given = replace(measured, calibration=Calibration(likely, 0.3), val=val.select([]))
    assert given.measure(classifier, classifier.scorer)["feasibility_threshold"] == 0.3


def test_a_curve_is_thinned_with_its_ends_and_its_best_point():
    bias = np.arange(1001.0)
    curve = {"bias": bias, "seen": 1 - bias / 1000, "unseen": bias / 1000}
    kept = thinned(curve, 333.0)
    assert 150 < len(kept["seen"]) == len(kept["unseen"]) <= 201
    points = list(zip(kept["seen"], kept["unseen"], strict=True))
    assert points[0] == (1, 0)
    assert points[-1] == (0, 1)
    assert (0.667, 0.333) in points


def test_parts_of_rows(monkeypatch):
    monkeypatch.setattr(compared_methods, "CELLS", 20)
    assert list(row_parts(7, 9)) == [range(2), range(2, 4), range(4, 6), range(6, 7)]
    assert list(row_parts(2, 100)) == [range(1), range(1, 2)]


@pytest.fixture(scope="module")
def records(clip, data, tmp_path_factory):
    methods = [ZeroShot(), PromptEnsemble(), coop(), csp()]
    return composition(clip, data, methods, tmp_path_factory.mktemp("runs"), (1,), ("closed", "open"))


def test_what_is_measured_is_what_was_learned(clip, data, records):
    """The adapter that lies in the run's folder, asked for all candidates at once by its own forward."""
    assert [record["method"] for record in records] == ["zero-shot", "prompt-ensemble", "coop", "csp"]
    images = data.test.add_column("label", [0] * len(data.test))
    for record in records[2:]:
        model = PeftModel.from_pretrained(load_clip(), Path(record["folder"]) / "adapter").eval()
        for world, pairs in (("closed", data.closed_world()), ("open", data.open_world())):
            candidates = Candidates(data, pairs)
            model.set_classes(candidates.class_names)
            with torch.no_grad():
                logits = model(image_embeds=clip.image_embeds(images)).logits.numpy()
            of_pairs = candidates.pair_ids, candidates.seen, np.full(len(pairs), True)
            expected = czsl_metrics(logits, candidates.labels(data.test), *of_pairs)
            for name in ("best_seen", "best_unseen", "auc", "obj_acc"):
                # An image may change sides where float32 rounds two margins differently.
                assert record["results"][world][name] == pytest.approx(expected[name], abs=0.03), (world, name)


def test_learned_pairs_beat_the_prompt_without_learning(records):
    areas = {record["method"]: record["results"]["closed"]["auc"] for record in records}
    assert areas["csp"] > 2 * areas["zero-shot"]


def test_classes_of_the_saved_adapters_are_the_pairs(data, records):
    configs = {
        record["method"]: json.loads((Path(record["folder"]) / "adapter" / "adapter_config.json").read_text())
        for record in records[2:]
    }
    names = [" ".join(pair) for pair in data.train_pairs]
    assert configs["coop"]["class_names"] == configs["csp"]["class_names"] == names
    assert configs["csp"]["attributes"] == data.attributes
    assert configs["csp"]["embed_dropout"] == 0.3
    assert (configs["coop"]["ctx_init"], configs["coop"]["class_template"]) == ("a photo of", "{}")


@pytest.mark.filterwarnings("ignore:This text tower has 2 layers")
@pytest.mark.parametrize("key", [key for key, method in METHODS.items() if "composition" in method.protocols])
def test_scores_in_parts_are_the_logits(clip, data, monkeypatch, key):
    images, few = draw_pairs(data, ALL, 1), data.test.select(range(6))
    images = replace(images, train=images.train.select(range(4)))
    method = PromptLearning(key, recipe={**SHORT, "num_epochs": 1}).for_protocol("composition")
    config = method.config_for(images)
    torch.manual_seed(0)
    model = get_peft_model(load_clip(), config)
    names = Candidates(data, data.open_world()).class_names[::-1]
    classifier = PromptClassifier(model, clip)
    labelled = few.add_column("label", [0] * len(few))
    whole = classifier.logits(labelled, names)
    monkeypatch.setattr(compared_methods, "CELLS", 2 * len(names))
    parts = list(classifier.scorer(names)(labelled))
    assert [len(part) for part in parts] == [2, 2, 2]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)
    assert model.class_names == images.class_names


def test_hand_written_prompts_in_parts(clip, data, monkeypatch):
    monkeypatch.setattr(hand_written_prompts, "CLASSES_AT_ONCE", 3)
    monkeypatch.setattr(compared_methods, "CELLS", 2 * 80)
    names = Candidates(data, data.open_world()).class_names
    few = data.test.select(range(5)).add_column("label", [0] * 5)
    for method in (ZeroShot(), PromptEnsemble()):
        classifier = method.fit(clip, draw_pairs(data, 0, 0), 0, Path())
        parts = list(classifier.scorer(names)(few))
        assert [len(part) for part in parts] == [2, 2, 1]
        np.testing.assert_allclose(np.concatenate(parts), classifier.logits(few, names), atol=1e-4)


def test_what_was_killed_goes_on_and_what_is_finished_is_read(clip, data, tmp_path, optimizer_steps):
    whole = composition(clip, data, [csp()], tmp_path / "whole", (1, 2))
    assert optimizer_steps.taken == 2 * 8
    optimizer_steps.interrupted = optimizer_steps.taken + 5
    with pytest.raises(KeyboardInterrupt, match="in a step"):
        composition(clip, data, [csp()], tmp_path / "killed", (1, 2))
    assert not list((tmp_path / "killed").rglob("result.json"))
    again = composition(clip, data, [csp()], tmp_path / "killed", (1, 2))
    for first, second in zip(whole, again, strict=True):
        assert first["results"]["closed"]["auc"] == pytest.approx(second["results"]["closed"]["auc"], abs=0.02)
    taken = optimizer_steps.taken
    assert composition(clip, data, [csp()], tmp_path / "killed", (2,)) == again[1:]
    assert optimizer_steps.taken == taken


def test_a_dry_run_lists(clip, data, tmp_path):
    with only_listed() as runs:
        assert composition(clip, data, [ZeroShot(), coop(), csp()], tmp_path, (1,)) == []
    assert not list(tmp_path.iterdir())
    assert [(run.key.method, run.num_train, run.num_steps) for run in runs] == [
        ("zero-shot", 0, 0),
        ("coop", len(data.train), 8),
        ("csp", len(data.train), 8),
    ]
    assert all(run.seconds is None or run.seconds > 0 for run in runs)


def test_images_of_each_pair_are_drawn_by_seed(data):
    every = draw_pairs(data, ALL, 1)
    assert len(every.train) == len(data.train) == 2 * 48
    assert every.zero_shot_template == "a photo of {}"
    one, other = (draw_pairs(data, 1, seed).train for seed in (1, 2))
    assert sorted(one["label"]) == sorted(other["label"]) == list(range(48))
    assert one["image"] != other["image"]


def test_words_are_read_without_their_dots(clip, data, tmp_path):
    attributes = [{"framed": "With.a.frame"}.get(word, word) for word in data.attributes]
    renamed = in_other_words(data, attributes)
    images = draw_pairs(renamed, ALL, 1)
    assert "With a frame heart" in images.class_names
    assert "With a frame" in images.made_of["attributes"]
    (record,) = composition(clip, renamed, [csp(num_epochs=1)], tmp_path, (1,))
    assert record["results"]["closed"]["auc"] > 0
    alike = in_other_words(data, [{"framed": "well.known", "plain": "well known"}.get(w, w) for w in data.attributes])
    with pytest.raises(ValueError, match=r"attributes 'well known', 'well.known' of compositions read alike"):
        draw_pairs(alike, ALL, 1)


def in_other_words(data, attributes):
    names = dict(zip(data.attributes, attributes, strict=True))
    splits = {part: getattr(data, part).cast_column("attribute", ClassLabel(names=attributes)) for part in PARTS}
    pairs = {f"{part}_pairs": [(names[a], o) for a, o in getattr(data, f"{part}_pairs")] for part in PARTS}
    return replace(data, attributes=attributes, **splits, **pairs)


PARTS = ("train", "val", "test")


@pytest.mark.parametrize(
    "method", [LinearProbe(), TextBias(), PromptLearning("coop", {"class_specific_context": True})], ids=str
)
def test_methods_without_unseen_pairs_are_refused(clip, data, tmp_path, method):
    with pytest.raises(ValueError, match=f"{method.name} cannot recognise pairs that it was not trained on"):
        composition(clip, data, [method], tmp_path)


def test_other_protocols_refuse_pairs():
    with pytest.raises(ValueError, match="CSP takes no part in 'few-shot'"):
        csp().for_protocol("few-shot")
    of_images = [method for key, method in METHODS.items() if task_of(key) == "IMAGE_CLS"]
    assert len(of_images) > 8
    assert all("composition" in method.protocols for method in of_images)


def test_what_contradicts_itself_is_refused(clip, data, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(8, 4)), np.random.default_rng(1).normal(size=(10, 4))

    def do(own=data, **given):
        composition(clip, own, [ZeroShot()], tmp_path, **given)

    with pytest.raises(ValueError, match=r"`worlds` must be of \('closed', 'open'\), got \['flat'\]"):
        do(worlds=("flat",))
    with pytest.raises(ValueError, match=r"A threshold of 0\.4 is of the feasibility of pairs: give word vectors"):
        do(worlds=("open",), threshold=0.4)
    with pytest.raises(ValueError, match=r"Word vectors are for the open world, got \['closed'\]"):
        do(word_vectors=vectors)
    with pytest.raises(ValueError, match="no validation images to choose the threshold by: give a threshold"):
        do(replace(data, val=data.val.select([])), worlds=("open",), word_vectors=vectors)
    with pytest.raises(ValueError, match="tests on no pair that training has not"):
        do(replace(data, test_pairs=data.train_pairs))
    with pytest.raises(ValueError, match=r"must hold '{attribute} {object}', got 'a {object} that is {attribute}'"):
        do(replace(data, template="a {object} that is {attribute}"))


def test_other_settings_of_measuring_are_not_mixed(clip, data, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(8, 4)), np.random.default_rng(1).normal(size=(10, 4))
    (record,) = composition(clip, data, [ZeroShot()], tmp_path, worlds=("open",), word_vectors=vectors, threshold=0.95)
    assert list(record["results"]) == ["open", CALIBRATED]
    assert record["results"][CALIBRATED]["feasibility_threshold"] == 0.95
    assert record["results"][CALIBRATED]["curve"] != record["results"]["open"]["curve"]
    with pytest.raises(ValueError, match=r"settings to test on, in 'open, calibrated'"):
        composition(clip, data, [ZeroShot()], tmp_path, worlds=("open",), word_vectors=vectors, threshold=0.2)
    with pytest.raises(ValueError, match=r"settings to test on, in 'open'"):
        composition(clip, data, [ZeroShot()], tmp_path, worlds=("open",), reference_quirks=True)
    (run,) = load_runs(tmp_path)
    assert run.results == record["results"]
