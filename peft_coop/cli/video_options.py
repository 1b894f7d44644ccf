"""What the commands ask and do where the data are videos."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .offered_methods import default_method
from .options import whole_number

if TYPE_CHECKING:
    from peft import PeftModel

    from ..evaluation import FrozenCLIP

VIDEOS = "videos:PATH or demo:motion"
# What the protocols with videos have before their names.
OF_VIDEOS = "video-"
# What `benchmark few-shot` is filed under behind its name with --ways.
OF_TRIALS = "-trials"


def has_videos(source: str) -> bool:
    """Whether a `--data` argument is of videos."""
    return source.startswith("videos:") or source == "demo:motion"


def task_of(source: str) -> str:
    """PEFT's name of what is done with the data of a `--data` argument that has no masks."""
    return "VIDEO_CLS" if has_videos(source) else "IMAGE_CLS"


def add_clips(parser: argparse.ArgumentParser) -> None:
    """`--clips`."""
    parser.add_argument(
        "--clips",
        type=whole_number,
        metavar="N",
        help="of videos: clips that are drawn of each and averaged where nothing is trained (default: 5)",
    )


def add_ways(parser: argparse.ArgumentParser) -> None:
    """`--ways` and `--trials`."""
    parser.add_argument(
        "--ways",
        type=whole_number,
        metavar="N",
        help="draw tasks of N classes each, with all their other images or videos as the test, in place of --seeds",
    )
    parser.add_argument("--trials", type=whole_number, default=200, help="with --ways: so many tasks (default: 200)")


def refuse_of_videos(options: argparse.Namespace, source: str) -> None:
    """Refuse `--clips` where nothing is a video.

    Args:
        options: with that of `add_clips`.
        source: a `--data` argument.

    Raises:
        ValueError: if it is given, and these are no videos.
    """
    if getattr(options, "clips", None) is not None and not has_videos(source):
        raise ValueError(f"--clips is for videos ({VIDEOS}), and not for {source}.")


def num_clips(options: argparse.Namespace) -> int:
    """Clips of each video, as `--clips` says."""
    from ..evaluation.video_classification import NUM_CLIPS

    return getattr(options, "clips", None) or NUM_CLIPS


def reads_videos(key: str) -> bool:
    """Whether a prompt method classifies videos."""
    from ..methods import METHODS

    return METHODS[key].prompt.task_head.task_type == "VIDEO_CLS"


def default_method_for(source: str) -> str:
    """The key of the method that is learned from these data where none is named."""
    from ..methods import METHODS

    return next(filter(reads_videos, METHODS)) if has_videos(source) else default_method()


def check_learns_from(key: str, source: str) -> None:
    """Check that a prompt method classifies what the data are.

    Raises:
        ValueError: if one of the two is of images, and the other of videos.
    """
    from ..methods import METHODS

    if reads_videos(key) and not has_videos(source):
        raise ValueError(f"{METHODS[key].title} classifies videos: --data must be {VIDEOS}, got {source!r}.")
    if has_videos(source) and not reads_videos(key):
        raise ValueError(
            f"{METHODS[key].title} classifies images, and {source!r} has videos: give --method "
            f"{default_method_for(source)}."
        )


def protocol_of(name: str, sources: Sequence[str]) -> str:
    """What a benchmark's protocol is called with these data.

    Raises:
        ValueError: if there are images and videos, or it is none of videos.
    """
    from ..recipes import VIDEO_PROTOCOLS

    of_videos = [source for source in sources if has_videos(source)]
    if not of_videos:
        return name
    if len(of_videos) < len(sources):
        raise ValueError(f"{of_videos[0]!r} has videos, and other --data has images: give them to two commands.")
    if f"{OF_VIDEOS}{name}" not in VIDEO_PROTOCOLS:
        known = " and ".join(each.removeprefix(OF_VIDEOS) for each in VIDEO_PROTOCOLS)
        raise ValueError(
            f"benchmark {name} is for images, and {of_videos[0]!r} has videos: for these there are {known}."
        )
    return f"{OF_VIDEOS}{name}"


def videos_in(paths: Sequence[Path]) -> Iterator[Path]:
    """Videos to classify: files, folders of frames, and all of these in other folders, in order.

    Raises:
        ValueError: if a path does not exist, or holds no video.
    """
    for path in paths:
        if not path.exists():
            raise ValueError(f"There is no file or folder {str(path)!r}.")
        found = [path] if path.is_file() else list(_videos_below(path))
        if not found:
            raise ValueError(f"The folder {str(path)!r} holds no video, and no frame of one.")
        yield from found


def _videos_below(folder: Path) -> Iterator[Path]:
    from ..data.folders import files_below
    from ..data.images import is_image_name
    from ..data.video_files import is_video_name

    given: set[Path] = set()
    for file in files_below(folder):
        is_video = is_video_name(Path(file.name))
        one = file if is_video else file.parent
        if (is_video or is_image_name(Path(file.name))) and one not in given:
            given.add(one)
            yield one


def predict_videos(model: PeftModel, clip: FrozenCLIP, options: argparse.Namespace) -> int:
    """Classify and print, video by video; 2 if one could not be read."""
    from ..progress import stage

    for name in ("min_probability", "other_names"):
        if getattr(options, name, None) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for images; the adapter {options.adapter!r} reads videos.")
    videos = list(videos_in(options.images))
    unread = 0
    with stage("classifying", len(videos), "video", shown=len(videos) > 1) as progress:
        for video in videos:
            try:
                line: str | None = _line(model, clip, video, options)
            except ValueError as error:
                unread += 1
                print(f"peft-coop: {error}", file=sys.stderr)
                line = json.dumps({"file": str(video), "error": str(error)}) if options.json else None
            if line is not None:
                progress.write(line)
            progress.update()
    return 2 if unread else 0


def _line(model: PeftModel, clip: FrozenCLIP, video: Path, options: argparse.Namespace) -> str:
    """What is printed of a video, as of an image; at what the adapter decides by.

    Raises:
        ValueError: if it cannot be read.
    """
    import numpy as np

    from ..models import OTHER
    from ..video_pipeline import classify_video
    from .predict import line_of

    found, names = classify_video(model, clip.processor.image_processor, video), list(model.class_names or ())
    row = np.array([found[name] for name in [*names, OTHER] if name in found])
    return line_of(video, row, names, model.decision["min_probability"], options)
