"""The protocols on the demo's CLIP and a few images of its tasks, with trainings that are cut short."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel

from peft_coop.data import few_shot_indices, load_data, select_classes
from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation import (
    FrozenCLIP,
    PromptEnsemble,
    PromptLearning,
    ZeroShot,
    ablation,
    base_to_new,
    cross_dataset,
    domain_generalisation,
    draw_images,
    few_shot,
)
from peft_coop.evaluation.compared_methods import Classifier, ComparedMethod
from peft_coop.evaluation.folder_locks import locked
from peft_coop.methods import METHODS

SHORT = {"num_epochs": 2, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def clip():
    return FrozenCLIP(load_clip(), load_processor(), "demo")


@pytest.fixture(scope="module")
def digits():
    """A part of the scanned digits."""
    data = load_data("demo:digits")
    return cut(data, train=200, test=60)


def cut(data, train, test, **changes):
    train, test = data.train.shuffle(seed=0).select(range(train)), data.test.shuffle(seed=0).select(range(test))
    return replace(data, train=train, test=test, **changes)


def coop(**context):
    return PromptLearning("coop", {"n_ctx": 2, **context}, SHORT)


@pytest.mark.filterwarnings("ignore:This text tower has 2 layers", "ignore:The paper.s `prompt_depth")
@pytest.mark.parametrize("key", [key for key, method in METHODS.items() if "cross-dataset" in method.protocols])
def test_each_method_is_carried_over_from_a_model_of_two_layers(clip, digits, tmp_path, key):
    shapes = cut(load_data("demo:shapes"), train=20, test=20)
    method = PromptLearning(key, recipe={"num_epochs": 1})
    of_protocol = {"num_shots": 1, "seeds": (1,)}
    transferred, *_ = cross_dataset(clip, digits, [shapes], [method], tmp_path, **of_protocol)
    other_images = replace(digits, name="others")
    moved, *_ = domain_generalisation(clip, digits, [other_images], [method], tmp_path, **of_protocol)
    assert transferred["results"]["shapes"]["num_examples"] == 20
    assert moved["results"]["others"]["num_examples"] == 60
    grid = method.grid([2], ["a photo"], ["end", "front"])
    own = {name for each in grid for name in each.fields}
    assert own == {"n_ctx", "ctx_init", "class_token_position", "class_specific_context"} & own_names(method)
    assert len(grid) == {True: 4, False: 2 if "n_ctx" in own else 1}["class_token_position" in own]


def own_names(method):
    return {each.name for each in fields(METHODS[method.key].config)}


def test_the_papers_depth_ends_where_the_tower_does_and_the_users_is_refused(clip, digits, tmp_path):
    images = draw_images(digits, 1, seed=1)
    method = PromptLearning("promptsrc", recipe={"num_epochs": 1})
    with pytest.warns(UserWarning, match="paper's `prompt_depth` is 3 here, and this text tower has 2 layers"):
        classifier = method.for_protocol("cross-dataset").fit(clip, images, 1, tmp_path / "papers")
    config = classifier.model.active_peft_config
    assert config.prompt_depth == 2
    assert config.prompt_depth_vision == min(3, clip.model.config.vision_config.num_hidden_layers)
    asked = PromptLearning("promptsrc", {"prompt_depth": 3}).for_protocol("cross-dataset")
    with pytest.raises(ValueError, match="`prompt_depth=3` is more than this text tower has layers"):
        asked.fit(clip, images, 1, tmp_path / "asked")


class Spy(ComparedMethod):
    """Remembers what it is given and answers with the first class."""

    key, name = "spy", "Spy"

    def __init__(self):
        self.given = []

    def settings(self):
        return {}

    def fit(self, clip, images, seed, folder):
        self.given.append((images, seed))

        class First(Classifier):
            def logits(self, images, class_names):
                return np.eye(len(class_names), dtype=np.float32)[[0] * len(images)]

        return First()


def test_few_shot_draws_the_originals_images_for_every_seed(clip, digits, tmp_path):
    spy = Spy()
    records = few_shot(clip, digits, [spy], tmp_path, shots=(1, 2), seeds=(1, 2))
    assert [(record["settings"]["num_shots"], record["seed"]) for record in records] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for (images, seed), shots in zip(spy.given, (1, 1, 2, 2), strict=True):
        drawn, _ = few_shot_indices(digits.train["label"], [], shots, seed)
        assert images.train["label"] == [digits.train[index]["label"] for index in drawn]
    assert records[0]["results"]["test"]["accuracy"] == np.mean(np.array(digits.test["label"]) == 0)
    assert records[0]["results"]["test"]["num_examples"] == 60


def test_what_learns_nothing_runs_once(clip, digits, tmp_path):
    records = few_shot(clip, digits, [ZeroShot()], tmp_path, shots=(1, 2), seeds=(1, 2))
    assert [(record["settings"]["num_shots"], record["seed"]) for record in records] == [(0, 0)]
    assert 0.3 < records[0]["results"]["test"]["accuracy"] < 0.9


def test_finished_runs_are_read(clip, digits, tmp_path):
    first = few_shot(clip, digits, [coop()], tmp_path, shots=(1,), seeds=(1,))
    again = few_shot(clip, digits, [coop()], tmp_path, shots=(1,), seeds=(1, 2))
    assert again[0] == first[0]
    assert again[1]["seed"] == 2


def test_base_to_new_learns_from_base_classes_only(clip, digits, tmp_path):
    """Drawn from all classes and then selected, as in the original."""
    spy = Spy()
    record, *_ = base_to_new(clip, digits, [spy], tmp_path, num_shots=2, seeds=(3,))
    images, _ = spy.given[0]
    drawn, _ = few_shot_indices(digits.train["label"], [], 2, 3)
    assert images.class_names == ["zero", "one", "two", "three", "four"]
    assert images.train["label"] == [label for index in drawn if (label := digits.train[index]["label"]) < 5]
    labels = np.array(digits.test["label"])
    assert record["results"]["base"]["accuracy"] == (labels[labels < 5] == 0).mean()
    assert record["results"]["new"]["accuracy"] == (labels[labels >= 5] == 5).mean()


def test_methods_without_new_classes_have_base_only(clip, digits, tmp_path):
    spy = Spy()
    spy.takes_new_classes = False
    record, *_ = base_to_new(clip, digits, [spy], tmp_path, num_shots=1, seeds=(1,))
    assert set(record["results"]) == {"base"}


def test_class_specific_contexts_have_no_base_to_new(clip, digits, tmp_path):
    with pytest.raises(ValueError, match="class-specific context has no vectors for new classes"):
        base_to_new(clip, digits, [coop(class_specific_context=True)], tmp_path)
    with pytest.raises(ValueError, match="CoOp cannot classify into the classes of another dataset"):
        cross_dataset(clip, digits, [], [coop(class_specific_context=True)], tmp_path)


def test_cross_dataset(clip, digits, tmp_path):
    shapes = cut(load_data("demo:shapes"), train=40, test=40)
    record, *_ = cross_dataset(clip, digits, [shapes], [coop()], tmp_path, num_shots=1, seeds=(1,))
    assert list(record["results"]) == ["digits", "shapes"]
    assert record["results"]["shapes"]["accuracy"] > 0.3  # of 20 classes that were not learned from
    with pytest.raises(ValueError, match=r"a name of its own, got \['digits', 'digits'\]"):
        cross_dataset(clip, digits, [digits], [coop()], tmp_path)


def test_zero_shot_on_a_target_is_zero_shot_on_it_alone(clip, digits, tmp_path):
    """Every dataset has its own template: the source's is another prompt."""
    shapes = cut(load_data("demo:shapes"), train=40, test=40)
    methods = [ZeroShot(), PromptEnsemble()]
    assert shapes.zero_shot_template != digits.zero_shot_template
    targets = cross_dataset(clip, shapes, [digits], methods, tmp_path / "transfer")
    alone = few_shot(clip, digits, methods, tmp_path / "alone")
    for as_target, by_itself in zip(targets, alone, strict=True):
        assert as_target["results"]["digits"] == by_itself["results"]["test"]
    with_the_sources = replace(digits, zero_shot_template=shapes.zero_shot_template)
    (other,) = few_shot(clip, with_the_sources, methods[:1], tmp_path / "other")
    assert other["results"]["test"] != alone[0]["results"]["test"]


def test_a_run_with_another_template_of_a_target_is_another_run(clip, digits, tmp_path):
    shapes = cut(load_data("demo:shapes"), train=40, test=40)
    cross_dataset(clip, digits, [shapes], [ZeroShot()], tmp_path)
    other = replace(shapes, zero_shot_template="a drawing of a {}.")
    with pytest.raises(
        ValueError, match=r"result.json was done with other images, classes, zero-shot prompt or settings to test on"
    ):
        cross_dataset(clip, digits, [other], [ZeroShot()], tmp_path)


@pytest.mark.parametrize(
    ("protocol", "start"),
    [
        (few_shot, (16, None)),
        (ablation, (16, None)),
        (base_to_new, (None, "a photo of a")),
        (cross_dataset, (None, "a photo of a")),
        (domain_generalisation, (None, "a photo of a")),
    ],
)
def test_a_prompt_starts_as_the_papers_for_the_protocol(clip, digits, tmp_path, protocol, start):
    """Unless its context says otherwise."""
    seen = []

    class Watched(PromptLearning):
        def fit(self, clip, images, seed, folder):
            seen.append(self.make_config())
            return Spy().fit(clip, images, seed, folder)

    methods = [Watched("coop", context) for context in ({}, {"class_token_position": "middle"}, {"n_ctx": 2})]
    first = [clip] if protocol is ablation else clip
    others = ([],) if protocol in (cross_dataset, domain_generalisation) else ()
    shots = {"shots": (1,)} if protocol in (few_shot, ablation) else {"num_shots": 1}
    records = protocol(first, digits, *others, methods, tmp_path, **shots, seeds=(1,))
    found = [(record["settings"]["n_ctx"], record["settings"]["ctx_init"]) for record in records]
    assert found == [start, start, (2, None)]
    assert [(config.n_ctx, config.ctx_init) for config in seen] == found
    assert [config.class_token_position for config in seen] == ["end", "middle", "end"]


def test_domain_generalisation_with_a_part_of_the_classes(clip, digits, tmp_path):
    """A class-specific context answers for classes it knows, in whatever order."""
    kept = [index for index, label in enumerate(digits.test["label"]) if label in (7, 2)]
    test = digits.test.select(kept)
    labels = [0 if label == 7 else 1 for label in test["label"]]
    test = test.remove_columns("label").add_column("label", labels, feature=ClassLabel(names=["seven", "two"]))
    target = cut(digits, 0, 60, name="two-digits", class_names=["seven", "two"])
    target = replace(target, test=test)
    methods = [coop(), coop(class_specific_context=True)]
    records = domain_generalisation(clip, digits, [target], methods, tmp_path, num_shots=4, seeds=(1,))
    for record in records:
        assert record["results"]["two-digits"]["num_examples"] == len(kept)
        assert record["results"]["two-digits"]["accuracy"] > 0.5
    foreign = cut(digits, 0, 60, name="cats", class_names=["cat"])
    with pytest.raises(ValueError, match="cats has 'cat', which digits has not"):
        domain_generalisation(clip, digits, [foreign], methods, tmp_path)


def test_ablation_runs_every_combination(clip, digits, tmp_path):
    grid = coop().grid(n_ctx=[1, 2], ctx_init=["a photo"], class_token_position=["end", "middle"])
    assert len(grid) == 6
    records = ablation([clip], digits, grid[:3], tmp_path, shots=(1,), seeds=(1,))
    assert [record["settings"]["n_ctx"] for record in records] == [1, 2, None]
    assert records[2]["settings"]["ctx_init"] == "a photo"
    assert {record["protocol"] for record in records} == {"ablation"}


def test_no_training_images(clip, digits, tmp_path):
    with pytest.raises(ValueError, match="digits has no training images, only 60 to test on"):
        few_shot(clip, cut(digits, 0, 60), [coop()], tmp_path)


@pytest.mark.parametrize("key", ["coop", "cocoop"])
def test_a_killed_training_goes_on_to_the_same_prompt(clip, digits, tmp_path, optimizer_steps, key):
    method = PromptLearning(key, {"n_ctx": 2, "ctx_init": None}, {**SHORT, "num_epochs": 6, "batch_size": 8})
    images = draw_images(digits, 2, seed=1)
    whole = method.fit(clip, images, 1, tmp_path / "whole").logits(digits.test, digits.class_names)
    optimizer_steps.taken, optimizer_steps.interrupted = 0, 8
    with pytest.raises(KeyboardInterrupt, match="in a step"):
        method.fit(clip, images, 1, tmp_path / "killed")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["checkpoint-6"]
    (tmp_path / "killed" / "checkpoint-8").mkdir()  # killed while it was written
    optimizer_steps.taken = 0
    resumed = method.fit(clip, images, 1, tmp_path / "killed").logits(digits.test, digits.class_names)
    assert optimizer_steps.taken == 12 - 6
    np.testing.assert_allclose(resumed, whole, atol=1e-5)
    again = method.fit(clip, images, 1, tmp_path / "killed").logits(digits.test, digits.class_names)
    assert optimizer_steps.taken == 12 - 6  # a training that was killed behind its last step is not done again
    np.testing.assert_allclose(again, whole, atol=1e-5)


def test_augmented_training_sees_pixels(clip, digits, tmp_path):
    method = PromptLearning("coop", {"n_ctx": 2}, SHORT, augment=True, flip=False)
    fixed = coop().fit(clip, draw_images(digits, 2, seed=1), 1, tmp_path / "fixed")
    crops = method.fit(clip, draw_images(digits, 2, seed=1), 1, tmp_path / "crops")
    logits = [one.logits(digits.test, digits.class_names) for one in (fixed, crops)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    assert method.settings()["augment"] is True
    assert json.dumps(method.settings())


@pytest.mark.parametrize("key", ["coop", "cocoop"])
def test_views_for_every_epoch_learn_what_pixels_do(clip, digits, tmp_path, key):
    images = draw_images(digits, 2, seed=1)
    ways = {"fixed": {}, "pixels": {"augment": True}, "views": {"views": 2, "num_workers": 1}, "view": {"views": 1}}
    logits = {}
    for name, way in ways.items():
        method = PromptLearning(key, {"n_ctx": 2, "ctx_init": None}, {**SHORT, "batch_size": 8}, **way, flip=False)
        logits[name] = method.fit(clip, images, 1, tmp_path / name).logits(digits.test, digits.class_names)
    np.testing.assert_allclose(logits["views"], logits["pixels"], atol=1e-4)
    for other in ("fixed", "view"):
        assert np.abs(logits[other] - logits["pixels"]).max() > 1e-2


def test_a_killed_training_on_views_goes_on_to_the_same_prompt(clip, digits, tmp_path, optimizer_steps):
    """Killed in the seventh of eight epochs, where views have come again in another order."""
    method = PromptLearning("coop", {"n_ctx": 2}, {**SHORT, "num_epochs": 8, "batch_size": 8}, views=3, flip=False)
    images = draw_images(digits, 2, seed=1)
    whole = method.fit(clip, images, 1, tmp_path / "whole").logits(digits.test, digits.class_names)
    optimizer_steps.taken, optimizer_steps.interrupted = 0, 14
    with pytest.raises(KeyboardInterrupt, match="in a step"):
        method.fit(clip, images, 1, tmp_path / "killed")
    resumed = method.fit(clip, images, 1, tmp_path / "killed").logits(digits.test, digits.class_names)
    np.testing.assert_allclose(resumed, whole, atol=1e-5)


def test_views_are_another_setting():
    ways = [{}, {"augment": True}, {"views": 1}, {"views": 4}, {"views": 4, "flip": False}]
    settings = [PromptLearning("coop", **way).settings() for way in ways]
    assert len({json.dumps(each) for each in settings}) == len(ways)
    assert settings[3].items() >= {"views": 4, "flip": True}.items()
    assert "views" not in settings[0]
    workers = PromptLearning("coop", views=4, num_workers=3)
    assert workers.settings() == settings[3]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"views": 4, "augment": True}, r"give one of them, got views=4 and augment=True"),
        ({"views": 0}, r"`views` must be 1 or more, or None for images as they are, got 0"),
    ],
)
def test_views_that_contradict_are_refused(way, message):
    with pytest.raises(ValueError, match=message):
        PromptLearning("coop", **way)


def test_what_changes_the_vision_tower_has_no_views(monkeypatch):
    monkeypatch.setattr(METHODS["coop"].config, "changes_vision", True)
    assert PromptLearning("coop", augment=True).changes_vision
    with pytest.raises(ValueError, match=r"CoOp changes the vision tower, .* use `augment` in place of views=4"):
        PromptLearning("coop", views=4)


def test_images_of_another_dataset_with_this_name_are_not_taken_for_these(clip, digits, tmp_path):
    few_shot(clip, digits, [ZeroShot()], tmp_path)
    few_shot(clip, digits, [ZeroShot()], tmp_path)
    other = replace(digits, test=digits.test.select(range(30)))
    with pytest.raises(
        ValueError,
        match=r"done with other images, classes, zero-shot prompt or settings to test on, in 'test'",
    ):
        few_shot(clip, other, [ZeroShot()], tmp_path)


def test_a_further_seed_after_a_class_is_gone_is_refused(clip, digits, tmp_path):
    few_shot(clip, digits, [coop()], tmp_path, shots=(1,), seeds=(1,))
    fewer = replace(
        digits,
        class_names=digits.class_names[:9],
        train=select_classes(digits.train, 0, 9),
        test=select_classes(digits.test, 0, 9),
    )
    with pytest.raises(ValueError, match=r"seed1.result.json was done with other images or classes"):
        few_shot(clip, fewer, [coop()], tmp_path, shots=(1,), seeds=(2,))
    assert len(list(tmp_path.rglob("result.json"))) == 1


def test_another_model_of_the_same_name_is_told(clip, digits, tmp_path):
    few_shot(clip, digits, [ZeroShot()], tmp_path)
    other = FrozenCLIP(load_clip(), load_processor(), "demo")
    with torch.no_grad():
        other.model.logit_scale.add_(0.1)
    with pytest.raises(ValueError, match=r"result.json was done with another model of this name"):
        few_shot(other, digits, [ZeroShot()], tmp_path)


def test_the_same_images_elsewhere_are_the_same_run(clip, digits, tmp_path):
    """Read from files in two places."""
    records = []
    for place in ("one", "two"):
        for split, images in (("train", digits.train), ("test", digits.test)):
            for index, row in enumerate(images.select(range(20))):
                file = tmp_path / place / "digits" / split / f"{row['label']}" / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                row["image"].save(file)
        train = {path.name for path in (tmp_path / place / "digits" / "train").iterdir()}
        for folder in (tmp_path / place / "digits" / "test").iterdir():
            if folder.name not in train:
                shutil.rmtree(folder)
        data = load_data(f"folder:{tmp_path / place / 'digits'}")
        records.append(few_shot(clip, data, [ZeroShot()], tmp_path / "runs"))
    assert records[0] == records[1]


class Turns(Spy):
    """Lets another process's run end while it learns."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def fit(self, clip, images, seed, folder):
        if seed == 2:
            self.other.close()
        return super().fit(clip, images, seed, folder)


def test_runs_that_another_process_does_are_waited_for_at_the_end(clip, digits, tmp_path):
    first = few_shot(clip, digits, [Spy()], tmp_path / "first", shots=(1,), seeds=(1,))[0]
    busy = tmp_path / "runs" / Path(first["folder"]).relative_to(tmp_path / "first")
    with ExitStack() as other:
        other.enter_context(locked(busy))
        method = Turns(other)
        records = few_shot(clip, digits, [method], tmp_path / "runs", shots=(1,), seeds=(1, 2))
    assert [seed for _, seed in method.given] == [2, 1]
    assert [record["seed"] for record in records] == [1, 2]


def test_mirrored_images_are_another_setting():
    settings = [PromptLearning("coop", {}, {}, augment=True, flip=flip).settings() for flip in (True, False)]
    assert settings[0] != settings[1]
    assert "flip" not in PromptLearning().settings()


def test_wrong_methods_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"`method` must be one of \('coop', 'cocoop', .*\), got 'mable'"):
        PromptLearning("mable")
    with pytest.raises(ValueError, match="`class_token_position` must be one of"):
        coop(class_token_position="start")
    with pytest.raises(ValueError, match="`learning_rate` must be above 0 and finite, got -1"):
        PromptLearning("coop", {}, {"learning_rate": -1})
