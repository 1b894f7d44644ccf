"""What was read from a source of videos, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, ClassVar

from ..progress import stage
from .images import UnreadableImageError
from .summary import DataSummary, LeftOut, counted, summarise
from .videos import VideoRows

if TYPE_CHECKING:
    from datasets import Dataset

# The frames of a clip by default: of a video with fewer, the last one is repeated.
CLIP_LENGTH = 16


@dataclass(frozen=True)
class Spread:
    """Numbers of videos, in short.

    Attributes:
        lowest: of them.
        middle: their median.
        highest: of them.
    """

    lowest: float
    middle: float
    highest: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread | None:
        """Of some numbers; None of none."""
        return cls(min(numbers), median(numbers), max(numbers)) if numbers else None

    def __str__(self) -> str:
        ends = f"{self.lowest:,.5g} to {self.highest:,.5g}, median {self.middle:,.5g}"
        return f"{self.lowest:,.5g}" if self.lowest == self.highest else ends


@dataclass(frozen=True)
class VideoSummary(DataSummary):
    """What was read from a source of videos: see `DataSummary`, with videos in place of images.

    Attributes:
        frames: how many the videos have, as their headers say; None where none does.
        fps: frames per second, likewise; folders of frames have no rate.
    """

    frames: Spread | None = None
    fps: Spread | None = None

    items: ClassVar[str] = "videos"

    def lines(self) -> list[str]:
        """See `DataSummary.lines`: the second line is of frames."""
        first, *others = super().lines()
        frames = f"frames: {self.frames or 'not known before they are decoded'}"
        return [first, f"{frames}; per second: {self.fps}" if self.fps else frames, *others]


def summarise_videos(
    name: str,
    class_names: Sequence[str],
    splits: Mapping[str, Dataset],
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
) -> VideoSummary:
    """Count videos by class and frames, and look for what cannot be meant; every file's header is read.

    Args:
        name: of the data.
        class_names: in the order of the labels.
        splits: "train", "val" and "test", with `video` and `label`.
        left_out: what was found and not read.
        notes: what was understood on the way.
    """
    of_classes = summarise(name, class_names, splits, left_out, notes, "videos")
    frames: list[int] = []
    rates: list[float] = []
    short: list[str] = []
    broken: list[str] = []
    with stage("reading headers", sum(map(len, splits.values())), "video", counts=False) as progress:
        for split in splits.values():
            videos = VideoRows(split)
            for index in range(len(videos)):
                progress.update()
                try:
                    header = videos.header(index)
                except UnreadableImageError as error:
                    broken.append(str(error))
                    continue
                rates += [header.fps] if header.fps else []
                if header.num_frames:
                    frames.append(header.num_frames)
                    short += [f"{videos.name(index)}: {header.num_frames}"] * (header.num_frames < CLIP_LENGTH)
    notes = [
        *counted(f"fewer than {CLIP_LENGTH} frames, so that a clip repeats the last one", short),
        *counted("cannot be read", broken),
    ]
    fields = {**vars(of_classes), "notes": (*of_classes.notes, *notes)}
    return VideoSummary(**fields, frames=Spread.of(frames), fps=Spread.of(rates))
