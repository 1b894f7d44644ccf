"""Segmentation as a protocol: windows over images, methods that are compared, runs and reports."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.modeling_outputs import SemanticSegmenterOutput

from peft_coop.data import load_masks
from peft_coop.evaluation import FrozenCLIP, PromptLearning, ZeroShot, format_report, load_runs, write_report
from peft_coop.evaluation.segmentation import (
    DenseZeroShot,
    PlainHead,
    PromptSegmentation,
    Segmenter,
    Windows,
    draw_masks,
    pixel_scores,
    segmentation,
)
from peft_coop.evaluation.segmentation.plain_head import PlainSegmenter

WINDOWS = Windows(48)
RECIPE = {"num_epochs": 2, "batch_size": 2, "learning_rate": 1e-3}
SMALL = {"decoder_width": 8, "decoder_layers": 1, "decoder_heads": 2, "head_channels": 8, "max_class_tokens": 12}
OF_12_LAYERS = "ignore:This vision tower has 4 layers:UserWarning"


@pytest.fixture(scope="module")
def clip():
    return FrozenCLIP.from_pretrained("demo")


@pytest.fixture(scope="module")
def data():
    """A few of the demo's scenes."""
    whole = load_masks("demo:scenes")
    return type(whole)(**{**vars(whole), "train": whole.train.select(range(4)), "test": whole.test.select(range(3))})


def methods(**fields) -> list:
    return [
        DenseZeroShot(WINDOWS),
        PlainHead(WINDOWS, channels=8, recipe=RECIPE, train_vision=fields.get("train_vision", True)),
        PromptSegmentation("dense_clip", {**SMALL, **fields}, RECIPE, windows=WINDOWS),
    ]


class OfColours(torch.nn.Module):
    """A model that looks at single pixels, so that windows and their places cannot matter."""

    def __init__(self, config):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, kernel_size=1).double()
        self.config = config

    def forward(self, pixel_values):
        return SemanticSegmenterOutput(logits=self.layer(pixel_values.double()))


@pytest.fixture
def segmenter(clip):
    torch.manual_seed(0)
    model = OfColours(clip.model.config)
    return lambda windows: Segmenter(model, clip, windows, list("abcd"))


def picture(width: int, height: int) -> Image.Image:
    """Smooth, so that resizing hardly changes it."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * np.stack([x, y, x * y], -1)).astype(np.uint8))


@pytest.mark.parametrize("size", [(96, 48), (48, 48), (70, 133), (30, 20), (49, 48)])
def test_windows_give_each_pixel_of_the_image_its_own_answer(segmenter, clip, size):
    own = segmenter(WINDOWS)
    image = picture(*size)
    found = own.probabilities(image)
    pixels = clip.processor.image_processor([image], do_resize=False, do_center_crop=False, return_tensors="pt")
    expected = own.model(pixels["pixel_values"]).logits[0].softmax(0)
    assert found.shape == (4, size[1], size[0])
    assert torch.allclose(found.double(), expected, atol=0.02)
    assert own.segment(image).shape == size[::-1]


def test_several_scales_and_mirrored_images_are_averaged_as_probabilities(segmenter):
    image = picture(70, 50)
    views = [segmenter(Windows(48, scales=(scale,), flip=False)).probabilities(image) for scale in (0.5, 1.0)]
    mirrored = [
        segmenter(Windows(48, scales=(scale,))).probabilities(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).flip(-1)
        for scale in (0.5, 1.0)
    ]
    found = segmenter(Windows(48, scales=(0.5, 1.0), flip=True)).probabilities(image)
    assert torch.allclose(found, torch.stack(views + mirrored).mean(0), atol=1e-6)
    assert torch.allclose(found.sum(0), torch.ones(50, 70), atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"crop_size": 0}, "`crop_size` must be 1 or more pixels, got 0"),
        ({"crop_size": 9, "stride": 10}, "`stride` must be from 1 to the window's 9 pixels"),
        ({"crop_size": 9, "scales": ()}, r"`scales` must be one or more numbers above 0, got \(\)"),
    ],
)
def test_wrong_windows_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        Windows(**more)


def test_numbers_that_are_none_are_told(segmenter):
    own = segmenter(WINDOWS)
    own.model.layer.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="probabilities are not all finite"):
        own.segment(picture(48, 48))


@pytest.fixture(scope="module")
def runs(clip, data, tmp_path_factory):
    """Two seeds of all methods, once more interrupted, and where they lie."""
    output = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This vision tower has 4 layers")
        return segmentation(clip, data, methods(), output, seeds=(1, 2)), output


def test_runs_are_measured_and_filed(runs, data):
    records, _ = runs
    assert [record["method"] for record in records] == ["dense-zero-shot", *["dense-head"] * 2, *["dense_clip"] * 2]
    for record in records:
        result = record["results"]["test"]
        assert 0 <= result["mean_iou"] <= result["overall_accuracy"] <= 1
        assert len(result["per_category_iou"]) == len(data.class_names)
        assert result["num_examples"] == 3
        assert record["settings"]["crop_size"] == 48
    assert records[-1]["settings"]["num_shots"] == 4
    assert records[-1]["settings"]["all_images"] is True
    assert records[-1]["results"] != records[-2]["results"]


@pytest.mark.filterwarnings(OF_12_LAYERS)
def test_finished_runs_are_read_and_not_done_again(runs, clip, data, optimizer_steps):
    records, output = runs
    assert segmentation(clip, data, methods(), output, seeds=(1, 2)) == records
    assert optimizer_steps.taken == 0


@pytest.mark.filterwarnings(OF_12_LAYERS)
@pytest.mark.parametrize("number", [1, 2])
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(runs, clip, data, number, optimizer_steps, tmp_path):
    """Its parts of images are those of the epoch in which it stopped."""
    method = methods()[number]
    optimizer_steps.interrupted = 4
    with pytest.raises(KeyboardInterrupt, match="in a step"):
        segmentation(clip, data, [method], tmp_path, seeds=(1,))
    (record,) = segmentation(clip, data, [method], tmp_path, seeds=(1,))
    assert optimizer_steps.taken == 4
    assert record["results"] == next(each for each in runs[0] if each["method"] == method.key)["results"]


@pytest.mark.usefixtures("figures_are_not_drawn")
def test_reports_have_a_table_with_all_numbers_of_pixels(runs, tmp_path):
    records, output = runs
    found = load_runs(output)
    text = format_report(found)
    assert "## Segmentation: % on scenes, model demo" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [part.strip() for part in rows[0].split("|")[1:-1]] == [
        *("method", "mIoU", "mean accuracy of classes", "accuracy of pixels", "seeds")
    ]
    zero_shot = records[0]["results"]["test"]
    assert f"{100 * zero_shot['mean_iou']:.2f}" in rows[2]
    assert "±" in rows[-1]
    fewer = [replace(run, settings={**run.settings, "num_shots": 2, "all_images": None}) for run in found[-2:]]
    assert f"| {found[-1].method_name}, 2 images" in format_report([*found, *fewer])
    names = {path.name for path in write_report(found, tmp_path / "report")}
    assert {"report.md", "report.tex", "report.csv", "segmentation.png"} <= names
    (picture,) = (name for name in names if name.endswith("dense-clip_score_maps.png"))
    assert f"({picture})" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "mean_iou" in (tmp_path / "report" / "report.csv").read_text(encoding="utf-8").splitlines()[0]
    assert r"accuracy of" in (tmp_path / "report" / "report.tex").read_text(encoding="utf-8")


def test_what_was_learned_is_saved(runs):
    """The adapter with the image processor of its windows, and of the plain head what was trained."""
    _, output = runs
    folders = {folder.parents[1].name.split("_")[0]: folder for folder in output.rglob("adapter") if folder.is_dir()}
    processor = json.loads((folders["dense"] / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert processor["image_processor_type"] == "SegformerImageProcessor"
    assert processor["size"] == {"height": 48, "width": 48}
    assert (folders["dense"] / "adapter_model.safetensors").is_file()
    with Image.open(folders["dense"] / "score_maps.png") as drawn:
        assert min(drawn.size) > 500
    assert not (folders["dense-head"] / "score_maps.png").exists()
    assert (folders["dense-head"] / "head.safetensors").is_file()


@pytest.mark.filterwarnings(OF_12_LAYERS)
def test_the_plain_head_is_that_of_the_prompt_but_for_the_score_map(clip, data):
    images = draw_masks(data, 2, 1)
    plain = PlainHead(WINDOWS, channels=8)._new_model(clip, images)
    prompt = PromptSegmentation("dense_clip", SMALL, windows=WINDOWS)._new_model(clip, images)
    own = prompt.base_model.model.prompt_layer.prompt
    for part in ("pyramid", "neck", "head"):
        shapes, others = (
            {name: tuple(each.shape) for name, each in getattr(model, part).named_parameters()}
            for model in (plain, own)
        )
        wider = [name for name in shapes if shapes[name] != others[name]]
        assert wider == (["lateral_convs.2.conv.weight"] if part == "neck" else [])
    assert list(plain.out_indices) == list(own.settings.out_indices)


@pytest.mark.parametrize("train_vision", [True, False])
def test_the_plain_head_trains_what_it_says_and_saves_it(clip, data, train_vision, tmp_path):
    model = PlainHead(WINDOWS, channels=8, train_vision=train_vision)._new_model(clip, draw_masks(data, 2, 1)).train()
    slow, fast = model.param_groups(1e-3, 1e-4)
    assert (slow["lr"], fast["lr"]) == (1e-4, 1e-3)
    tower = {name for name, each in model.named_parameters() if each.requires_grad and name.startswith("clip.")}
    assert bool(tower) == train_vision
    assert not any("text" in name for name in tower)
    assert model.clip.training == train_vision
    PlainSegmenter(model, clip, WINDOWS, data.class_names).save(tmp_path)
    saved = load_file(tmp_path / "head.safetensors")
    assert {name for name in saved if name.startswith("clip.")} == tower
    assert {name.split(".")[0] for name in saved} - {"clip"} == {"pyramid", "neck", "head"}
    assert any("running_mean" in name for name in saved)
    grouped = sum(len(group["params"]) for group in (slow, fast))
    assert grouped == sum(each.requires_grad for each in model.parameters())


def test_images_are_drawn_by_the_seed(data):
    drawn = [draw_masks(data, 2, seed).train["image"][0].tobytes() for seed in range(8)]
    assert drawn[0] == draw_masks(data, 2, 0).train["image"][0].tobytes()
    assert len(set(drawn)) > 1
    assert (draw_masks(data, 2, 0).num_shots, draw_masks(data, 2, 0).amount) == (2, "2 images")
    with pytest.raises(ValueError, match="scenes has 4 training images, 5 were asked for"):
        draw_masks(data, 5, 0)


def test_methods_of_another_task_are_refused(clip, data, tmp_path):
    for method in (ZeroShot(), PromptLearning("coop")):
        with pytest.raises(ValueError, match="classifies whole images, and scenes has a class for each pixel"):
            segmentation(clip, data, [method], tmp_path)
    for method in methods():
        assert not method.takes_part_in("few-shot")
    with pytest.raises(ValueError, match="DenseCLIP takes no part in 'few-shot'"):
        PromptLearning("dense_clip").for_protocol("few-shot")


def test_scores_of_a_perfect_answer_and_of_a_class_that_is_nowhere(clip, data):
    class Knows(Segmenter):
        def segment(self, image):
            return answers.pop(0)

    from peft_coop.data import MaskRows

    rows = MaskRows(data.test.select([0]), data.values)
    labels = rows[0][1]
    answers = [np.where(labels == 255, 0, labels)]
    scores = pixel_scores(
        Knows(torch.nn.Identity(), clip, WINDOWS, data.class_names), data.test.select([0]), data.values
    )
    assert scores["mean_iou"] == scores["overall_accuracy"] == 1
    there = set(np.unique(labels)) - {255}
    assert [value is not None for value in scores["per_category_iou"]] == [index in there for index in range(13)]
