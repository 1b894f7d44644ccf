"""Tiny videos, written where a test wants them."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = (32, 24)  # width and height


def levels(count: int) -> list[int]:
    """How red each frame is: no two of 12 are near each other."""
    return [20 * number for number in range(count)]


def frames_of(reds: Sequence[int], size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    frames = [np.zeros((size[1], size[0], 3), np.uint8) for _ in reds]
    for frame, red in zip(frames, reds, strict=True):
        frame[..., 0] = red
    return frames


def write_video(path: Path, reds: Sequence[int], codec: str = "mpeg4", fps: int = 8) -> Path:
    """A file whose frames are as red as said."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for frame in frames_of(reds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, reds: Sequence[int], name: str = "frame_{}.png") -> Path:
    """A folder of frames, numbered from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames_of(reds), start=1):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


def write_folder(place: Path, splits: Sequence[str] = ("train", "test"), count: int = 3, frames: int = 5) -> Path:
    """Two classes of videos, files and folders of frames, no two alike."""
    for number, split in enumerate(splits):
        for label, name in enumerate(("jump", "run")):
            for video in range(count):
                start = 60 * label + 5 * video + 20 * number
                reds = [start + frame for frame in range(frames + video)]
                if video % 2:
                    write_frames(place / split / name / f"clip{video}", reds)
                else:
                    write_video(place / split / name / f"clip{video}.mp4", reds)
    return place
