"""What a prompt decides by: kept with it, dropped with its classes, and chosen by `peft-coop calibrate`."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import make_clip
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import CLIPImageProcessor, pipeline

import peft_coop
from peft_coop import CoCoOpConfig, CoOpConfig, DenseCLIPConfig, VideoPromptConfig
from peft_coop.cli.main import main
from peft_coop.data import load_data
from peft_coop.demo import load_clip, load_task
from peft_coop.evaluation import how_drawn
from peft_coop.evaluation.protocol_runs import Pool

NAMES = ["cat", "dog", "bird"]
OTHERS = ["a texture", "a blank image"]


@pytest.fixture(params=[CoOpConfig, CoCoOpConfig], ids=["coop", "cocoop"])
def model(request, tokenizer_path):
    torch.manual_seed(0)
    config = request.param(class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
    return get_peft_model(make_clip().double(), config).eval()


@pytest.fixture
def pixels():
    return torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_probabilities_are_at_the_temperature_and_logits_are_not(model, pixels):
    logits = model(pixel_values=pixels).logits
    model.set_decision(calibration_temperature=2.5)
    assert torch.equal(model(pixel_values=pixels).logits, logits)
    torch.testing.assert_close(model.probabilities(pixel_values=pixels), (logits / 2.5).softmax(-1), atol=1e-9, rtol=0)
    with model.disable_adapter():
        zero_shot = model(pixel_values=pixels).logits
        torch.testing.assert_close(model.probabilities(pixel_values=pixels), zero_shot.softmax(-1), atol=1e-9, rtol=0)


def test_other_names_add_up(model, pixels):
    every = model(pixel_values=pixels, class_names=[*NAMES, *OTHERS]).logits
    torch.testing.assert_close(every[:, :3], model(pixel_values=pixels).logits, atol=1e-9, rtol=0)
    model.set_decision(calibration_temperature=1.5, other_names=OTHERS)
    probabilities = (every / 1.5).softmax(-1)
    expected = torch.cat([probabilities[:, :3], probabilities[:, 3:].sum(-1, keepdim=True)], dim=-1)
    torch.testing.assert_close(model.probabilities(pixel_values=pixels), expected, atol=1e-9, rtol=0)
    assert model.class_names == NAMES


def test_classes_of_a_call(model, pixels):
    before = model(pixel_values=pixels).logits
    other = model(pixel_values=pixels, class_names=["fish", "cat"], labels=[1, 0, 0, 1])
    assert other.logits.shape == (4, 2)
    torch.testing.assert_close(other.logits[:, 1], before[:, 0], atol=1e-9, rtol=0)
    expected = torch.nn.functional.cross_entropy(other.logits, torch.tensor([1, 0, 0, 1]))
    torch.testing.assert_close(other.loss, expected, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="`class_names` and `adapter_names` both choose the classes"):
        model(pixel_values=pixels, class_names=["fish"], adapter_names=["default"] * 4)


def test_what_is_decided_by_is_saved(model, tmp_path):
    model.set_decision(1.5, 0.4, OTHERS)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path)
    assert loaded.decision == {"calibration_temperature": 1.5, "min_probability": 0.4, "other_names": OTHERS}
    model.set_decision()
    assert set(model.decision.values()) == {None}


def test_an_untouched_adapter_is_saved_without(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert (
        not {"calibration_temperature", "min_probability", "other_names"}
        & json.loads((tmp_path / "adapter_config.json").read_text()).keys()
    )


def test_other_classes_drop_what_was_chosen_for_the_old_ones(model):
    model.set_decision(1.5, 0.4)
    model.set_classes(NAMES[::-1])
    assert model.decision["calibration_temperature"] == 1.5
    with pytest.warns(
        UserWarning, match=r"is dropped: `calibration_temperature` 1\.5, `min_probability` 0\.4\. Fit it to the new"
    ):
        model.set_classes(["fish", "cat", "dog"])
    assert set(model.decision.values()) == {None}
    assert model.active_peft_config.calibration_temperature is None


def test_classes_that_are_refused_drop_nothing(tokenizer_path):
    config = CoOpConfig(class_names=NAMES, class_specific_context=True, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config).eval()
    model.set_decision(1.5)
    with pytest.raises(ValueError, match="class-specific"):
        model.set_classes(["fish", "cat", "dog"])
    with pytest.raises(ValueError, match="class-specific"):
        model.set_decision(2.0, other_names=OTHERS)
    assert model.decision["calibration_temperature"] == 1.5


@pytest.mark.parametrize(
    "names, decision, message",
    [
        (NAMES, {"calibration_temperature": -1}, "`calibration_temperature` must be a finite number above 0, got -1"),
        (NAMES, {"other_names": ["cat"]}, "'cat' is one of them"),
        (["cat", "other"], {"min_probability": 0.5}, "One of the classes is called 'other'"),
        (NAMES, {"other_names": ["a " * 90]}, "tokens"),
        (
            NAMES,
            {"other_names": ["fish", "fish"]},
            "`other_names` have 'fish' more than once, and each adds to the prob",
        ),
        (NAMES, {"other_names": ["fish", "Cat"]}, "`other_names` have 'Cat', which reads as 'cat'"),
        (NAMES, {"other_names": ["a_fish", "a fish"]}, "`other_names` have 'a fish', which reads as 'a_fish'"),
    ],
)
def test_what_cannot_be_decided_by_leaves_the_model_alone(names, decision, message, tokenizer_path):
    model = get_peft_model(make_clip(), CoOpConfig(class_names=names, tokenizer_name_or_path=tokenizer_path))
    with pytest.raises(ValueError, match=message):
        model.set_decision(**decision)
    assert set(model.decision.values()) == {None}


def test_probabilities_are_of_the_adapters_own_classes(model, pixels):
    """Those of others were taken for its own and "other", and those of another adapter at this one's temperature."""
    model.add_adapter("second", model.active_peft_config)
    for name, value in (("class_names", ["cat", "dog"]), ("adapter_names", ["default", "second"] * 2)):
        with pytest.raises(ValueError, match=f"of the active adapter's own classes, .*: leave out `{name}`"):
            model.probabilities(pixel_values=pixels, **{name: value})
    without = model.probabilities(pixel_values=pixels)
    assert torch.equal(model.probabilities(pixel_values=pixels, labels=torch.tensor([0, 1, 2, 0])), without)


def test_a_decision_that_was_there_before_the_classes(tokenizer_path):
    settings = {"min_probability": 0.5, "other_names": OTHERS, "tokenizer_name_or_path": tokenizer_path}
    model = get_peft_model(make_clip(), CoOpConfig(**settings))
    with pytest.raises(ValueError, match="'a texture' is one of them"):
        model.set_classes(["cat", "a texture"])
    assert model.class_names is None
    model.set_classes(NAMES)
    assert (model.class_names, model.decision["other_names"]) == (NAMES, OTHERS)


def test_other_names_of_a_config_must_fit_the_prompt(tokenizer_path):
    base, settings = make_clip(), {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path}
    with pytest.raises(ValueError, match="class-specific"):
        get_peft_model(base, CoOpConfig(class_specific_context=True, other_names=OTHERS, **settings))
    assert type(base) is type(make_clip())
    for name, value in (("min_probability", 0.5), ("other_names", OTHERS)):
        with pytest.raises(ValueError, match=f"`{name}` is for what has one answer: no pixel is answered with 'other'"):
            DenseCLIPConfig(**{name: value}, **settings)


OF_FRAMES = {"num_frames": 2, "temporal_layers": 0, "n_prefix": 2, "n_suffix": 2}
SEVERAL = {"problem_type": "multi_label_classification", "min_probability": 0.0}


@pytest.mark.parametrize(
    ("kind", "settings", "answer"),
    [
        (CoOpConfig, {}, r"(cat|dog|bird)"),
        (CoOpConfig, {"min_probability": 1.0}, "other"),
        (CoOpConfig, SEVERAL, r"\['cat', 'dog', 'bird'\]"),
        (VideoPromptConfig, OF_FRAMES, r"(cat|dog|bird)"),
        (VideoPromptConfig, {**OF_FRAMES, "min_probability": 1.0}, "other"),
    ],
)
def test_the_example_of_a_card_answers_as_the_adapter_decides(
    kind, settings, answer, tokenizer_path, tmp_path, monkeypatch, capsys
):
    config = kind(class_names=NAMES, tokenizer_name_or_path=tokenizer_path, **settings)
    model = get_peft_model(make_clip(), config).eval()
    for name in ("image", "frame_0", "frame_1"):
        Image.new("RGB", (20, 16), "red").save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    names = {"model": model, "processor": processor, "Image": Image, "torch": torch, "peft_coop": peft_coop}
    exec(model.prompt_layer.prompt.task_head.example(config), names)
    assert re.fullmatch(answer, capsys.readouterr().out.strip())


def test_pipelines_are_at_the_temperature(model):
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    classify = pipeline("image-classification", model=model, image_processor=processor, dtype=torch.float64)
    image = Image.new("RGB", (16, 16), "red")
    pixels = {"pixel_values": processor(image, return_tensors="pt")["pixel_values"].double()}
    logits = model(**pixels).logits[0].tolist()
    model.set_decision(0.5, other_names=OTHERS)
    expected = model.probabilities(**pixels)[0].tolist()
    assert {each["label"]: each["score"] for each in classify(image)} == pytest.approx(
        dict(zip([*NAMES, "other"], expected, strict=True)), abs=1e-9
    )
    raw = {each["label"]: each["score"] for each in classify(image, function_to_apply="none")}
    assert raw == pytest.approx(dict(zip(NAMES, logits, strict=True)), abs=1e-9)
    assert [len(each) for each in classify([image, image], top_k=2)] == [2, 2]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Scanned digits in folders: 8 of each of four for validation and the test, and an adapter of three of them."""
    folder, task = tmp_path_factory.mktemp("digits"), load_task("digits")
    for split, images in {"train": task.train.select(range(40)), "val": task.train, "test": task.test}.items():
        counts = dict.fromkeys(("zero", "one", "two", "three"), 0)
        for row, label in enumerate(images["label"]):
            name = task.class_names[label]
            if counts.get(name, 8) < 8:
                counts[name] += 1
                path = folder / "data" / split / name / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                images[row]["image"].save(path)
    config = CoOpConfig(class_names=["one", "three", "two"], ctx_init="a photo of the digit", n_ctx=None)
    get_peft_model(load_clip(), config).save_pretrained(folder / "prompt")
    return folder


@pytest.fixture
def prompt(digits, tmp_path):
    """A copy of the adapter."""
    for file in (digits / "prompt").iterdir():
        (tmp_path / "prompt").mkdir(exist_ok=True)
        (tmp_path / "prompt" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "prompt"


def run(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def test_calibrate_then_evaluate_then_predict(digits, prompt, tmp_path, capsys):
    data, weights = f"folder:{digits / 'data'}", (prompt / "adapter_model.safetensors").read_bytes()
    before = json.loads((prompt / "adapter_config.json").read_text())
    pictures = [tmp_path / "reliability.png", tmp_path / "new" / "coverage.svg"]
    asked = ["--min-coverage", "0.5", "--reliability", pictures[0], "--coverage", pictures[1], "--json"]
    found = json.loads(run(capsys, "calibrate", prompt, "--data", data, *asked).out)
    saved = json.loads((prompt / "adapter_config.json").read_text())
    chosen = {"calibration_temperature": found["temperature"], "min_probability": found["min_probability"]}
    assert saved == before | chosen
    assert (prompt / "adapter_model.safetensors").read_bytes() == weights
    assert found["validation"]["num_examples"] == found["test"]["num_examples"] == found["unknown"]["num_examples"] * 3
    assert found["validation"]["after"]["nll"] < found["validation"]["before"]["nll"]
    assert 0.5 <= found["validation"]["after"]["coverage"] < 1
    with Image.open(pictures[0]) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert pictures[1].read_text().startswith("<?xml")

    known = tmp_path / "known"
    for split in ("train", "test"):
        (known / split).mkdir(parents=True)
        for name in ("one", "two", "three"):
            (known / split / name).symlink_to(digits / "data" / split / name)
    measured = json.loads(run(capsys, "evaluate", "--adapter", prompt, "--data", f"folder:{known}", "--json").out)
    assert measured["ece"] == pytest.approx(found["test"]["after"]["ece"], abs=1e-6)
    assert measured["coverage"] == found["test"]["after"]["coverage"]
    assert measured["accuracy_of_answers"] == found["test"]["after"]["accuracy"]
    told = run(capsys, "evaluate", "--adapter", prompt, "--data", data, "--json")
    assert "other classes than the adapter" in told.err
    assert "decision" not in json.loads(told.out)

    rows = [
        json.loads(row)
        for row in run(capsys, "predict", "--adapter", prompt, known / "test", "--json").out.splitlines()
    ]
    held_back = [row for row in rows if row["label"] == "other"]
    assert 1 - len(held_back) / len(rows) == pytest.approx(found["test"]["after"]["coverage"])
    assert 0 < len(held_back) < len(rows)
    for row in held_back:
        assert row["best_guess"]["probability"] < found["min_probability"]
    image, guess = held_back[0]["file"], held_back[0]["best_guess"]["label"]
    assert run(capsys, "predict", "--adapter", prompt, image).out.startswith(f"{image}\tother\t{guess} ")


def test_other_names_on_the_command_line(digits, prompt, capsys):
    image = next((digits / "data" / "test" / "zero").iterdir())
    asked = ["predict", "--adapter", prompt, image, "--json", "--other-names", "zero, a texture"]
    row = json.loads(run(capsys, *asked).out)
    assert (row["label"], row["best_guess"]["label"] in ("one", "two", "three")) == ("other", True)
    assert row["probability"] > row["best_guess"]["probability"]
    found = json.loads(
        run(capsys, "calibrate", prompt, "--data", f"folder:{digits / 'data'}", "--other-names", "zero", "--json").out
    )
    assert found["other_names"] == json.loads((prompt / "adapter_config.json").read_text())["other_names"] == ["zero"]
    saved = json.loads(run(capsys, "predict", "--adapter", prompt, image, "--json").out)
    assert saved["label"] == "other"
    zero_shot = run(capsys, "predict", "--class-names", "one", "two", "--other-names", "zero", "--json", "--", image)
    assert json.loads(zero_shot.out)["label"] == "other"


def test_training_images_that_were_not_drawn_are_for_validation(digits, prompt, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        (data / split).symlink_to(digits / "data" / ("val" if split == "train" else split))
    images = load_data(f"folder:{data}")
    arguments = ["calibrate", prompt, "--data", f"folder:{data}"]
    unknown = run(capsys, *arguments, code=2).err
    assert "nothing beside the adapter says which of the training images it has learned from" in unknown
    scores = {"drawn": how_drawn(images, 3, 1), "dataset": "data", "num_examples": 24, "accuracy": 0.5}
    (prompt / "scores.json").write_text(json.dumps(scores | {"macro_accuracy": 0.5, "ece": 0.5}))
    told = run(capsys, *arguments)
    assert "chosen with 15 training images that were not drawn (3 shots, seed 1)" in told.err
    ece = json.loads((prompt / "scores.json").read_text())["ece"]
    assert f"{100 * ece:.1f}%" in told.out
    assert ece != 0.5
    for drawn, message in (
        ({"shots": None}, "the adapter has seen all training ones"),
        ({"shots": 8}, "8 shots were all of its training images"),
        ({"pool": "another"}, "the adapter has not learned from these training images"),
    ):
        (prompt / "scores.json").write_text(json.dumps({"drawn": scores["drawn"] | drawn}))
        assert message in run(capsys, *arguments, code=2).err


def test_a_pool_is_known_by_its_labels(digits):
    images = load_data(f"folder:{digits / 'data'}")
    assert how_drawn(images, 2, 5) == {"shots": 2, "seed": 5, "pool": Pool.of(images).fingerprint}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "There is no folder 'nowhere'"),
        (["{prompt}", "--min-accuracy", "1.5"], "`min_accuracy` must be a fraction above 0 and at most 1"),
        (["{prompt}", "--other-names", "one"], "'one' is one of them"),
        (["{prompt}", "--other-names", "a texture,"], "empty"),
        (["{prompt}", "--reliability", "picture.txt"], "must end in .png or .pdf or .svg"),
        (["{prompt}", "--reliability", "a.png", "--coverage", "a.png"], "a.png is one file: give two names"),
    ],
)
def test_what_calibrate_refuses_changes_nothing(arguments, message, digits, prompt, capsys):
    before = (prompt / "adapter_config.json").read_bytes()
    arguments = [each.format(prompt=prompt) for each in arguments]
    assert message in run(capsys, "calibrate", *arguments, "--data", f"folder:{digits / 'data'}", code=2).err
    assert (prompt / "adapter_config.json").read_bytes() == before
