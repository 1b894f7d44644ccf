"""Video files decoded frame by frame by PyAV, at their own rate."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".3gp", ".ogv", ".gif"),
)
# FFmpeg goes by what a file holds and not by its name: playlists, which open other files and addresses, are none.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegvideo,mpegts,asf,flv,ogg,gif"
GET_PYAV = 'Videos are decoded by the package PyAV: pip install "peft-coop[video]". Folders of frames do without it'
# FFmpeg guesses how long these are, by their size.
GUESSED_LENGTH = "mpeg"
# A file with fewer frames than this share of those that its header tells ends early.
EARLY = 0.9


@dataclass(frozen=True)
class VideoHeader:
    """What the header of a video file tells.

    Attributes:
        num_frames: as many as it says, or as its length and rate make; None where it has neither, or only guesses.
        fps: frames per second; None where it does not say.
    """

    num_frames: int | None
    fps: float | None


def is_video_name(path: PurePath) -> bool:
    """Whether a file is a video by its name; hidden ones are none."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def read_header(path: str) -> VideoHeader:
    """Read what a video file tells of itself; no frame is decoded.

    Raises:
        ValueError: if it is none.
    """
    with _opened(path) as stream:
        return _header_of(stream)


def read_frames(path: str) -> Iterator[Picture]:
    """Decode a video file, one frame after the other.

    Args:
        path: of the file.

    Yields:
        The frames in RGB, turned as the file says. After the last one, a warning tells of a file that ends early or
        has damaged frames.

    Raises:
        ValueError: if it is no video, or is damaged so that it cannot be read on.
    """
    count, damaged = 0, 0
    with _opened(path) as stream:
        header = _header_of(stream)
        for frame in stream.container.decode(stream):
            count += 1
            damaged += bool(frame.is_corrupt)
            yield upright(frame)
    if not count:
        raise ValueError("it has no frame that can be decoded.")
    _tell(path, count, damaged, header)


def count_frames(path: str) -> int:
    """How many frames a video file has, which are all decoded for it.

    Raises:
        ValueError: if it is no video, or is damaged so that it cannot be read on.
    """
    with _opened(path) as stream:
        return sum(1 for _ in stream.container.decode(stream))


def _tell(path: str, count: int, damaged: int, header: VideoHeader) -> None:
    if header.num_frames and count < EARLY * header.num_frames:
        warnings.warn(
            f"The video {path} ends after {count:,} frames, its header tells of {header.num_frames:,}.", stacklevel=3
        )
    if damaged:
        warnings.warn(f"The video {path} has {damaged:,} damaged frames of {count:,}.", stacklevel=3)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The stream of pictures of a video file.

    Raises:
        ValueError: if there is none, in one line.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{GET_PYAV}.") from error
    if not Path(path).is_file():
        raise ValueError("there is no such file.")
    try:
        # "file:", so that no part of a name is taken for a protocol.
        with av.open(f"file:{path}", options={"format_whitelist": FORMATS}) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                held = sorted({each.type for each in container.streams})
                raise ValueError(f"it has no pictures, only {' and '.join(held) or 'nothing'}.")
            _check_size(stream.codec_context.width, stream.codec_context.height)
            stream.thread_type = "AUTO"
            yield stream
    except av.FFmpegError as error:
        raise ValueError(f"FFmpeg cannot decode it as one of {FORMATS} ({error.strerror}).") from error


def _check_size(width: int, height: int) -> None:
    """Refuse pictures that Pillow would not open either.

    Raises:
        ValueError: if they are larger than its limit.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit and width * height > limit:
        raise ValueError(f"its frames of {width:,} × {height:,} pixels are more than the {limit:,} that Pillow allows.")


def _header_of(stream: Any) -> VideoHeader:
    fps = float(stream.average_rate) if stream.average_rate else None
    if stream.frames or stream.container.format.name.startswith(GUESSED_LENGTH):
        return VideoHeader(stream.frames or None, fps)
    length = stream.duration * stream.time_base if stream.duration else None
    if length is None and stream.container.duration:
        length = stream.container.duration / 1_000_000  # microseconds
    return VideoHeader(round(length * fps) if length and fps else None, fps)


def upright(frame: Any) -> Picture:
    """In RGB, turned as phones ask for: they write pictures as the sensor lies."""
    picture = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
