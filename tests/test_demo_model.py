"""The CLIP that ships with the package: it loads, and it knows something."""

from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPProcessor

from peft_coop.demo import MODEL_PATH, load_clip, load_processor, load_task
from peft_coop.demo.drawing import HELD_OUT
from peft_coop.demo.task_images import DIGIT_WORDS


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return load_clip()


@pytest.fixture(scope="module")
def processor() -> CLIPProcessor:
    return load_processor()


def test_weights_are_small_and_float32(clip):
    assert (Path(MODEL_PATH) / "model.safetensors").stat().st_size <= 6_000_000
    assert {p.dtype for p in clip.parameters()} == {torch.float32}
    assert not clip.training


def test_loads_by_path_in_every_usual_way():
    assert isinstance(CLIPModel.from_pretrained(MODEL_PATH), CLIPModel)
    assert isinstance(CLIPProcessor.from_pretrained(MODEL_PATH), CLIPProcessor)
    image_processor = AutoImageProcessor.from_pretrained(MODEL_PATH)
    assert dict(image_processor.crop_size) == {"height": 48, "width": 48}
    assert (
        AutoTokenizer.from_pretrained(MODEL_PATH)("red star").input_ids
        == load_processor().tokenizer("red star").input_ids
    )


def test_config_has_the_tokenizers_ids(clip, processor):
    config, tokenizer = clip.config.text_config, processor.tokenizer
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.eos_token_id == tokenizer.eos_token_id != 2
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.vocab_size == len(tokenizer)
    assert config.max_position_embeddings == tokenizer.model_max_length == 40


@pytest.mark.parametrize("text", ["a photo of a red star.", "kite (bird of prey)", "naïve 東京 🙂"])
def test_tokenizer_gives_any_text_back(processor, text):
    ids = processor.tokenizer(text).input_ids
    assert ids[0] == processor.tokenizer.bos_token_id
    assert ids[-1] == processor.tokenizer.eos_token_id
    without_spaces = processor.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
    assert without_spaces == text.replace(" ", "")


def test_class_names_are_few_tokens(processor):
    names = [f"{colour} {shape}" for colour, shape in HELD_OUT] + DIGIT_WORDS
    assert max(len(ids) for ids in processor.tokenizer([f"{name}." for name in names]).input_ids) <= 5


@pytest.mark.parametrize(("name", "at_least"), [("shapes", 0.40), ("digits", 0.45)])
@torch.no_grad()
def test_zero_shot_is_clearly_above_chance(clip, processor, name, at_least):
    """Chance is 0.05 and 0.10; measured figures are in examples/demo_pretraining/README.md."""
    task = load_task(name)
    some = task.test.select(range(0, len(task.test), 3))
    prompts = [task.zero_shot_template.format(class_name) for class_name in task.class_names]
    inputs = processor(text=prompts, images=list(some["image"]), padding=True, return_tensors="pt")
    predicted = clip(**inputs).logits_per_image.argmax(dim=1)
    accuracy = (predicted == torch.tensor(some["label"])).float().mean().item()
    assert accuracy >= at_least
