"""Single runs on disk: done once, gone on with, never mixed up."""

import json
from dataclasses import replace

import pytest

from peft_coop.evaluation.compared_methods import Classifier, columns_of
from peft_coop.evaluation.folder_locks import BusyError, locked
from peft_coop.evaluation.reports import load_runs
from peft_coop.evaluation.run_folders import RunKey, check_company, run_once

SETTINGS = {"num_shots": 4, "n_ctx": 16}
KEY = RunKey(
    *("few-shot", "pets", "openai/clip", "coop", "CoOp", SETTINGS, 1, ["test"], "0123"),
    tests={"test": "t1"},
    pool="p1",
    weights="w1",
)
RESULTS = {"test": {"accuracy": 0.5, "macro_accuracy": 0.5, "ece": 0.1, "num_examples": 8}}


class Nothing(Classifier):
    def logits(self, images, class_names):
        raise NotImplementedError

    def save(self, folder):
        folder.mkdir()
        (folder / "weights").write_text("learned")


def fit(folder):
    folder.mkdir()
    (folder / "half-way").write_text("")
    return Nothing()


def refuse(folder):
    raise AssertionError("it was done before")


def test_a_finished_run_is_not_done_again(tmp_path):
    first = run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    folder = KEY.folder(tmp_path)
    assert {file.name for file in folder.iterdir()} == {"result.json", "adapter", ".lock"}
    again = run_once(KEY, tmp_path, refuse, refuse)
    assert again == first
    assert again["results"] == RESULTS
    assert again["folder"] == str(folder)
    on_disk = json.loads((folder / "result.json").read_text())
    assert on_disk["seed"] == 1
    assert on_disk["settings"] == KEY.settings
    assert set(on_disk["versions"]) == {"torch", "transformers", "peft"}


def test_a_killed_run_finds_its_checkpoints(tmp_path):
    def killed(folder):
        fit(folder)
        raise KeyboardInterrupt("killed")

    with pytest.raises(KeyboardInterrupt, match="killed"):
        run_once(KEY, tmp_path, killed, refuse)

    def go_on(folder):
        assert (folder / "half-way").exists()
        return Nothing()

    assert run_once(KEY, tmp_path, go_on, lambda _: RESULTS)["results"] == RESULTS


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"data": "cars"},
        {"model": "openai/other"},
        {"settings": {"num_shots": 8, "n_ctx": 16}},
        {"data": "猫"},
    ],
)
def test_every_setting_has_a_folder_of_its_own(tmp_path, changed):
    assert replace(KEY, **changed).folder(tmp_path) != KEY.folder(tmp_path)


def test_another_runs_result_is_not_taken(tmp_path):
    run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    with pytest.raises(ValueError, match=r"its splits is \['test'\], asked for is \['base', 'new'\]"):
        run_once(replace(KEY, splits=["base", "new"]), tmp_path, refuse, refuse)


def test_checkpoints_of_another_run_are_not_taken(tmp_path):
    def killed(folder):
        fit(folder)
        raise KeyboardInterrupt("killed")

    with pytest.raises(KeyboardInterrupt, match="killed"):
        run_once(KEY, tmp_path, killed, refuse)
    with pytest.raises(ValueError, match=r"run.json is of another run: its images is '0123', asked for is '4567'"):
        run_once(replace(KEY, images="4567"), tmp_path, refuse, refuse)


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"weights": "w2"}, "another model of this name"),
        ({"tests": {"test": "t2"}}, "other images, classes, zero-shot prompt or settings to test on"),
        ({"pool": "p2"}, "other images or classes to draw from"),
        ({"images": "4567"}, "other images or classes to learn from"),
    ],
)
def test_a_result_holds_what_it_depends_on(tmp_path, changed, reason):
    run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    with pytest.raises(ValueError, match=rf"result.json is of another run: its {next(iter(changed))} is .*{reason}"):
        run_once(replace(KEY, **changed), tmp_path, refuse, refuse)


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"weights": "w2"}, "another model of this name"),
        ({"tests": {"test": "t2"}}, "other images, classes, zero-shot prompt or settings to test on, in 'test'"),
        ({"pool": "p2"}, "other images or classes to draw from"),
    ],
)
def test_a_further_seed_of_changed_data_is_not_averaged_with_the_others(tmp_path, changed, reason):
    run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    other = replace(KEY, seed=3, images="of seed 3")
    check_company([other], tmp_path)
    changed = replace(other, **changed)
    with pytest.raises(ValueError, match=rf"seed1.result.json was done with {reason}"):
        check_company([changed], tmp_path)
    run_once(changed, tmp_path, fit, lambda _: RESULTS)
    with pytest.raises(ValueError, match=rf"seed1.result.json and .*seed3.result.json cannot stand .*{reason}"):
        load_runs(tmp_path)


def test_results_of_older_versions_are_not_mixed_with_new_ones(tmp_path):
    run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    path = KEY.folder(tmp_path) / "result.json"
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("weights", "tests")}
    path.write_text(json.dumps(old))
    assert len(load_runs(tmp_path)) == 1
    with pytest.raises(ValueError, match=r"was done with an older version, which did not write down its images"):
        check_company([replace(KEY, seed=2)], tmp_path)


def test_other_splits_of_the_same_images_are_comparable(tmp_path):
    """A method without new classes is measured on the base classes only."""
    both = replace(KEY, protocol="base-to-new", splits=["base", "new"], tests={"base": "b", "new": "n"})
    run_once(both, tmp_path, fit, lambda _: {"base": RESULTS["test"], "new": RESULTS["test"]})
    check_company([replace(both, method="linear-probe", splits=["base"], tests={"base": "b"})], tmp_path)
    with pytest.raises(ValueError, match="other images, classes, zero-shot prompt or settings to test on, in 'base'"):
        check_company([replace(both, method="linear-probe", splits=["base"], tests={"base": "c"})], tmp_path)


def killed_behind_its_training(folder):
    fit(folder)
    raise KeyboardInterrupt("killed")


def test_a_training_goes_on_when_other_images_are_tested_on(tmp_path):
    """As with --skip-corrupt, after a test image could not be read."""
    with pytest.raises(KeyboardInterrupt, match="killed"):
        run_once(KEY, tmp_path, killed_behind_its_training, refuse)

    def go_on(folder):
        assert (folder / "half-way").exists()
        return Nothing()

    record = run_once(replace(KEY, tests={"test": "t2"}, pool="p2"), tmp_path, go_on, lambda _: RESULTS)
    assert record["tests"] == {"test": "t2"}


def test_a_run_that_failed_before_it_learned_anything_may_change(tmp_path):
    def fail(folder):
        raise ValueError("an image cannot be read")

    with pytest.raises(ValueError, match="an image cannot be read"):
        run_once(KEY, tmp_path, fail, refuse)
    assert run_once(replace(KEY, images="4567"), tmp_path, fit, lambda _: RESULTS)["images"] == "4567"


def test_checkpoints_of_nobody_are_left_alone(tmp_path):
    place = KEY.folder(tmp_path) / "checkpoints"
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("of the user")
    with pytest.raises(ValueError, match=r"checkpoints holds files, and no run.json beside it"):
        run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    assert (place / "mine.txt").read_text() == "of the user"


def test_a_run_that_another_process_does_is_busy(tmp_path):
    with locked(KEY.folder(tmp_path)), pytest.raises(BusyError, match=r"Another process works in .*seed1"):
        run_once(KEY, tmp_path, refuse, refuse)
    run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    with locked(KEY.folder(tmp_path)):  # what is finished can be read
        assert run_once(KEY, tmp_path, refuse, refuse)["results"] == RESULTS


def test_a_damaged_result_does_not_keep_the_others_back(tmp_path):
    for seed in (1, 2):
        run_once(replace(KEY, seed=seed), tmp_path, fit, lambda _: RESULTS)
    broken = KEY.folder(tmp_path) / "result.json"
    broken.write_text(broken.read_text()[:50])
    left_out = []
    assert [run.seed for run in load_runs(tmp_path, left_out)] == [2]
    assert len(left_out) == 1
    assert str(broken) in left_out[0]
    with pytest.warns(UserWarning, match=r"Left out: .*seed1.result\.json is no JSON"):
        load_runs(tmp_path)
    check_company([KEY], tmp_path)


def test_names_in_other_scripts_have_folders_of_their_own(tmp_path):
    folders = {replace(KEY, data=name).folder(tmp_path) for name in ("日", "本", "pets")}
    assert len(folders) == 3
    assert all(str(folder).isascii() for folder in folders)


@pytest.mark.parametrize("text", ["[]", "3"])
def test_a_result_of_another_kind_is_named(tmp_path, text):
    run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    (KEY.folder(tmp_path) / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result.json is no result"):
        run_once(KEY, tmp_path, refuse, refuse)


def test_a_broken_result_is_named(tmp_path):
    run_once(KEY, tmp_path, fit, lambda _: RESULTS)
    (KEY.folder(tmp_path) / "result.json").write_text('{"seed": 1')
    with pytest.raises(ValueError, match=r"result.json is no JSON .*remove it to do this run again"):
        run_once(KEY, tmp_path, refuse, refuse)


def test_columns_of_learned_classes():
    learned = ["missile", "cat", "missile"]
    assert columns_of(learned, learned, "This") == [0, 1, 2]
    assert columns_of(["cat", "missile"], learned, "This") == [1, 0]
    with pytest.raises(ValueError, match="This is for the classes that it was learned from; 'dog' is none"):
        columns_of(["cat", "dog"], learned, "This")
