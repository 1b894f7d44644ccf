"""Images are cut as torchvision cuts them, which is how the original prepares its pictures."""

import math

import numpy as np
import pytest
import torch
from conftest import make_clip
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Picture
from transformers import AutoImageProcessor, SiglipImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from peft_coop.data import features as kept
from peft_coop.data import preparation, prepare_images, with_image_embeds
from peft_coop.data.preparation import center_crop_box, normalise
from peft_coop.demo import MODEL_PATH
from peft_coop.evaluation import FrozenCLIP
from peft_coop.evaluation.baselines.training_pixels import training_pixels

# Where torchvision 0.29 begins a central crop, by what is left over beside it; it pads where the crop is larger.
TORCHVISION = {-5: -2, -4: -2, -3: -1, -2: -1, -1: 0, 0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 2, 6: 3, 7: 4, 8: 4, 111: 56}


class OwnProcessor(CLIPImageProcessorPil):
    """A class of one's own, though with CLIP's settings."""


def photograph(width: int, height: int, seed: int = 0) -> Picture.Image:
    return Picture.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def small_processor(kind=CLIPImageProcessorPil, **settings):
    return kind(**{"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, **settings})


@pytest.mark.parametrize("room", TORCHVISION)
def test_offsets_are_rounded_as_in_torchvision(room):
    left, upper, right, lower = center_crop_box(224 + room, 224, 224, 224)
    assert (left, upper, right - left, lower - upper) == (TORCHVISION[room], 0, 224, 224)


def test_a_photograph_of_1024_by_683_is_cut_one_pixel_further_right_than_transformers_does():
    processor, image = CLIPImageProcessorPil(), photograph(1024, 683)
    prepared = prepare_images([image], processor)
    resized = image.resize((335, 224), Picture.Resampling.BICUBIC)
    expected = np.asarray(resized, dtype=np.float32)[:, 56 : 56 + 224].transpose(2, 0, 1) / 255
    mean, std = (np.array(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
    np.testing.assert_allclose(prepared[0].numpy(), (expected - mean) / std, atol=1e-5)
    by_transformers = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepared[..., :-1], by_transformers[..., 1:], atol=0, rtol=0)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (32, 32), (30, 17)])
def test_other_sizes_are_as_transformers_has_them(width, height):
    """Nothing else than the offset differs."""
    processor, image = small_processor(), photograph(width, height)
    left_over = int(16 * max(width, height) / min(width, height)) - 16
    assert left_over % 4 != 3
    torch.testing.assert_close(
        prepare_images([image], processor), processor(image, return_tensors="pt")["pixel_values"], atol=0, rtol=0
    )


def test_a_crop_larger_than_the_image_is_black_around_it():
    processor = small_processor(crop_size={"height": 18, "width": 19}, do_normalize=False)
    prepared = prepare_images([Picture.new("RGB", (16, 16), "white")], processor)
    assert prepared.shape == (1, 3, 18, 19)
    white = (prepared[0, 0] == 1).nonzero()
    assert (white.min(0).values.tolist(), white.max(0).values.tolist()) == ([1, 1], [16, 16])


@pytest.mark.parametrize("size", [(3000, 2), (3, 3001), (2999, 1)])
@pytest.mark.parametrize("crop", [(16, 16), (19, 13)])
def test_of_a_very_long_image_only_the_middle_is_resized(size, crop, monkeypatch):
    """To the pixels that it would have, whether the crop is larger than the shorter side or not."""
    processor = small_processor(crop_size={"width": crop[0], "height": crop[1]}, do_normalize=False)
    image = photograph(*size)
    expected = prepare_images([image], processor)
    monkeypatch.setattr(preparation, "MOST_RESIZED", 10_000)
    found = prepare_images([image], processor)
    assert (found - expected).abs().mean() < 0.002
    assert (found - expected).abs().max() < 0.2  # of noise from 0 to 1, where Pillow clips between its passes


@pytest.mark.parametrize("size", [(2_000_000, 1), (1, 2_000_000)])
def test_a_line_of_pixels_takes_no_gigabytes(size):
    assert prepare_images([Picture.new("RGB", size, "white")], CLIPImageProcessorPil()).shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    "processor", [small_processor(OwnProcessor), SiglipImageProcessor(size={"height": 16, "width": 16})]
)
def test_other_processors_are_called_as_they_are(processor):
    image = photograph(35, 30)
    torch.testing.assert_close(
        prepare_images([image], processor), processor(image, return_tensors="pt")["pixel_values"], atol=0, rtol=0
    )


def test_the_filter_is_the_processors():
    image = photograph(70, 50)
    filters = {name: getattr(Picture.Resampling, name) for name in ("NEAREST", "BILINEAR", "BICUBIC")}
    for resample in filters.values():
        processor = small_processor(resample=resample)
        resized = image.resize((22, 16), resample).crop((3, 0, 19, 16))
        torch.testing.assert_close(prepare_images([image], processor), normalise([resized], processor), atol=0, rtol=0)


# What is left over beside the crop is 3: 16 * 39 / 32 = 19.
@pytest.fixture
def oblong() -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    images = [photograph(39, 32, seed) for seed in range(3)]
    return Dataset.from_dict({"image": images, "label": [0, 1, 0]}, features=features)


def test_features_are_of_images_cut_like_this(oblong):
    model, processor = make_clip(), small_processor()
    rows = with_image_embeds(oblong, model, processor)
    pixel_values = prepare_images([row["image"] for row in oblong], processor)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values).pooler_output
    torch.testing.assert_close(torch.tensor(rows["image_embeds"]), expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        others = model.get_image_features(processor(list(oblong["image"]), return_tensors="pt")["pixel_values"])
    assert (others.pooler_output - expected).abs().max() > 1e-3


def test_features_kept_from_another_crop_are_not_taken_for_these(oblong, monkeypatch):
    model, processor = make_clip(), small_processor()
    before = with_image_embeds(oblong, model, processor)._fingerprint
    assert with_image_embeds(oblong, model, processor)._fingerprint == before
    monkeypatch.setattr(kept, "PREPARATION", "another way")
    assert with_image_embeds(oblong, model, processor)._fingerprint != before


class Parts:
    """A processor's parts, as `FrozenCLIP` takes them."""

    def __init__(self, image_processor):
        self.image_processor = image_processor


def test_the_fine_tuned_encoder_sees_images_cut_like_this(oblong):
    processor = small_processor()
    pixels_of = training_pixels(FrozenCLIP(make_clip(), Parts(processor), "tiny"), oblong, seed=1)
    expected = prepare_images([oblong[index]["image"] for index in (2, 0)], processor)
    torch.testing.assert_close(pixels_of(torch.tensor([2, 0]), 0)["pixel_values"], expected, atol=0, rtol=0)


def test_predict_sees_images_cut_like_this(oblong):
    from peft_coop.cli.predict import Decision, _probabilities

    seen = []

    class Model:
        class_names = ["a", "b"]
        judges_each_class = False

        def __call__(self, pixel_values, class_names):
            seen.append(pixel_values)
            return type("Output", (), {"logits": torch.zeros(len(pixel_values), len(class_names))})

    processor = small_processor()
    clip, images = FrozenCLIP(make_clip(), Parts(processor), "tiny"), list(oblong["image"])
    probabilities = _probabilities(Model(), clip, images, Decision(None, None, []))
    assert probabilities.tolist() == [[0.5, 0.5]] * 3
    torch.testing.assert_close(seen[0], prepare_images(list(oblong["image"]), processor), atol=0, rtol=0)


def test_the_demos_processor_is_one_that_is_cut_like_this():
    """Also as it is loaded: what AutoImageProcessor gives comes with transformers."""
    processor = AutoImageProcessor.from_pretrained(MODEL_PATH)
    edge = processor.size["shortest_edge"]
    width = math.ceil((edge + 3) * 100 / edge)  # three pixels are left over
    image = photograph(width, 100)
    assert int(edge * width / 100) == edge + 3
    resized = image.resize((edge + 3, edge), processor.resample)
    expected = normalise([resized.crop((2, 0, edge + 2, edge))], processor)
    torch.testing.assert_close(prepare_images([image], processor), expected, atol=0, rtol=0)
