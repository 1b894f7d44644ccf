"""`peft-coop export`: what it writes and prints, and what it refuses."""

import re

import pytest
import torch
from peft import get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForImageClassification

from peft_coop import CoCoOpConfig, CoOpConfig, demo
from peft_coop.cli.main import main
from peft_coop.demo import load_task
from peft_coop.evaluation.exported import image_accuracy


@pytest.fixture(scope="module")
def names():
    return load_task("shapes").class_names


@pytest.fixture(scope="module")
def adapter(names, tmp_path_factory):
    """A saved prompt, and the logits of a picture of noise."""
    torch.manual_seed(0)
    model = get_peft_model(demo.load_clip(), CoOpConfig(ctx_init="a photo of a", class_names=names)).eval()
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    with torch.no_grad():
        return str(folder), model(pixel_values=noise()).logits


def noise():
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def run(capsys, *arguments, code=0):
    assert main(["export", *map(str, arguments)]) == code
    return capsys.readouterr()


def test_classes(adapter, names, tmp_path, capsys):
    out = run(capsys, "--format", "classes", adapter[0], tmp_path / "shapes.safetensors").out
    assert re.fullmatch(rf"Wrote .*shapes\.safetensors: {len(names)} classes, \d+\.\d kB\.\n", out)
    assert load_file(tmp_path / "shapes.safetensors")["class_embeds"].shape[0] == len(names)


def test_a_classifier_has_the_prompts_accuracy(adapter, names, tmp_path, capsys):
    """Beside the file stands its size."""
    data = ("--data", "demo:shapes", "--quiet")
    out = run(capsys, "--format", "classifier", adapter[0], tmp_path / "plain", *data).out
    first, second = out.splitlines()
    assert re.fullmatch(rf"Wrote .*plain: {len(names)} classes, \d\.\d MB\.", first)
    accuracy = re.fullmatch(r"Accuracy on shapes: (\d+\.\d)%\.", second)[1]
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(loaded(noise()).logits, adapter[1], atol=1e-4, rtol=0)
    assert (tmp_path / "plain" / "preprocessor_config.json").is_file()
    assert main(["evaluate", "--adapter", adapter[0], *data]) == 0
    assert accuracy in capsys.readouterr().out


def test_other_is_none_of_the_classes_that_are_counted(tmp_path, capsys):
    config = CoOpConfig(n_ctx=4, class_names=["cat", "dog"], other_names=["car", "ship"])
    get_peft_model(demo.load_clip(), config).save_pretrained(tmp_path / "adapter")
    for kind in ("classes", "classifier"):
        assert ": 2 classes, " in run(capsys, "--format", kind, tmp_path / "adapter", tmp_path / kind).out


def test_accuracy_is_measured_with_all_that_the_image_processor_gives():
    """In batches of the size that was asked for."""
    test = load_task("digits").test.select(range(7))
    processor = demo.load_processor().image_processor
    given = []

    class Masked(type(processor)):
        def __call__(self, images, **settings):
            return {**super().__call__(images, **settings), "pixel_attention_mask": torch.ones(len(images), 4)}

    def answers(pixel_values, pixel_attention_mask):
        given.append(len(pixel_attention_mask))
        best = torch.zeros(len(pixel_values), 10)
        best[:, test["label"][0]] = 1
        return best.numpy()

    found = image_accuracy(answers, test, Masked(**processor.to_dict()), batch_size=3)
    assert found == pytest.approx(test["label"].count(test["label"][0]) / 7)
    assert given == [3, 3, 1]


def test_what_is_there_stays(adapter, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    for kind in ("classes", "classifier", "onnx"):
        told = run(capsys, "--format", kind, adapter[0], tmp_path / "mine", code=2).err
        assert "is there already: give another name" in told
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--format", "classes", "--data", "demo:shapes"), "a matrix of classes reads no images"),
        (("--format", "classifier", "--precision", "int8"), "--precision is for --format onnx"),
        (("--format", "classifier", "--data", "demo:digits"), "accuracy needs the same in the same order"),
        (("--format", "onnx", "--data", "demo:motion"), "is for whole images: --data must be folder:PATH"),
        (("--format", "onnx", "--data", "demo:scenes", "--crop-size", "48"), "--crop-size is for images with masks"),
        (("--format", "onnx", "--clips", "2"), "--clips says how to measure: give --data, too"),
        (
            ("--format", "classifier", "--data", "demo:shapes", "--clips", "2"),
            "--clips is for videos (videos:PATH or demo:motion), and not for demo:shapes",
        ),
    ],
)
def test_options_that_do_not_go_together(adapter, tmp_path, capsys, arguments, told):
    assert told in run(capsys, *arguments, adapter[0], tmp_path / "out", code=2).err
    assert not (tmp_path / "out").exists()


def test_images_with_any_number_of_labels_have_no_such_accuracy(tmp_path, capsys):
    names = load_task("colours").class_names
    config = CoOpConfig(class_names=names, n_ctx=4, problem_type="multi_label_classification")
    get_peft_model(demo.load_clip(), config).save_pretrained(tmp_path / "adapter")
    folders = (tmp_path / "adapter", tmp_path / "out")
    told = run(capsys, "--format", "classifier", *folders, "--data", "demo:colours", code=2).err
    assert "has images with any number of labels" in told
    assert not (tmp_path / "out").exists()
    assert "8 classes" in run(capsys, "--format", "classifier", *folders).out


def test_a_prompt_that_looks_at_images_is_no_matrix(tmp_path, capsys):
    config = CoCoOpConfig(class_names=["cat", "dog"], n_ctx=4)
    get_peft_model(demo.load_clip(), config).save_pretrained(tmp_path / "adapter")
    for kind in ("classes", "classifier"):
        told = run(capsys, "--format", kind, tmp_path / "adapter", tmp_path / "out", code=2).err
        assert "reads them anew for each image" in told
        assert "can be a graph: `peft-coop export --format onnx`" in told
    assert not (tmp_path / "out").exists()
