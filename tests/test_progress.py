"""One bar over everything that is under way."""

import pytest
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from peft_coop.progress import part_of_step, show_progress, stage, without_datasets_bars


@pytest.fixture(autouse=True)
def shown():
    """Also after a test whose command was to be quiet."""
    show_progress(True)
    yield
    show_progress(True)


def share(outermost):
    return outermost._bar.n


def test_a_stage_fills_the_step_that_it_is_in(capsys):
    with stage("few-shot on digits", 4, "run") as runs:
        runs.doing("CoOp, 1 shot")
        assert share(runs) == 0
        with stage("image features", 10, "image", counts=False) as features:
            features.update(10)
            assert share(runs) == 0
        with stage("training", 10) as training:
            training.update(5)
            assert share(runs) == pytest.approx(1 / 8)
            training.update(5)
        with stage("image features", 10, "image", counts=False) as features:
            features.update(10)
            assert share(runs) == pytest.approx(1 / 4)
        runs.update()
        assert share(runs) == pytest.approx(1 / 4)
    printed = capsys.readouterr().err
    assert "few-shot on digits:   0%" in printed
    assert "run 1/4: CoOp, 1 shot, image features image 10/10" in printed
    assert "run 1/4: CoOp, 1 shot, training step 10/10" in printed
    assert printed.count("\n") == 1


def test_stages_that_follow_each_other_fill_their_parts_of_a_step():
    with stage("runs", 2) as runs:
        with part_of_step(0, 0.5), stage("training", 10) as training:
            training.update(10)
            assert share(runs) == pytest.approx(1 / 4)
        with part_of_step(0.5, 1, all_count=True):
            with part_of_step(0, 0.4), stage("image features", 2, counts=False) as features:
                features.update()
                assert share(runs) == pytest.approx((0.5 + 0.1) / 2)
            with part_of_step(0.4, 1), stage("classifying", 3) as classifying:
                classifying.update(1)
                assert share(runs) == pytest.approx((0.5 + 0.2 + 0.1) / 2)
                classifying.update(2)
                assert share(runs) == pytest.approx(1 / 2)
        with stage("image features", 2, counts=False) as features:
            features.update()
        runs.update()
        with stage("training", 2) as training:  # the next step is whole again
            training.update()
            assert share(runs) == pytest.approx(3 / 4)
    with part_of_step(0, 0.5), stage("alone", 2) as alone:
        alone.update()
        assert share(alone) == 0.5


def test_an_error_leaves_no_stage_open(capsys):
    def fail():
        with stage("runs", 2), stage("training", 2) as training:
            training.update()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    with stage("alone", 2) as alone:
        alone.update()
        assert share(alone) == 0.5
    assert "alone:  50%" in capsys.readouterr().err


def test_what_had_been_done_before_does_not_count_as_pace():
    with stage("runs", 4) as runs:
        runs.skip(2)
        assert share(runs) == 0.5
        assert runs._bar.initial == 0.5
        with stage("training", 10) as training:
            training.skip(4)
            assert runs._bar.initial == pytest.approx(0.6)


@pytest.mark.parametrize("nothing", ["quiet", "short", "no step"])
def test_no_bar_where_there_is_nothing_to_show(capsys, nothing):
    show_progress(nothing != "quiet")
    with stage("runs", 1, shown=nothing != "short") as runs:
        if nothing != "no step":
            runs.update()
        runs.write("a result")
    captured = capsys.readouterr()
    assert captured.out == "a result\n"
    assert captured.err == ""


def test_nothing_to_do_is_all_done():
    with stage("runs", 0) as runs:
        runs.update(0)
        assert share(runs) == 1


@pytest.mark.parametrize("disabled", [False, True])
def test_the_bars_of_datasets_come_back(disabled):
    (disable_progress_bars if disabled else enable_progress_bars)()
    try:
        with without_datasets_bars():
            assert are_progress_bars_disabled()
        assert are_progress_bars_disabled() is disabled
    finally:
        enable_progress_bars()
