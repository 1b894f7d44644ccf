"""Single runs on disk: done once, gone on with, never mixed up."""

import json
from dataclasses import replace

import pytest

from peft_coop.evaluation.methods import Classifier, columns_of
from peft_coop.evaluation.runs import RunKey, run_once

KEY = RunKey("few-shot", "pets", "openai/clip", "coop", "CoOp", {"num_shots": 4, "n_ctx": 16}, 1, ["test"], "0123")
RESULTS = {"test": {"accuracy": 0.5}}


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
    assert {file.name for file in folder.iterdir()} == {"result.json", "adapter"}
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
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # noqa: PT011  it has no message
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
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # noqa: PT011  it has no message
        run_once(KEY, tmp_path, killed, refuse)
    with pytest.raises(ValueError, match=r"run.json is of another run: its images is '0123', asked for is '4567'"):
        run_once(replace(KEY, images="4567"), tmp_path, refuse, refuse)


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
