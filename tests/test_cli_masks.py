"""`train`, `evaluate`, `predict` and `benchmark` with images whose pixels have a class each."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor

from peft_coop import demo
from peft_coop.cli.main import main
from peft_coop.demo import load_scene_task

SMALL = ["--crop-size", "48", "--set", "head_channels=8", "--set", "decoder_width=8"]
QUICK = ["--epochs", "1", "--batch-size", "2"]

pytestmark = pytest.mark.filterwarnings("ignore:This vision tower has 4 layers:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some of the demo's scenes in ADE20K's layout."""
    task, place = load_scene_task("scenes"), tmp_path_factory.mktemp("rooms") / "rooms"
    for split, images in {"training": task.train.select(range(4)), "validation": task.test.select(range(2))}.items():
        for kind, column in (("images", "image"), ("annotations", "mask")):
            (place / kind / split).mkdir(parents=True)
            for index, picture in enumerate(images[column]):
                picture.save(place / kind / split / f"{index}.png")
    lines = [f"{number}\t1\t{name}" for number, name in enumerate(task.class_names, start=1)]
    (place / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tName", *lines]), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """An adapter that `train` has made."""
    output = tmp_path_factory.mktemp("adapter") / "scenes"
    arguments = ["train", "--data", f"masks:{folder}", "--output", str(output), "--quiet"]
    assert main([*arguments, *SMALL, *QUICK]) == 0
    return output


def test_train_saves_the_adapter_its_scores_and_its_card(trained):
    scores = json.loads((trained / "scores.json").read_text(encoding="utf-8"))
    assert 0 <= scores["mean_iou"] <= 1
    assert 0 <= scores["zero_shot_mean_iou"] <= 1
    assert (scores["num_train"], scores["num_examples"], len(scores["per_category_iou"])) == (4, 2, 13)
    assert scores["summary"]["splits"]["train"]["images"] == 4
    assert json.loads((trained / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"] == "DENSE_CLIP"
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert "image-segmentation" in card
    assert "Mean iou" in card


def test_evaluate_measures_what_train_has_and_draws_score_maps(trained, folder, capsys, tmp_path):
    picture = tmp_path / "maps.png"
    arguments = ["evaluate", "--adapter", str(trained), "--data", f"masks:{folder}", "--json", "--quiet"]
    assert main([*arguments, "--score-maps", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mean_iou"] == json.loads((trained / "scores.json").read_text(encoding="utf-8"))["mean_iou"]
    with Image.open(picture) as drawn:
        assert min(drawn.size) > 500
    assert main([*arguments, "--score-maps", str(picture)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_evaluate_without_an_adapter_is_clip_patch_by_patch(folder, capsys):
    arguments = ["evaluate", "--data", f"masks:{folder}", "--per-class", "--crop-size", "48", "--quiet"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "zero-shot demo, patch by patch, 'a photo of a {}.'" in text
    assert "red circle" in text
    assert main([*arguments, "--flip-test", "--multi-scale"]) == 0
    assert capsys.readouterr().out != text


def test_predict_writes_a_mask_that_can_be_read_again_and_a_picture(trained, folder, capsys, tmp_path):
    image, broken = folder / "images" / "validation" / "0.png", tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    arguments = ["predict", "--adapter", str(trained), str(image), str(broken), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--json", "--quiet"]) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "Pillow knows no such image format" in lines[1]["error"]
    with Image.open(lines[0]["mask"]) as mask, Image.open(lines[0]["overlay"]) as overlay:
        assert mask.size == (96, 96)
        counts = np.bincount(np.asarray(mask).ravel(), minlength=13) / 96**2
        assert overlay.width >= 96
        assert overlay.height > 96
    config = json.loads((trained / "adapter_config.json").read_text(encoding="utf-8"))
    names = config["class_names"]
    assert lines[0]["shares"] == {names[label]: counts[label] for label in range(13) if counts[label]}
    assert list(lines[0]["shares"].values()) == sorted(lines[0]["shares"].values(), reverse=True)
    assert main([*arguments, "--quiet"]) == 2
    assert "0.mask.png is there already" in capsys.readouterr().err


@pytest.mark.usefixtures("figures_are_not_drawn")
def test_benchmark_compares_three_ways_and_goes_on(folder, capsys, tmp_path, optimizer_steps):
    arguments = ["benchmark", "segmentation", "--data", f"masks:{folder}", "--output", str(tmp_path), "--seeds", "1"]
    arguments += [*SMALL, *QUICK, "--num-images", "2", "--quiet"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "Segmentation: % on rooms, model demo" in text
    for name in ("zero-shot CLIP, patch by patch", "the same head, without text", "DenseCLIP"):
        assert name in text
    taken = optimizer_steps.taken
    assert taken == 2
    assert main(arguments) == 0
    assert optimizer_steps.taken == taken
    assert main([*arguments, "--dry-run"]) == 0
    assert "DenseCLIP" in capsys.readouterr().out


WRONG = {
    "method": (
        ["train", "--method", "coop", "--data", "demo:scenes", "--output", "X"],
        "CoOp gives an image one class, and these images",
    ),
    "data": (
        ["train", "--method", "dense_clip", "--data", "demo:digits", "--output", "X"],
        "DenseCLIP gives each pixel a class: --data must be masks:PATH or demo:scenes, got 'demo:digits'",
    ),
    "augment": (
        ["train", "--method", "dense_clip", "--data", "demo:scenes", "--output", "X", "--augment"],
        "--augment is for images with one class each",
    ),
    "shots": (
        ["train", "--method", "dense_clip", "--data", "demo:scenes", "--output", "X", "--shots", "4"],
        "--shots 4 are images of each class, and these show several: give --num-images",
    ),
    "the default, asked for": (
        ["train", "--data", "demo:scenes", "--output", "X", "--shots", "16"],
        "--shots 16 are images of each class, and these show several: give --num-images, or nothing for all",
    ),
    "all shots": (
        ["train", "--data", "demo:scenes", "--output", "X", "--shots", "all"],
        "--shots all are images of each class, and these show several: give --num-images, or nothing for all",
    ),
    "crop of images": (
        ["train", "--data", "demo:digits", "--output", "X", "--crop-size", "48"],
        "--crop-size is for images with masks (masks:PATH or demo:scenes), and not for demo:digits",
    ),
    "maps of images": (
        ["evaluate", "--data", "demo:digits", "--score-maps", "X.png"],
        "--score-maps is for images with masks (masks:PATH or demo:scenes), and not for demo:digits",
    ),
    "crop": (
        ["train", "--method", "dense_clip", "--data", "SCENES", "--output", "X", "--crop-size", "50"],
        "--crop-size must be a multiple of the patches' 12 pixels, 24 or more, got 50",
    ),
    "benchmark": (
        ["benchmark", "segmentation", "--data", "demo:scenes", "--output", "X", "--methods", "coop"],
        "CoOp gives an image one class",
    ),
    "pixels": (
        ["benchmark", "few-shot", "--data", "demo:digits", "--output", "X", "--methods", "dense_clip"],
        "DenseCLIP takes no part in 'few-shot'",
    ),
    "images": (
        ["benchmark", "segmentation", "--data", "demo:digits", "--output", "X"],
        "Images with masks are masks:PATH or demo:scenes, got 'demo:digits'",
    ),
    "masks": (
        ["benchmark", "few-shot", "--data", "demo:scenes", "--output", "X"],
        "has images with a class for each pixel",
    ),
    "confusion": (
        ["evaluate", "--data", "demo:scenes", "--confusion-matrix"],
        "--confusion-matrix is for images with one class each",
    ),
    "output": (["predict", "--class-names", "a", "--output", "X", "IMAGE", "--top-k", "1"], "There is no file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_combinations_that_make_no_sense_are_refused(case, folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[case]
    arguments = [f"masks:{folder}" if argument == "SCENES" else argument for argument in arguments]
    assert main([*arguments, "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_adapters_of_another_task_are_refused(trained, folder, capsys, tmp_path):
    image = str(folder / "images" / "validation" / "0.png")
    of_one_class = ["--top-k", "2", "--output", str(tmp_path / "masks")]
    assert main(["predict", "--adapter", str(trained), image, *of_one_class, "--quiet"]) == 2
    assert "--top-k is for images with one class each" in capsys.readouterr().err
    assert main(["predict", "--adapter", str(trained), image, "--quiet"]) == 2
    assert "gives each pixel a class: --output names the folder" in capsys.readouterr().err
    assert main(["evaluate", "--adapter", str(trained), "--data", "demo:digits", "--quiet"]) == 2
    assert "is for the pixels of images, and not for whole images" in capsys.readouterr().err
    coop = tmp_path / "coop"
    arguments = ["train", "--data", "demo:digits", "--shots", "1", "--epochs", "1", "--output", str(coop), "--quiet"]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["evaluate", "--adapter", str(coop), "--data", f"masks:{folder}", "--quiet"]) == 2
    assert "is for whole images, and not for the pixels of images" in capsys.readouterr().err
    assert main(["predict", "--adapter", str(coop), image, "--flip-test", "--quiet"]) == 2
    assert "--flip-test is for images with masks" in capsys.readouterr().err
    assert main(["predict", "--adapter", str(coop), image, "--output", str(tmp_path / "out"), "--quiet"]) == 2
    assert "--output is for adapters that give each pixel a class" in capsys.readouterr().err


def test_train_goes_on_where_it_was_stopped_and_with_the_same_options_only(
    trained, folder, capsys, tmp_path, optimizer_steps
):
    arguments = ["train", "--data", f"masks:{folder}", "--output", str(tmp_path / "again"), "--quiet", *SMALL, *QUICK]
    optimizer_steps.interrupted = 2
    assert main(arguments) == 130
    assert main([*arguments, "--crop-size", "60"]) == 2
    assert "holds an unfinished training with --crop-size 48, asked for is 60" in capsys.readouterr().err
    assert main(arguments) == 0
    assert optimizer_steps.taken == 2
    scores = [json.loads((place / "scores.json").read_text("utf-8")) for place in (trained, tmp_path / "again")]
    assert scores[0]["per_category_iou"] == scores[1]["per_category_iou"]


def test_a_graph_gives_the_adapters_logits_and_its_miou(trained, folder, tmp_path, capsys):
    """Of squares as large as those of the training; images are read in windows of them."""
    place, data = tmp_path / "graph", ["--data", f"masks:{folder}", "--quiet"]
    assert main(["export", "--format", "onnx", "--precision", "int8", str(trained), str(place), *data]) == 0
    first, full, int8 = capsys.readouterr().out.splitlines()
    assert first == f"Wrote {place}: 13 classes."
    mean_iou = json.loads((trained / "scores.json").read_text(encoding="utf-8"))["mean_iou"]
    assert full.startswith("onnx/model.onnx\tfloat32\t")
    assert full.endswith(f"\tmIoU {100 * mean_iou:.1f}%")
    assert int8.startswith("onnx/model_quantized.onnx\tint8\t")

    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["image_size"], config["id2label"]["1"]) == (
        "segformer",
        48,
        "brown background",
    )
    session = onnxruntime.InferenceSession(str(place / "onnx" / "model.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 3, 48, 48]
    model = PeftModel.from_pretrained(demo.load_clip(), trained).eval()
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(batch))
        [found] = session.run(None, {"pixel_values": pixels.numpy()})
        with torch.no_grad():
            expected = model(pixel_values=pixels).logits
        assert expected.shape[:2] == (batch, 13)
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)
    processor = AutoImageProcessor.from_pretrained(place)
    assert processor(Image.new("RGB", (70, 60)), return_tensors="pt")["pixel_values"].shape == (1, 3, 48, 48)
