"""Training pictures with masks: what is drawn, that image and mask stay together, and that a seed draws the same."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as Picture
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessor

from peft_coop.data import AugmentedMasks, MaskValues, mask_image_processor
from peft_coop.data.mask_augmentation import crop_corner, distorted, fitted_size

VALUES = MaskValues(200)
CROP = 24


@pytest.fixture
def processor():
    return CLIPImageProcessor(do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def scenes(count: int = 6, size: tuple[int, int] = (40, 30)) -> Dataset:
    """Large blocks of grey: the grey of a pixel is its class."""
    generator = np.random.default_rng(0)
    blocks = [generator.integers(0, 8, (2, 2)) * 25 for _ in range(count)]
    masks = [np.kron(each, np.ones((size[1] // 2, size[0] // 2))).astype(np.uint8) for each in blocks]
    columns = {"image": [Picture.fromarray(np.stack([mask] * 3, -1)) for mask in masks]}
    columns["mask"] = [Picture.fromarray(mask) for mask in masks]
    return Dataset.from_dict(columns, features=Features({"image": Image(), "mask": Image()}))


def draw(data: AugmentedMasks, epochs: int) -> list[dict]:
    drawn = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        drawn += [data[index] for index in range(len(data))]
    return drawn


def greys(pixel_values: torch.Tensor) -> torch.Tensor:
    """`[S, S]`, 0 to 255, of normalised pixels."""
    return (pixel_values.mean(0) * 0.5 + 0.5) * 255


def test_image_and_mask_are_cut_resized_and_mirrored_alike(processor):
    """Where nothing is distorted, the grey of a pixel is its class, but for the soft edges of the blocks."""
    for item in draw(AugmentedMasks(scenes(), VALUES, processor, CROP, seed=1, distort=False), epochs=5):
        labels = item["labels"]
        assert (item["pixel_values"].shape, labels.shape, labels.dtype) == ((3, CROP, CROP), (CROP, CROP), torch.long)
        inside = labels != 255
        near = (greys(item["pixel_values"]) - labels).abs() < 8
        assert near[inside].float().mean() > 0.75
        assert (item["pixel_values"][:, ~inside] == 0).all()


def test_small_images_are_filled_up_at_the_right_and_below(processor):
    """An image is never smaller than half of the crop along its shorter edge."""
    drawn = draw(AugmentedMasks(scenes(), VALUES, processor, CROP, seed=1), epochs=20)
    shares = [float((item["labels"] != 255).float().mean()) for item in drawn]
    assert max(shares) == 1
    assert 0.25 < min(shares) < 0.6
    for item in drawn:
        rows, columns = (item["labels"] != 255).nonzero().max(0).values + 1
        assert (item["labels"][:rows, :columns] != 255).all()


def test_half_of_the_images_are_mirrored_unless_they_must_not_be(processor):
    """Black on the left half and white on the right one; the crop is as large as the enlarged image or larger."""
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 100
    columns = {"image": [Picture.fromarray(np.stack([half] * 3, -1))], "mask": [Picture.fromarray(half)]}
    data = Dataset.from_dict(columns, features=Features({"image": Image(), "mask": Image()}))
    for flip, low, high in ((True, 0.3, 0.7), (False, 0, 0)):
        own = AugmentedMasks(data, VALUES, processor, 8, seed=3, flip=flip, distort=False)
        drawn = [item for item in draw(own, epochs=150) if set(item["labels"].unique().tolist()) >= {0, 100}]
        mirrored = [int(item["labels"][0, 0]) == 100 for item in drawn]
        assert len(mirrored) > 50
        assert low <= np.mean(mirrored) <= high


def test_a_seed_draws_the_same_with_any_number_of_workers(processor):
    data = AugmentedMasks(scenes(), VALUES, processor, CROP, seed=1)
    alone = [data[index] for index in range(len(data))]
    loaded = [item for batch in DataLoader(data, batch_size=1, num_workers=2) for item in [batch]]
    for one, other in zip(alone, loaded, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"][0])
        assert torch.equal(one["labels"], other["labels"][0])
    again = AugmentedMasks(scenes(), VALUES, processor, CROP, seed=1)[0]
    assert torch.equal(again["pixel_values"], alone[0]["pixel_values"])
    data.set_epoch(1)
    assert not torch.equal(data[0]["pixel_values"], alone[0]["pixel_values"])
    other_seed = AugmentedMasks(scenes(), VALUES, processor, CROP, seed=2)
    assert not torch.equal(other_seed[0]["pixel_values"], alone[0]["pixel_values"])


def test_a_crop_is_not_of_one_class_where_another_can_be_found():
    """One class but for a corner; pixels of no class do not count as another one."""
    labels = np.zeros((40, 40), np.int32)
    labels[:12, :12] = 1
    shares = []
    for seed in range(200):
        left, upper = crop_corner(labels, 16, 255, np.random.default_rng(seed))
        part = labels[upper : upper + 16, left : left + 16]
        assert part.shape == (16, 16)
        shares.append((part == 1).mean())
    mixed = np.mean([0.25 < share < 0.75 for share in shares])
    assert mixed > 0.4  # a single draw: below 0.1
    labels[labels == 1] = 255
    assert len({crop_corner(labels, 16, 255, np.random.default_rng(seed)) for seed in range(50)}) > 30


def test_distortion_changes_each_of_four_things_in_bounds():
    """Grey stays grey, and its brightness changes by no more than 32 and a factor of 1.5; some pictures are left."""
    grey = Picture.new("RGB", (4, 4), (100, 100, 100))
    values = []
    for seed in range(200):
        pixels = np.asarray(distorted(grey, np.random.default_rng(seed))).astype(int)
        assert (np.ptp(pixels, axis=-1) == 0).all()
        values.append(pixels[0, 0, 0])
    assert min(values) >= 33
    assert max(values) <= 199
    assert 0.1 < np.mean([value == 100 for value in values]) < 0.4
    red = Picture.new("RGB", (1, 1), (200, 50, 50))
    hues = [distorted(red, np.random.default_rng(seed)).convert("HSV").getpixel((0, 0))[0] for seed in range(200)]
    turned = [(hue + 128) % 256 - 128 for hue in hues]
    assert 20 < max(turned) <= 28
    assert -28 <= min(turned) < -20


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 50), (128, 64)), ((50, 100), (64, 128)), ((4096, 50), (2048, 25)), ((64, 64), (64, 64))],
)
def test_sizes_keep_their_ratio(size, expected):
    assert fitted_size(*size, 64) == expected
    assert fitted_size(*size, 64, 2.0) == (2 * expected[0], 2 * expected[1])


def test_what_no_crop_can_be_is_refused(processor):
    with pytest.raises(ValueError, match="`crop_size` must be 1 or more pixels, got 0"):
        AugmentedMasks(scenes(), VALUES, processor, 0, seed=1)


def test_the_processor_of_masks_normalises_as_the_models_own():
    """Resized by Pillow to the same size, the pixels are those of CLIP's; masks keep their values."""
    own = CLIPImageProcessor(size={"height": 12, "width": 8}, do_center_crop=False)
    image = Picture.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    mask = Picture.fromarray(np.random.default_rng(1).integers(0, 3, (30, 20), dtype=np.uint8) * 100)
    inputs = mask_image_processor(own, {"height": 12, "width": 8})([image], [mask], return_tensors="pt")
    expected = own([image], return_tensors="pt")["pixel_values"]
    assert torch.allclose(inputs["pixel_values"], expected, atol=1e-5)
    assert set(inputs["labels"].unique().tolist()) == {0, 100, 200}
    kept = mask_image_processor(own, 10)([image], return_tensors="pt")["pixel_values"]
    assert kept.shape == (1, 3, 15, 10)
