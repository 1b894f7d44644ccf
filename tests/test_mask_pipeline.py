"""transformers' image segmentation pipeline with a prompt that classifies pixels."""

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import AutoImageProcessor, ImageSegmentationPipeline, pipeline

from peft_coop import DenseCLIPConfig
from peft_coop.data import mask_image_processor
from peft_coop.demo import load_clip, load_processor

NAMES = ["red circle", "blue star", "grey background"]
SIZES = [(96, 96), (60, 80), (130, 50)]


@pytest.fixture(scope="module")
def processor():
    return mask_image_processor(load_processor().image_processor, {"height": 48, "width": 48})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = DenseCLIPConfig(class_names=NAMES, head_channels=8, decoder_width=16, out_indices=(0, 1, 2, 3))
    return get_peft_model(load_clip(), config).eval()


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in SIZES
    ]


@torch.no_grad()
def by_hand(model, processor, image) -> np.ndarray:
    """Squeezed to the processor's size, and the logits back to the image's."""
    pixels = processor([image], return_tensors="pt")["pixel_values"]
    logits = model(pixel_values=pixels).logits
    return torch.nn.functional.interpolate(logits, image.size[::-1], mode="bilinear").argmax(1)[0].numpy()


def labels_of(answer, size) -> np.ndarray:
    """The classes of the masks of an answer, which share no pixel and leave none out."""
    labels = np.full(size[::-1], -1)
    for each in answer:
        assert each["mask"].size == size
        own = np.asarray(each["mask"]) == 255
        assert (labels[own] == -1).all()
        labels[own] = NAMES.index(each["label"])
    assert (labels >= 0).all()
    return labels


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("saved", [False, True])
def test_the_pipeline_gives_a_mask_of_each_class(model, processor, images, batch_size, saved, tmp_path):
    """Also of an adapter from disk, with the image processor that was saved beside it."""
    expected = [by_hand(model, processor, image) for image in images]
    assert len(np.unique(np.concatenate([each.ravel() for each in expected]))) > 1
    if saved:
        for each in (model, processor):
            each.save_pretrained(tmp_path)
        model = PeftModel.from_pretrained(load_clip(), tmp_path).eval()
        processor = AutoImageProcessor.from_pretrained(tmp_path)
    pipe = pipeline("image-segmentation", model=model, image_processor=processor, device="cpu")
    assert type(pipe) is ImageSegmentationPipeline
    for image, answer, labels in zip(images, pipe(images, batch_size=batch_size), expected, strict=True):
        assert np.array_equal(labels_of(answer, image.size), labels)
