"""transformers' pipelines, on images whose answer is forced."""

import logging
from copy import deepcopy

import pytest
import torch
from conftest import make_clip
from peft import get_peft_model
from PIL import Image
from transformers import CLIPImageProcessor, ImageClassificationPipeline, ViTConfig, ViTForImageClassification, pipeline

from peft_coop import CoCoOpConfig, CoOpConfig

COLOURS = ["red", "lime", "blue"]
METHODS = {"coop": CoOpConfig(n_ctx=4), "cocoop": CoCoOpConfig(meta_net_reduction=4)}

every_method = pytest.mark.parametrize("method", METHODS)


def picture(colour: str, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (20, 20), colour).convert(mode)


@pytest.fixture(scope="module")
def image_processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@torch.no_grad()
def force_answers(model, image_processor) -> None:
    """Choose the visual projection that turns the picture of each colour into the text feature of its name."""
    for name, parameter in model.named_parameters():
        if "meta_net_linear2" in name:
            parameter.mul_(0.01)
    pixel_values = image_processor([picture(colour) for colour in COLOURS], return_tensors="pt")["pixel_values"]
    pooled = model.vision_model(pixel_values).pooler_output
    embeds = model.get_image_features(pixel_values).pooler_output
    texts = model.get_text_features(torch.nn.functional.normalize(embeds)).pooler_output
    targets = texts if texts.ndim == 2 else texts.diagonal().T
    model.visual_projection.weight.copy_(torch.linalg.lstsq(pooled, targets).solution.T)
    assert model(pixel_values=pixel_values).logits.argmax(-1).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def forced(tokenizer_path, image_processor) -> dict:
    models = {}
    for method, config in METHODS.items():
        torch.manual_seed(0)
        settings = config.to_dict() | {"class_names": COLOURS, "tokenizer_name_or_path": tokenizer_path}
        models[method] = get_peft_model(make_clip(), CoOpConfig(**settings)).eval()
        force_answers(models[method], image_processor)
    return models


@pytest.fixture
def model(forced, method):
    return deepcopy(forced[method])


@pytest.fixture
def classify(model, image_processor):
    return pipeline("image-classification", model=model, image_processor=image_processor)


@pytest.fixture
def compare(model, image_processor, tokenizer):
    return pipeline("zero-shot-image-classification", model=model, image_processor=image_processor, tokenizer=tokenizer)


def best(answers: list[list[dict]]) -> list[str]:
    return [answer[0]["label"] for answer in answers]


def by_label(answer: list[dict]) -> dict[str, float]:
    return {each["label"]: each["score"] for each in answer}


def same(scores: dict[str, float]):
    return pytest.approx(scores, abs=1e-4)


@torch.no_grad()
def own_scores(model, image_processor, image: Image.Image) -> dict[str, float]:
    """What the model itself says of an image."""
    logits = model(**image_processor(image, return_tensors="pt")).logits
    return dict(zip(model.class_names, logits.softmax(-1)[0].tolist(), strict=True))


@every_method
def test_image_classification(model, classify, image_processor):
    pictures = [picture(colour) for colour in COLOURS]
    answers = classify(pictures)
    assert best(answers) == COLOURS
    assert by_label(answers[1]) == same(own_scores(model, image_processor, pictures[1]))
    assert [len(answer) for answer in classify(pictures, top_k=2)] == [2, 2, 2]
    assert best(classify(pictures, top_k=1, batch_size=2)) == COLOURS


@every_method
@pytest.mark.parametrize("batch_size", [1, 3, 4, 8])
def test_batches_of_more_images_than_classes(model, classify, image_processor, batch_size):
    pictures = [picture(colour) for colour in [*COLOURS, *COLOURS[::-1], "lime"]]
    answers = classify(pictures, batch_size=batch_size)
    for image, answer in zip(pictures, answers, strict=True):
        assert by_label(answer) == same(own_scores(model, image_processor, image))


@every_method
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_image_modes(model, classify, compare, image_processor, mode):
    image = picture("lime", mode)
    expected = own_scores(model, image_processor, image.convert("RGB"))
    assert by_label(classify(image)) == same(expected)
    assert by_label(compare(image, candidate_labels=COLOURS, hypothesis_template="{}.")) == same(expected)


@every_method
def test_labels_follow_the_active_adapter(model, classify):
    """The second adapter has learned the same, and has other classes in another order."""
    names = ["cat", *COLOURS[::-1]]
    model.add_adapter("second", CoOpConfig(**model.peft_config["default"].to_dict() | {"class_names": names}))
    parameters = dict(model.named_parameters())
    for name in [name for name in parameters if ".learned_prompts.second." in name]:
        parameters[name].data.copy_(parameters[name.replace(".second", ".default")])
    pictures = [picture(colour) for colour in COLOURS]
    for adapter, labels in (("second", names), ("default", COLOURS)):
        model.set_adapter(adapter)
        answers = classify(pictures)
        assert best(answers) == COLOURS
        assert by_label(answers[0]).keys() == set(labels)


@every_method
def test_set_classes(model, classify, image_processor):
    model.set_classes(["blue", "something else", "red", "lime", "cat"])
    pictures = [picture(colour) for colour in COLOURS]
    for image, answer in zip(pictures, classify(pictures), strict=True):
        assert by_label(answer) == same(own_scores(model, image_processor, image))
    model.set_classes(COLOURS[::-1])
    assert best(classify(pictures)) == COLOURS


@every_method
def test_disabled_adapter_is_zero_shot_clip(model, classify, compare, image_processor, tokenizer):
    clip = deepcopy(model).unload()
    plain = pipeline("zero-shot-image-classification", model=clip, image_processor=image_processor, tokenizer=tokenizer)
    image = picture("blue")
    expected = by_label(plain(image, candidate_labels=COLOURS, hypothesis_template="a photo of a {}."))
    learned = by_label(classify(image))
    with model.disable_adapter():
        assert by_label(classify(image)) == same(expected)
        with_labels = compare(image, candidate_labels=COLOURS, hypothesis_template="a photo of a {}.")
        assert by_label(with_labels) == same(expected)
    assert by_label(classify(image)) == learned != same(expected)


@every_method
def test_labels_named_at_call_time(model, compare, classify):
    pictures = [picture(colour) for colour in COLOURS]
    answers = compare(pictures, candidate_labels=COLOURS[::-1], hypothesis_template="{}.")
    assert best(answers) == COLOURS
    assert by_label(answers[2]) == same(by_label(classify(pictures[2])))
    others = ["a long name that nobody has trained", "kite (bird of prey)", "cat"]
    model.set_classes(others)
    answer = compare(pictures[0], candidate_labels=others, hypothesis_template="{}.")
    assert by_label(answer) == same(by_label(classify(pictures[0])))


def test_other_models_are_served_as_before(image_processor):
    """The pipeline that serves prompts stands in transformers' list for every model."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = ViTConfig(image_size=16, patch_size=8, num_labels=3, **vision)
    torch.manual_seed(0)
    vit = ViTForImageClassification(config).eval()
    classify = pipeline("image-classification", model=vit, image_processor=image_processor)
    assert isinstance(classify, ImageClassificationPipeline)
    pictures = [picture(colour) for colour in COLOURS]
    plain = ImageClassificationPipeline(model=vit, image_processor=image_processor)
    assert classify(pictures, batch_size=2) == plain(pictures, batch_size=2)


@pytest.mark.parametrize("method", ["coop"])
def test_pipelines_support_the_model(model, image_processor, tokenizer):
    """Else transformers writes an error line that lists the classes that it knows."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        pipeline("image-classification", model=model, image_processor=image_processor)
        pipeline("zero-shot-image-classification", model=model, image_processor=image_processor, tokenizer=tokenizer)
    finally:
        logger.removeHandler(handler)
    assert lines == []
