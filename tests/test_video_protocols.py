"""The protocols with videos: clips averaged, what is compared, what is read again and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from peft_coop.data import clips_to_test, load_data
from peft_coop.data.videos import VideoRows
from peft_coop.demo import load_clip, load_processor, motion_videos
from peft_coop.evaluation import (
    FrozenCLIP,
    LinearProbe,
    PromptLearning,
    TipAdapter,
    ZeroShot,
    base_to_new,
    cross_dataset,
    draw_images,
    draw_trial,
    few_shot,
    few_shot_trials,
    format_report,
    load_runs,
    write_report,
)
from peft_coop.evaluation.scores import top_accuracy

SMALL = {"n_prefix": 2, "n_suffix": 2, "num_frames": 6}
SHORT = {"num_epochs": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def clip():
    return FrozenCLIP(load_clip(), load_processor(), "demo")


@pytest.fixture(scope="module")
def videos():
    """Four classes, five videos of each."""
    moves = motion_videos.all_moves()[:4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(motion_videos, "VIDEOS_PER_CLASS", {"train": 3, "test": 2})
        patch.setattr(motion_videos, "all_moves", lambda: moves)
        return load_data("demo:motion")


def prompt(**changes):
    return PromptLearning("video_prompt", {**SMALL, **changes}, SHORT)


def test_few_shot_compares_what_reads_videos_and_does_no_run_twice(clip, videos, tmp_path, monkeypatch):
    methods = [ZeroShot(), LinearProbe(), prompt(), prompt(temporal_layers=0)]
    records = few_shot(clip, videos, methods, tmp_path, shots=(2,), seeds=(1, 2))
    of_methods = ["zero-shot", *["linear-probe"] * 2, *["video_prompt"] * 4]
    assert [record["method"] for record in records] == of_methods
    assert {record["protocol"] for record in records} == {"video-few-shot"}
    for record in records:
        assert record["results"]["test"]["num_examples"] == 8
        assert record["results"]["test"]["accuracy"] <= record["results"]["test"]["top5_accuracy"] == 1
    monkeypatch.setattr(PromptLearning, "fit", None)
    again = few_shot(clip, videos, methods, tmp_path, shots=(2,), seeds=(1, 2))
    assert [record["results"] for record in again] == [record["results"] for record in records]
    runs = load_runs(tmp_path)
    text = format_report(runs)
    assert "Few-shot: accuracy in % on motion, model demo" in text
    assert "Columns: training videos per class." in text
    names = {path.name for path in write_report(runs, tmp_path / "report")}
    assert {"video-few-shot.png", "report.md"} <= names


def test_zero_shot_compares_the_mean_frame_at_the_models_own_scale(clip, videos):
    classifier = ZeroShot().fit(clip, draw_images(videos, 0, 0), 0, None)
    logits = classifier.logits(videos.test, videos.class_names)
    tokens = clip.processor.tokenizer(
        [videos.zero_shot_template.format(name) for name in videos.class_names], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        texts = clip.model.get_text_features(**tokens).pooler_output
        rows = clip.frame_features(videos.test)
        means = torch.stack([rows[index].mean(0) for index in range(len(rows))])
        cosines = torch.nn.functional.cosine_similarity(means[:, None], texts[None], dim=-1)
        expected = cosines * clip.model.logit_scale.exp()
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


def test_probabilities_are_averaged_over_clips(clip, videos, tmp_path):
    images = draw_images(videos, 1, 1)
    classifier = replace(prompt(), num_clips=3).fit(clip, images, 1, tmp_path)
    logits = classifier.logits(videos.test, videos.class_names)
    frames = clip.frame_features(videos.test)
    with torch.no_grad():
        each = [
            classifier.model(image_embeds=clips_to_test(frames, 6, number)).logits.double().softmax(-1)
            for number in range(3)
        ]
    np.testing.assert_allclose(np.exp(logits), torch.stack(each).mean(0).numpy(), atol=1e-6)
    assert not torch.allclose(each[0], each[1], atol=1e-4)


def test_a_video_is_read_once_for_all_draws(videos, tmp_path, monkeypatch):
    read = []
    frames = VideoRows.frames
    monkeypatch.setattr(VideoRows, "frames", lambda rows, index: read.append(index) or frames(rows, index))
    monkeypatch.setattr("peft_coop.data.frame_features.cached_file", lambda dataset, fingerprint: None)
    clip = FrozenCLIP(load_clip(), load_processor(), "demo")
    few_shot_trials(clip, videos, [ZeroShot(), prompt(temporal_layers=0)], tmp_path, ways=2, shots=(2,), num_trials=3)
    assert 0 < len(read) <= len(videos.train) + len(videos.test)


def test_new_classes_are_measured_with_the_prompt_of_the_base_classes(clip, videos, tmp_path):
    zero_shot, learned = base_to_new(clip, videos, [ZeroShot(), prompt()], tmp_path, num_shots=2, seeds=(1,))
    for record in (zero_shot, learned):
        assert record["protocol"] == "video-base-to-new"
        assert {split: scores["num_examples"] for split, scores in record["results"].items()} == {"base": 4, "new": 4}
    assert "Base to new: accuracy in % on motion" in format_report(load_runs(tmp_path))


def test_methods_of_images_and_videos_do_not_take_each_others_data(clip, videos, tmp_path):
    shapes = load_data("demo:digits")
    short = {"shots": (1,), "seeds": (1,)}
    with pytest.raises(ValueError, match="CoOp takes no part in 'video-few-shot'"):
        few_shot(clip, videos, [PromptLearning("coop")], tmp_path, **short)
    with pytest.raises(ValueError, match="Tip-Adapter classifies images, and the data are videos"):
        few_shot(clip, videos, [TipAdapter()], tmp_path, **short)
    with pytest.raises(ValueError, match=r"Video prompting takes no part in 'few-shot', .*: it classifies videos"):
        few_shot(clip, shapes, [prompt()], tmp_path, **short)
    with pytest.raises(ValueError, match="'cross-dataset' is a protocol of images, and motion has videos: for these"):
        cross_dataset(clip, shapes, [videos], [ZeroShot()], tmp_path)
    for wrong in ({"augment": True}, {"views": 2}):
        with pytest.raises(
            ValueError, match="Video prompting reads videos, and has another clip of each in every epoch"
        ):
            PromptLearning("video_prompt", **wrong)
    with pytest.raises(ValueError, match="`num_clips` must be 1 or more, got 0"):
        replace(prompt(), num_clips=0)


def test_a_trial_has_some_classes_and_all_their_other_videos_to_test_on(videos):
    pool = videos.test
    seen = set()
    for seed in range(20):
        trial = draw_trial(pool, videos.class_names, ways=2, num_shots=1, seed=seed)
        assert len(set(trial.class_names)) == 2
        assert sorted(trial.train["label"]) == [0, 1] == sorted(trial.test["label"])
        shown = [video["frames"][0] for part in (trial.train, trial.test) for video in part["video"]]
        own = [
            video["frames"][0]
            for video, label in zip(pool["video"], pool["label"], strict=True)
            if videos.class_names[label] in trial.class_names
        ]
        assert sorted(shown) == sorted(own)
        assert trial.train.features["label"].names == trial.class_names
        seen.add((tuple(trial.class_names), shown[0]))
    assert len(seen) > 8
    assert (
        draw_trial(pool, videos.class_names, 2, 1, 5).train["video"]
        == (draw_trial(pool, videos.class_names, 2, 1, 5).train["video"])
    )


def test_trials_are_the_seeds_of_a_table_and_more_can_be_added(clip, videos, tmp_path):
    methods = [ZeroShot(), prompt(temporal_layers=0)]
    for num_trials in (2, 3):
        few_shot_trials(clip, videos, methods, tmp_path, ways=2, shots=(2,), num_trials=num_trials)
    runs = load_runs(tmp_path)
    assert len(runs) == 6
    assert {run.results["test"]["num_examples"] for run in runs} == {6}
    assert all((run.protocol, run.settings["ways"]) == ("video-few-shot-trials", 2) for run in runs)
    rows = [line for line in format_report(runs).splitlines() if line.startswith(("| zero-shot", "| Video"))]
    assert len(rows) == 2
    assert all(row.endswith(("| 3 |", "|     3 |")) for row in rows)


@pytest.mark.parametrize(
    "ways, num_shots, message",
    [
        (5, 1, "needs as many classes with 2 or more; there are 4 of 4"),
        (2, 2, "needs as many classes with 3 or more; there are 0 of 4"),
        (1, 1, "two ways and one shot or more, got 1 and 1"),
    ],
)
def test_trials_that_cannot_be_are_refused(videos, ways, num_shots, message):
    with pytest.raises(ValueError, match=message):
        draw_trial(videos.test, videos.class_names, ways, num_shots, seed=1)


def test_top_accuracy_counts_the_best_ones():
    logits = [[3.0, 2.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]
    assert [top_accuracy(logits, [1, 1, 0], count) for count in (1, 2, 3, 5)] == [0, 2 / 3, 1, 1]
    with pytest.raises(ValueError, match="`count` must be 1 or more, got 0"):
        top_accuracy(logits, [1, 1, 0], 0)
