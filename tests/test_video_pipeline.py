"""transformers' video pipeline, and the function beside it, against the model on frames that are chosen by hand."""

import logging

import pytest
import torch
from conftest import make_clip
from peft import get_peft_model
from transformers import (
    CLIPImageProcessor,
    VideoClassificationPipeline,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    pipeline,
)
from video_files import levels, write_frames, write_video

from peft_coop import CoOpConfig, VideoPromptConfig
from peft_coop.data.preparation import prepare_inputs
from peft_coop.data.video_files import read_frames
from peft_coop.video_pipeline import PromptVideoClassificationPipeline, classify_video

NAMES = ["jump", "run", "wave"]


@pytest.fixture(scope="module")
def processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def model(tokenizer_path):
    torch.manual_seed(0)
    settings = {"n_prefix": 2, "n_suffix": 2, "num_frames": 4, "temporal_heads": 2}
    config = VideoPromptConfig(class_names=NAMES, tokenizer_name_or_path=tokenizer_path, **settings)
    return get_peft_model(make_clip(), config).eval()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", levels(10))


def expected(model, processor, path) -> dict[str, float]:
    """Of frames 0, 3, 6 and 9."""
    frames = list(read_frames(str(path)))[::3]
    with torch.no_grad():
        pixel_values = prepare_inputs(frames, processor)["pixel_values"][None]
        probabilities = model(pixel_values=pixel_values).logits[0].softmax(-1)
    return dict(zip(NAMES, probabilities.tolist(), strict=True))


def test_a_prompt_is_served_with_frames_from_the_whole_video(model, processor, path):
    classify = pipeline("video-classification", model=model, image_processor=processor)
    assert isinstance(classify, PromptVideoClassificationPipeline)
    answer = classify(str(path))
    assert [row["score"] for row in answer] == sorted((row["score"] for row in answer), reverse=True)
    of_pipeline = {row["label"]: row["score"] for row in answer}
    wanted = pytest.approx(expected(model, processor, path), abs=1e-5)
    assert of_pipeline == wanted
    assert classify_video(model, processor, path) == wanted
    both = classify([str(path), str(path)], top_k=1)
    assert [rows[0]["label"] for rows in both] == [answer[0]["label"]] * 2


def test_it_is_served_at_what_it_decides_by(model, processor, path):
    classify = pipeline("video-classification", model=model, image_processor=processor)
    frames = prepare_inputs(list(read_frames(str(path)))[::3], processor)["pixel_values"][None]
    logits = model(pixel_values=frames, class_names=[*NAMES, "sit", "stand"]).logits[0]
    probabilities = (logits / 3).softmax(-1)
    wanted = dict(zip(NAMES, probabilities[:3].tolist(), strict=True)) | {"other": probabilities[3:].sum().item()}
    raw = {row["label"]: row["score"] for row in classify(str(path), function_to_apply="none")}
    model.set_decision(3.0, other_names=["sit", "stand"])
    try:
        assert classify_video(model, processor, path) == pytest.approx(wanted, abs=1e-5)
        assert {row["label"]: row["score"] for row in classify(str(path))} == pytest.approx(wanted, abs=1e-5)
        assert raw == pytest.approx(
            {row["label"]: row["score"] for row in classify(str(path), function_to_apply="none")}, abs=1e-5
        )
    finally:
        model.set_decision()


def test_folders_of_frames_and_short_videos_are_read(model, processor, tmp_path):
    folder = write_frames(tmp_path / "clip", levels(2))
    classify = pipeline("video-classification", model=model, image_processor=processor)
    of_folder = {row["label"]: row["score"] for row in classify(str(folder))}
    longer = write_frames(tmp_path / "longer", [0, 20, 20, 20])
    assert of_folder == pytest.approx(classify_video(model, processor, longer), abs=1e-6)


def test_what_cannot_be_read_is_named(model, processor, tmp_path):
    classify = pipeline("video-classification", model=model, image_processor=processor)
    with pytest.raises(ValueError, match=r"The video .*gone\.mp4 cannot be read: there is no such file"):
        classify(str(tmp_path / "gone.mp4"))
    with pytest.raises(ValueError, match=r"a file or a folder of frames of this machine, got 'http://a/b\.mp4'"):
        classify("http://a/b.mp4")
    with pytest.raises(ValueError, match="reads 4 frames that are spread over a video; `frame_sampling_rate`"):
        classify(str(tmp_path), frame_sampling_rate=2)


def test_a_prompt_of_images_is_told(tokenizer_path, processor, path):
    config = CoOpConfig(n_ctx=2, class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
    with pytest.raises(ValueError, match="`model` must have a prompt that reads videos"):
        classify_video(get_peft_model(make_clip(), config).eval(), processor, path)


def test_other_models_are_served_as_before(processor, path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, num_labels=3, **sizes)
    torch.manual_seed(0)
    videomae = VideoMAEForVideoClassification(config).eval()
    from transformers import VideoMAEImageProcessorPil

    frames = VideoMAEImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    own = pipeline("video-classification", model=videomae, image_processor=frames)(str(path))
    assert own == VideoClassificationPipeline(model=videomae, image_processor=frames)(str(path))


def test_pipelines_support_the_model(model, processor):
    lines = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        pipeline("video-classification", model=model, image_processor=processor)
    finally:
        logger.removeHandler(handler)
    assert lines == []
