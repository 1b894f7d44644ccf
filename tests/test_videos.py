"""Videos from files and folders of frames: what is read, what is told of it, what is refused, and features."""

import builtins
import shutil
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import make_clip
from PIL import Image
from transformers import CLIPImageProcessor
from video_files import SIZE, levels, write_folder, write_frames, write_video

from peft_coop.data import FrameRows, VideoClips, clips_to_test, draw_frames, load_data, with_frame_embeds
from peft_coop.data.images import UnreadableImageError
from peft_coop.data.preparation import prepare_inputs
from peft_coop.data.video_files import count_frames, read_frames, read_header, upright
from peft_coop.data.videos import VideoRows, frame_files, num_frames_of, read_video


def reds(frames) -> list[int]:
    return [round(np.asarray(frame)[..., 0].mean()) for frame in frames]


def stored(path) -> dict:
    return {"path": str(path), "frames": []}


@pytest.fixture
def processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("videos"))


@pytest.mark.parametrize(
    "ending, codec", [("mp4", "mpeg4"), ("avi", "mpeg4"), ("mkv", "ffv1"), ("webm", "libvpx"), ("mpg", "mpeg1video")]
)
def test_every_frame_of_a_file_is_read_in_order(tmp_path, ending, codec):
    fps = 24 if codec == "mpeg1video" else 8
    path = write_video(tmp_path / f"clip.{ending}", levels(12), codec, fps)
    frames = list(read_frames(str(path)))
    assert [frame.size for frame in frames] == [SIZE] * 12
    np.testing.assert_allclose(reds(frames), levels(12), atol=8)
    assert count_frames(str(path)) == num_frames_of(stored(path)) == 12
    header = read_header(str(path))
    assert header.fps == fps
    assert header.num_frames == (None if ending == "mpg" else 12)  # FFmpeg guesses how long an MPEG stream is


def test_a_video_is_turned_as_it_asks_for(tmp_path, monkeypatch):
    """By what PyAV tells of a frame, counterclockwise; not all versions write such files."""
    path = write_video(tmp_path / "clip.mp4", [200])
    picture = Image.new("RGB", SIZE)
    picture.paste((250, 0, 0), (0, 0, 8, SIZE[1]))  # red on the left, after the turn at the bottom
    assert upright(SimpleNamespace(rotation=0, to_image=picture.copy)).getpixel((2, 12)) == (250, 0, 0)
    turned = upright(SimpleNamespace(rotation=90, to_image=picture.copy))
    assert (turned.size, turned.getpixel((12, 30))) == (SIZE[::-1], (250, 0, 0))
    monkeypatch.setattr("peft_coop.data.video_files.upright", lambda frame: frame.rotation)
    assert list(read_frames(str(path))) == [0]


def test_names_of_files_are_no_protocols(tmp_path):
    path = write_video(tmp_path / "http:clip.mp4", levels(3))
    assert len(list(read_frames(str(path)))) == 3


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:1,\nother.mp4\n"])
def test_playlists_open_no_other_file(tmp_path, text):
    write_video(tmp_path / "other.mp4", levels(3))
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(UnreadableImageError, match=r"The video .*list\.mp4 cannot be read: FFmpeg cannot decode it"):
        list(read_video(stored(tmp_path / "list.mp4")))


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    cut(write_video(tmp_path / "cut.mp4", levels(12)), 0.5)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    for name, reason in {
        "text": "FFmpeg cannot decode it as one of mov,mp4",
        "empty": "FFmpeg cannot decode it",
        "cut": "(FFmpeg cannot decode it|it has no pictures, only data)",
        "sound": "it has no pictures, only audio",
        "gone": "there is no such file",
    }.items():
        with pytest.raises(UnreadableImageError, match=rf"The video .*{name}\.mp4 cannot be read: {reason}"):
            list(read_video(stored(tmp_path / f"{name}.mp4")))


def test_a_file_that_ends_early_is_told(tmp_path):
    path = cut(write_video(tmp_path / "cut.mkv", levels(12), "ffv1"), 0.7)
    with pytest.warns(UserWarning, match=r"cut\.mkv ends after \d frames, its header tells of 12"):
        assert 0 < len(list(read_frames(str(path)))) < 11


def test_pictures_too_large_for_pillow_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "large.mp4", levels(2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(UnreadableImageError, match=r"32 × 24 pixels are more than the 700 that Pillow allows"):
        list(read_video(stored(path)))


def test_without_pyav_files_say_what_to_install_and_frames_are_read(tmp_path, monkeypatch):
    file, folder = write_video(tmp_path / "clip.mp4", levels(2)), write_frames(tmp_path / "clip", levels(2))

    def missing(name, *arguments, **more):
        if name == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return imported(name, *arguments, **more)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UnreadableImageError, match=r'PyAV: pip install "peft-coop\[video\]"'):
        list(read_video(stored(file)))
    assert reds(read_video(stored(folder))) == levels(2)


def test_frames_come_by_the_numbers_in_their_names(tmp_path):
    folder = write_frames(tmp_path / "clip", levels(12), "frame_{}.png")
    (folder / "notes.txt").touch()
    (folder / ".hidden.png").touch()
    assert reds(read_video(stored(folder))) == levels(12)
    assert num_frames_of(stored(folder)) == 12
    shutil.copy(folder / "frame_2.png", folder / "frame_02.png")
    with pytest.raises(ValueError, match=r"'frame_02\.png' and 'frame_2\.png' are both the same frame"):
        frame_files(folder)
    with pytest.raises(UnreadableImageError, match=r"The video .*clip cannot be read: 'frame_02\.png' and"):
        list(read_video(stored(folder)))


def test_a_broken_frame_is_named_with_its_video(tmp_path):
    folder = write_frames(tmp_path / "clip", levels(3))
    (folder / "frame_2.png").write_text("no picture")
    with pytest.raises(UnreadableImageError, match=r"The video .*clip cannot be read: The image .*frame_2\.png cannot"):
        list(read_video(stored(folder)))


def test_a_folder_of_videos_has_classes_and_splits(folder):
    data = load_data(f"videos:{folder}")
    assert data.class_names == ["jump", "run"]
    assert (len(data.train), len(data.val), len(data.test)) == (6, 0, 6)
    names = [row["video"]["path"].removeprefix(f"{folder}/") for row in data.train]
    assert names[:3] == ["train/jump/clip0.mp4", "train/jump/clip1", "train/jump/clip2.mp4"]
    assert [len(list(VideoRows(data.test).frames(row))) for row in range(3)] == [5, 6, 7]


def test_the_summary_counts_frames_and_rates(folder):
    summary = load_data(f"videos:{folder}").summary
    lines = summary.lines()
    assert lines[0].endswith("2 classes (jump, run); videos: train 6 (3 a class), test 6 (3 a class)")
    assert lines[1] == "frames: 5 to 7, median 6; per second: 8"
    assert any(line.startswith("fewer than 16 frames, so that a clip repeats the last one: 12 (") for line in lines)
    assert summary.as_dict()["frames"] == {"lowest": 5, "middle": 6, "highest": 7}


def test_the_summary_names_broken_videos_and_what_is_trained_and_tested_on(tmp_path):
    place = write_folder(tmp_path)
    (place / "train" / "run" / "broken.mp4").write_text("no video")
    shutil.copytree(place / "train" / "run" / "clip1", place / "test" / "run" / "again")
    shutil.copy(place / "train" / "jump" / "clip0.mp4", place / "test" / "jump" / "same.mp4")
    summary = load_data(f"videos:{place}").summary
    assert any(line.startswith("cannot be read: 1 (The video") and "broken.mp4" in line for line in summary.lines())
    assert [test.rsplit("/", 1)[1] for test, _ in summary.duplicates] == ["same.mp4", "again"]
    assert any("2 of 8 test videos are training videos too" in line for line in summary.lines())


def test_broken_videos_are_left_out_with_a_warning(tmp_path):
    place = write_folder(tmp_path)
    (place / "train" / "run" / "broken.mp4").write_text("no video")
    with pytest.warns(UserWarning, match=r"Left out 1 of 13 videos that cannot be read: .*broken\.mp4"):
        data = load_data(f"videos:{place}", skip_corrupt=True)
    assert len(data.train) == 6
    assert "left out, cannot be read: 1" in str(data.summary)


def test_without_a_test_split_a_fifth_is_kept(tmp_path):
    for name in ("jump", "run"):
        for video in range(5):
            write_frames(tmp_path / name / f"clip{video}", levels(2))
    data = load_data(f"videos:{tmp_path}")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert "no test videos: a fifth of each class was drawn for the test (seed 1)" in data.summary.notes


def test_what_is_not_taken_is_told(tmp_path):
    place = write_folder(tmp_path)
    (place / "train" / "run" / "poster.jpg").touch()
    (place / "train" / "run" / "clip1" / "times.csv").touch()
    (place / "train" / "run" / "empty").mkdir()
    told = {one.reason: [name.rsplit("/", 1)[1] for name in one.names] for one in load_data(f"videos:{place}").left_out}
    assert told == {
        "no video by their names": ["poster.jpg"],
        "no image by their names": ["times.csv"],
        "folders without videos": ["empty"],
    }


def test_folders_that_may_mean_something_else_are_refused(tmp_path):
    write_frames(tmp_path / "deep" / "train" / "run" / "part" / "clip", levels(2))
    write_video(tmp_path / "flat" / "clip.mp4", levels(2))
    for name in ("cat", "dog"):
        write_frames(tmp_path / "pictures" / "train" / name, levels(2))
    for name, message in {
        "deep": r"frame_1\.png' is in a folder inside .*/run': which of the two is its class\? Videos must be",
        "flat": r"Videos must be in folders named after their class, '.*clip\.mp4' is not",
        "pictures": r"There is no video in '.*pictures/train'; looked for train/CLASS/VIDEO",
    }.items():
        with pytest.raises(ValueError, match=rf"'videos:.*{name}' cannot be read: .*{message}"):
            load_data(f"videos:{tmp_path / name}")
    with pytest.raises(ValueError, match=r"There is no folder '.*gone' \(from 'videos:"):
        load_data(f"videos:{tmp_path / 'gone'}")


def test_frame_features_are_those_of_the_frames_one_by_one(folder, processor):
    clip, data = make_clip().double(), load_data(f"videos:{folder}")
    rows = FrameRows(with_frame_embeds(data.train, clip, processor, batch_size=4))
    for index in range(len(data.train)):
        frames = list(VideoRows(data.train).frames(index))
        with torch.no_grad():
            pixels = prepare_inputs(frames, processor)["pixel_values"].double()
            expected = torch.stack([clip.get_image_features(each[None]).pooler_output[0] for each in pixels])
        assert rows[index].dtype == torch.float64
        torch.testing.assert_close(rows[index], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(rows.means()[1], rows[1].mean(0))


def test_frame_features_are_kept_and_computed_again_where_something_changed(tmp_path, processor, monkeypatch):
    place, clip = write_folder(tmp_path), make_clip()
    read = []
    frames = VideoRows.frames
    monkeypatch.setattr(VideoRows, "frames", lambda rows, index: read.append(index) or frames(rows, index))

    def reads() -> int:
        read.clear()
        with_frame_embeds(load_data(f"videos:{place}").train, clip, processor)
        return len(read)

    assert [reads(), reads()] == [6, 0]
    write_frames(place / "train" / "run" / "clip1", levels(9))
    assert [reads(), reads()] == [6, 0]
    with torch.no_grad():
        clip.vision_model.post_layernorm.weight[0] += 1
    assert [reads(), reads()] == [6, 0]
    processor.image_mean = [0.1, 0.2, 0.3]
    assert reads() == 6


def test_features_of_no_videos_have_the_same_columns(folder, processor):
    train = load_data(f"videos:{folder}").train
    none = with_frame_embeds(train.select([]), make_clip(), processor)
    assert none.column_names == ["image_embeds", "label"]
    assert len(none) == 0


def test_images_have_no_frame_features(processor):
    with pytest.raises(ValueError, match="must have a column 'video' with `path` and `frames`"):
        with_frame_embeds(load_data("demo:digits").test.select(range(2)), make_clip(), processor)


def test_clips_are_others_in_every_epoch_and_no_video_is_read_for_them(tmp_path, processor, monkeypatch):
    for name in ("jump", "run"):
        for video in range(2):
            write_frames(tmp_path / "train" / name / f"clip{video}", [3 * red + 40 * video for red in range(30)])
            write_frames(tmp_path / "test" / name / f"clip{video}", levels(2))
    clip, train = make_clip(), load_data(f"videos:{tmp_path}").train
    features = with_frame_embeds(train, clip, processor)
    rows = FrameRows(features)
    monkeypatch.setattr(VideoRows, "frames", None)
    clips = VideoClips(features, clip_length=6, seed=3)
    seen = set()
    for epoch in range(4):
        clips.set_epoch(epoch)
        for index in range(4):
            expected = draw_frames(30, 6, np.random.default_rng([3, epoch, index]))
            torch.testing.assert_close(clips[index]["image_embeds"], rows[index][expected], rtol=0, atol=0)
            seen.add(tuple(expected.tolist()))
    assert len(seen) > 8
    assert [clips[index]["labels"] for index in (0, 3, -1)] == [0, 1, 1]
    first, second, again = (clips_to_test(rows, 6, number) for number in (0, 1, 0))
    assert first.shape == (4, 6, clip.config.projection_dim)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="`clip_length` must be 1 or more, got 0"):
        VideoClips(features, clip_length=0, seed=3)
