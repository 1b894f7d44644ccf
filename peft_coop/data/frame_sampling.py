"""Which frames of a video make a clip: a window at a random rate, or frames that are spread over all of it."""

from __future__ import annotations

import numpy as np

# How clips are drawn: what was measured with clips of another name is measured again.
CLIPS = "windows at random rates"
# Of every how many frames one is taken: half of the draws are every third frame.
STRIDES = (1, 2, 3, 3, 3, 4)


def draw_frames(num_frames: int, clip_length: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a clip as the original implementation of video prompting does, in training and in tests.

    Of a video with more frames than the clip, a rate is drawn: all frames, or every second, third (half of the draws)
    or fourth, from one of the first on. Where that leaves no more than the clip has, it is all frames. Then a window
    of neighbours among them is drawn; the one that ends with the last of them never is, as in the original. A video
    that has no more frames than the clip is taken whole, and its last frame repeated.

    Args:
        num_frames: N, of the video, at its own rate.
        clip_length: T, of the clip.
        generator: of the draws.

    Returns:
        Numbers of frames from 0 to N - 1, `[T]`, int64, in order.

    Raises:
        ValueError: if one of the two is below 1.

    Reference: Prompting Visual-Language Models for Efficient Video Understanding (arXiv:2112.04478).
    """
    _check_lengths(num_frames, clip_length)
    if num_frames <= clip_length:
        return _whole(num_frames, clip_length)
    stride = int(generator.choice(STRIDES))
    first = int(generator.integers(stride))
    picks = np.linspace(first, num_frames - 1, round(num_frames / stride), dtype=np.int64)
    if len(picks) <= clip_length:
        picks = np.arange(num_frames)
    start = int(generator.integers(len(picks) - clip_length))
    return picks[start : start + clip_length]


def spread_frames(num_frames: int, clip_length: int) -> np.ndarray:
    """Take frames at equal distances from the first to the last: the same clip always.

    A video that has no more frames than the clip is taken whole, and its last frame repeated.

    Args:
        num_frames: N, of the video.
        clip_length: T, of the clip.

    Returns:
        Numbers of frames from 0 to N - 1, `[T]`, int64, in order.

    Raises:
        ValueError: if one of the two is below 1.
    """
    _check_lengths(num_frames, clip_length)
    if num_frames <= clip_length:
        return _whole(num_frames, clip_length)
    return np.linspace(0, num_frames - 1, clip_length).round().astype(np.int64)


def _whole(num_frames: int, clip_length: int) -> np.ndarray:
    return np.minimum(np.arange(clip_length), num_frames - 1)


def _check_lengths(num_frames: int, clip_length: int) -> None:
    if num_frames < 1 or clip_length < 1:
        raise ValueError(
            f"A video and a clip have one frame or more, got a video of {num_frames} and a clip of {clip_length}."
        )
