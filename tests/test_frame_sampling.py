"""Which frames make a clip, against a slow and obvious drawing of the same."""

from fractions import Fraction

import numpy as np
import pytest

from peft_coop.data import draw_frames, spread_frames


def every_clip(num_frames: int, clip_length: int) -> dict[tuple[int, ...], Fraction]:
    """All clips that can be drawn, with their probabilities, from the description of the original."""
    if num_frames <= clip_length:
        return {(*range(num_frames), *[num_frames - 1] * (clip_length - num_frames)): Fraction(1)}
    clips: dict[tuple[int, ...], Fraction] = {}
    for share, stride in ((Fraction(1, 6), 1), (Fraction(1, 6), 2), (Fraction(1, 2), 3), (Fraction(1, 6), 4)):
        for offset in range(stride):
            count = round(num_frames / stride)
            step = Fraction(num_frames - 1 - offset, count - 1) if count > 1 else Fraction(0)
            picks = [int(offset + step * number) for number in range(count)]
            if count <= clip_length:
                picks = list(range(num_frames))
            starts = len(picks) - clip_length
            for start in range(starts):
                clip = tuple(picks[start : start + clip_length])
                clips[clip] = clips.get(clip, Fraction(0)) + share / stride / starts
    return clips


@pytest.mark.parametrize(
    "num_frames, clip_length", [(1, 1), (1, 4), (4, 4), (5, 4), (8, 4), (9, 4), (13, 4), (40, 4), (33, 8)]
)
def test_clips_are_drawn_as_often_as_the_original_draws_them(num_frames, clip_length):
    expected = every_clip(num_frames, clip_length)
    assert sum(expected.values()) == 1
    generator = np.random.default_rng(0)
    draws = 4000
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        clip = draw_frames(num_frames, clip_length, generator)
        assert (clip.dtype, clip.shape) == (np.int64, (clip_length,))
        counts[tuple(clip.tolist())] = counts.get(tuple(clip.tolist()), 0) + 1
    assert counts.keys() <= expected.keys()
    for clip, share in expected.items():
        spread = (draws * float(share) * (1 - float(share))) ** 0.5
        assert abs(counts.get(clip, 0) - draws * share) <= 6 * spread


def test_a_seed_draws_the_same_clips():
    draws = [[draw_frames(50, 8, np.random.default_rng([seed, 3])).tolist() for _ in range(2)] for seed in (1, 2)]
    assert draws[0][0] == draws[0][1]
    assert draws[0] != draws[1]


def test_spread_frames_go_from_the_first_to_the_last():
    assert spread_frames(9, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread_frames(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_frames(7, 7).tolist() == list(range(7))
    assert spread_frames(3, 5).tolist() == [0, 1, 2, 2, 2]
    assert spread_frames(8, 1).tolist() == [0]
    for num_frames in range(6, 60):
        steps = np.diff(spread_frames(num_frames, 6))
        assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("lengths", [(0, 4), (4, 0)])
def test_no_frames_are_refused(lengths):
    message = rf"one frame or more, got a video of {lengths[0]} and a clip of {lengths[1]}"
    with pytest.raises(ValueError, match=message):
        draw_frames(*lengths, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        spread_frames(*lengths)
