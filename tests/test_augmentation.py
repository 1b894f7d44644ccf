"""The papers' training pictures: what is drawn, and that a seed draws the same whoever loads them."""

import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Picture
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessor, Trainer, TrainerControl, TrainerState, TrainingArguments

from peft_coop.data import AugmentationCallback, AugmentedImages
from peft_coop.data.augmentation import crop_box

N_IMAGES = 10


@pytest.fixture
def processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def images():
    """Noise, on which every crop looks different; each image has its own label."""
    generator = np.random.default_rng(0)
    pictures = [Picture.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(N_IMAGES)]
    features = Features({"image": Image(), "label": ClassLabel(num_classes=N_IMAGES)})
    return Dataset.from_dict({"image": pictures, "label": list(range(N_IMAGES))}, features=features)


class Recorder(torch.nn.Module):
    """Keeps what the Trainer gives it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, pixel_values, labels):
        self.seen += [(int(label), pixels.clone()) for label, pixels in zip(labels, pixel_values, strict=True)]
        return {"loss": self.weight * pixel_values.mean()}


def train(images, processor, folder, resume=None, callbacks=(), **settings):
    """Three epochs of three steps; gives what was seen, in order."""
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        save_strategy="steps",
        save_steps=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=7,
        dataloader_pin_memory=False,
        **settings,
    )
    model = Recorder()
    dataset = AugmentedImages(images, processor, seed=3)
    Trainer(model, arguments, train_dataset=dataset, callbacks=list(callbacks)).train(resume_from_checkpoint=resume)
    return model.seen


def drawn(images, processor, epoch, seed=3):
    dataset = AugmentedImages(images, processor, seed=seed)
    dataset.set_epoch(epoch)
    return [dataset[index]["pixel_values"] for index in range(len(dataset))]


@pytest.mark.parametrize("width, height", [(200, 200), (300, 180), (150, 260)])
def test_crops_have_the_papers_areas_and_ratios(width, height):
    generator = np.random.default_rng(1)
    boxes = np.array([crop_box(width, height, generator) for _ in range(2000)])
    left, upper, right, lower = boxes.T
    wide, high = right - left, lower - upper
    assert left.min() == 0
    assert upper.min() == 0
    assert right.max() == width
    assert lower.max() == height
    shares = wide * high / (width * height)
    assert 0.07 < shares.min() < 0.1
    largest = min(width, height * 4 / 3) * min(height, width * 4 / 3) / (width * height)
    assert 0.9 * largest < shares.max() < 1.01 * largest
    assert 0.72 < (wide / high).min() < 0.77
    assert 1.3 < (wide / high).max() < 1.38


def test_areas_are_uniform_and_ratios_log_uniform():
    """Where every draw fits: small areas of a square."""
    generator = np.random.default_rng(2)
    boxes = np.array([crop_box(1000, 1000, generator) for _ in range(6000)])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    small = wide * high < 0.5e6
    areas, ratios = (wide * high / 1e6)[small], np.log(wide / high)[small]
    bound = math.log(4 / 3)
    assert areas.mean() == pytest.approx((0.08 + 0.5) / 2, abs=0.01)
    assert areas.std() == pytest.approx(0.42 / math.sqrt(12), abs=0.01)
    assert ratios.mean() == pytest.approx(0, abs=0.02)
    assert ratios.std() == pytest.approx(2 * bound / math.sqrt(12), abs=0.01)
    places = boxes[small, 0] / (1000 - wide[small])
    assert places.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "width, height, box",
    [(1000, 10, (493, 0, 506, 10)), (10, 1000, (0, 493, 10, 506)), (1, 1, (0, 0, 1, 1))],
)
def test_where_no_draw_fits_the_middle_is_taken(width, height, box):
    assert crop_box(width, height, np.random.default_rng(0)) == box


def test_a_view_is_the_crop_resized_flipped_and_normalised(images, processor):
    """Against the same draws made by hand."""
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    flips = []
    for index, found in enumerate(drawn(images, processor, epoch=4)):
        generator = np.random.default_rng([3, 4, index])
        part = images[index]["image"].crop(crop_box(30, 40, generator)).resize((16, 16), Picture.Resampling.BICUBIC)
        pixels = np.asarray(part) / 255
        flips.append(generator.random() < 0.5)
        pixels = pixels[:, ::-1] if flips[-1] else pixels
        expected = torch.tensor(((pixels - mean) / std).transpose(2, 0, 1).copy(), dtype=torch.float32)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(set(flips)) == 2


@pytest.mark.parametrize("flip, expected", [(True, 100), (False, 0)])
def test_half_of_the_images_are_flipped_where_that_is_wanted(flip, expected, processor):
    """Dark on the left, bright on the right."""
    ramp = np.tile(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (40, 1, 3))
    features = Features({"image": Image(), "label": ClassLabel(num_classes=1)})
    rows = {"image": [Picture.fromarray(ramp)] * 200, "label": [0] * 200}
    dataset = AugmentedImages(Dataset.from_dict(rows, features=features), processor, seed=1, flip=flip)
    flipped = sum(bool(row["pixel_values"][..., 0].mean() > row["pixel_values"][..., -1].mean()) for row in dataset)
    assert flipped == pytest.approx(expected, abs=20 if flip else 0)


@pytest.mark.parametrize(
    "settings, shape",
    [
        ({"size": {"shortest_edge": 32}, "crop_size": {"height": 12, "width": 20}}, (3, 12, 20)),
        ({"size": {"height": 12, "width": 20}, "do_center_crop": False}, (3, 12, 20)),
        ({"size": {"shortest_edge": 14}, "do_center_crop": False}, (3, 14, 14)),
    ],
)
def test_the_size_is_the_processors(settings, shape, images):
    dataset = AugmentedImages(images, CLIPImageProcessor(**settings), seed=1)
    assert dataset[0]["pixel_values"].shape == shape


def test_a_size_that_cannot_be_told_is_refused(images):
    processor = CLIPImageProcessor(size={"longest_edge": 20}, do_center_crop=False)
    with pytest.raises(ValueError, match=r"needs height and width, or shortest_edge, got \{'longest_edge': 20\}"):
        AugmentedImages(images, processor, seed=1)


def test_draws_differ_between_epochs_images_and_seeds(images, processor):
    same = drawn(images, processor, epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(same, drawn(images, processor, epoch=1), strict=True))
    for others in (drawn(images, processor, epoch=2), drawn(images, processor, epoch=1, seed=4)):
        assert not any(torch.equal(a, b) for a, b in zip(same, others, strict=True))
    twice = AugmentedImages(images.select([0, 0]), processor, seed=3)
    assert not torch.equal(twice[0]["pixel_values"], twice[1]["pixel_values"])


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_workers_draw_what_one_process_draws(settings, images, processor):
    """Also workers that outlive the epoch in which they were started."""
    dataset = AugmentedImages(images, processor, seed=3)
    loader = DataLoader(dataset, batch_size=4, **settings)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        found = torch.cat([batch["pixel_values"] for batch in loader])
        torch.testing.assert_close(found, torch.stack(drawn(images, processor, epoch)), atol=0, rtol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_trainer_draws_anew_in_every_epoch(workers, images, processor, tmp_path):
    seen = train(images, processor, tmp_path, dataloader_num_workers=workers)
    assert len(seen) == 3 * N_IMAGES
    for epoch in range(3):
        expected = drawn(images, processor, epoch)
        part = seen[epoch * N_IMAGES : (epoch + 1) * N_IMAGES]
        assert sorted(label for label, _ in part) == list(range(N_IMAGES))
        assert all(torch.equal(pixels, expected[label]) for label, pixels in part)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_training_goes_on_with_the_same_draws(workers, images, processor, tmp_path):
    """From step 4 of 9, in the middle of the second epoch."""
    whole = train(images, processor, tmp_path, callbacks=[AugmentationCallback()])
    checkpoint = str(tmp_path / "checkpoint-4")
    callbacks = [AugmentationCallback()]
    resumed = train(images, processor, tmp_path, checkpoint, callbacks, dataloader_num_workers=workers)
    rest = whole[N_IMAGES + 4 :]
    assert [label for label, _ in resumed] == [label for label, _ in rest]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(resumed, rest, strict=True))


def test_the_callback_leaves_other_data_alone(images, processor):
    state, control = TrainerState(epoch=1.0), TrainerControl()
    dataset = AugmentedImages(images, processor, seed=3)
    for data in (images, dataset):
        AugmentationCallback().on_epoch_begin(None, state, control, train_dataloader=DataLoader(data))
    AugmentationCallback().on_epoch_begin(None, state, control)
    assert torch.equal(dataset[2]["pixel_values"], drawn(images, processor, epoch=1)[2])


def test_a_missing_column_is_named(images, processor):
    with pytest.raises(ValueError, match=r"has no column 'labels', only \['image', 'label'\]"):
        AugmentedImages(images, processor, seed=1, label_column="labels")
