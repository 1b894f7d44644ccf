"""What every source of videos gives."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from .image_data import ImageData
from .summary import LeftOut
from .video_summary import VideoSummary, summarise_videos

# The prompt without learning.
VIDEO_TEMPLATE = "a video of {}."


class VideoData(ImageData):
    """Videos with labels: as `ImageData`, whose datasets have a column `video` in place of `image`.

    A video is a file, a folder of frames, or frames; see `peft_coop.data.videos.video_features`.
    """

    items: ClassVar[str] = "videos"

    @cached_property
    def summary(self) -> VideoSummary:
        """What these videos are, counted: classes, videos per split, frames and rates, what was left out.

        Every file's header is read for it. It also looks for files that are both in the training and in the test
        videos, and for videos that cannot be read or have fewer frames than a clip.
        """
        left_out = self.left_out
        if self.skipped:
            left_out = (*left_out, LeftOut("cannot be read", self.skipped))
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return summarise_videos(self.name, self.class_names, splits, left_out, self.notes)
