"""The demo's videos: what is in them, and that the order of frames is what tells half of the classes apart."""

import io

import numpy as np
import pytest
from PIL import Image

from peft_coop.data import VideoData, base_and_new_names, load_data
from peft_coop.demo import motion_videos
from peft_coop.demo.motion_videos import MOTIONS, all_moves, draw_split, draw_video


@pytest.fixture(scope="module")
def few():
    """A video of each class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(motion_videos, "VIDEOS_PER_CLASS", {"train": 1, "test": 1})
        yield load_data("demo:motion")


def frames(video) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(content))) for content in video["frames"]]


def test_the_task_has_videos_that_are_never_mirrored(few):
    assert isinstance(few, VideoData)
    assert not few.flip
    assert len(few.class_names) == 24
    assert few.train["label"] == list(range(24))
    for row in few.train:
        pictures = frames(row["video"])
        assert 17 <= len(pictures) <= 24
        assert {picture.shape for picture in pictures} == {(48, 48, 3)}


def test_drawing_twice_gives_the_same_videos_and_no_video_is_in_both_splits(few):
    first = few.train["video"][:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(motion_videos, "VIDEOS_PER_CLASS", {"train": 1, "test": 1})
        assert draw_split("train")["video"][:] == first
    tested = {video["frames"][0] for video in few.test["video"]}
    assert not tested & {video["frames"][0] for video in first}


def test_both_motions_of_a_pair_are_the_same_frames_in_the_other_order():
    moves = all_moves()
    for move, back in zip(moves[::2], moves[1::2], strict=True):
        assert (move.pair, move.shape, back.backwards) == (back.pair, back.shape, True)
        there, and_back = (draw_video(each, np.random.default_rng(1)) for each in (move, back))
        np.testing.assert_array_equal(there, and_back[::-1])


def centre(picture) -> np.ndarray:
    """Row and column of what is not background, and how much it is."""
    strange = np.abs(picture.astype(int) - np.median(picture, axis=(0, 1))).sum(-1) > 60
    return np.array([*np.argwhere(strange).mean(0), strange.sum()])


def test_shapes_go_where_their_names_say():
    axis = {"right": (1, 1), "down": (0, 1), "larger": (2, 1)}
    axis |= {"left": (1, -1), "up": (0, -1), "smaller": (2, -1)}
    for number, move in enumerate(all_moves()):
        video = draw_video(move, np.random.default_rng([2, number]))
        place, sign = axis[MOTIONS[move.pair][move.backwards]]
        way = centre(video[-1]) - centre(video[0])
        assert sign * way[place] > 10
        assert place == 2 or abs(way[1 - place]) < 3


def test_both_halves_have_every_thing_and_every_motion_in_whole_pairs(few):
    halves = base_and_new_names(few.class_names)
    for names in halves:
        assert {name.split(" ", 2)[1] for name in names} == {"circle", "star", "heart", "square"}
        assert {name.split(" ", 2)[2] for name in names} == {motion for pair in MOTIONS for motion in pair}
        things = [name.split(" ", 2)[1:] for name in names]
        for first, second in MOTIONS:
            assert [shape for shape, motion in things if motion == first] == [
                shape for shape, motion in things if motion == second
            ]
    assert not set(halves[0]) & set(halves[1])
