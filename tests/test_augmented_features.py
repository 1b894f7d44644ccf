"""Augmented views whose features are computed once: which one an epoch has, and that it is the one it should be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from augmented_views_worker import BATCH_SIZE, EPOCHS, N_IMAGES, SEED, VIEWS, make_images, make_processor, train
from conftest import make_clip
from forked import run_ranks
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import CLIPModel

from peft_coop import CoOpConfig
from peft_coop.data import AugmentedFeatures, AugmentedImages, with_image_embeds
from peft_coop.data.augmented_features import ViewOrder
from peft_coop.data.images import ImageRows

DATA_PAGE = Path(__file__).parents[1] / "docs" / "data.md"
WORKER = Path(__file__).parent / "augmented_views_worker.py"
NAMES = [f"class {index}" for index in range(N_IMAGES)]


@pytest.fixture(scope="module")
def images():
    return make_images()


@pytest.fixture
def processor():
    return make_processor()


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    """Nothing that another test has computed."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def clip():
    return make_clip().double()


def of_views(clip, images, processor, epoch, flip=True):
    """Features of the views that are drawn anew in an epoch, `[N, P]`."""
    augmented = AugmentedImages(images, processor, SEED, flip=flip)
    augmented.set_epoch(epoch)
    pixel_values = torch.stack([augmented[index]["pixel_values"] for index in range(len(images))])
    with torch.no_grad():
        return clip.get_image_features(pixel_values).pooler_output


def given(dataset, epoch):
    dataset.set_epoch(epoch)
    return torch.stack([row["image_embeds"] for row in dataset])


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}, {"batch_size": 5}, {"flip": False}])
def test_a_view_is_what_the_augmentation_draws(settings, clip, images, processor):
    """View k is that of epoch k, to 1e-9; also where a batch holds some views of an image only."""
    dataset = AugmentedFeatures(images, clip, processor, VIEWS, SEED, **settings)
    flip = settings.get("flip", True)
    expected = torch.stack([of_views(clip, images, processor, view, flip) for view in range(VIEWS)], dim=1)
    assert (expected[:, 0] - expected[:, 1]).abs().amax(dim=-1).min() > 1e-3
    torch.testing.assert_close(dataset.all_views(), expected, atol=1e-9, rtol=0)
    for epoch in range(VIEWS):
        torch.testing.assert_close(given(dataset, epoch), expected[:, epoch], atol=1e-9, rtol=0)
    for epoch in range(VIEWS, 3 * VIEWS):
        chosen = expected[torch.arange(N_IMAGES), torch.from_numpy(dataset.view_numbers(epoch))]
        torch.testing.assert_close(given(dataset, epoch), chosen, atol=1e-9, rtol=0)
    assert [row["labels"] for row in dataset] == list(range(N_IMAGES))


def test_views_that_are_not_mirrored_are_others(clip, images, processor):
    mirrored, as_they_are = (AugmentedFeatures(images, clip, processor, 1, SEED, flip=flip) for flip in (True, False))
    same = (given(mirrored, 0) - given(as_they_are, 0)).abs().amax(dim=1) < 1e-9
    assert 0 < same.sum() < N_IMAGES


def test_an_image_has_all_its_views_before_one_comes_again():
    order = ViewOrder(50, 4, seed=1)
    numbers = np.stack([order(epoch) for epoch in range(12)])  # [epochs, images]
    for cycle in range(3):
        assert (np.sort(numbers[4 * cycle : 4 * cycle + 4], axis=0) == np.arange(4)[:, None]).all()
    assert (numbers[:4] == np.arange(4)[:, None]).all()
    later = numbers[4:8].T, numbers[8:12].T
    for orders in later:
        assert len({tuple(row) for row in orders}) > 10  # of 24
    assert (later[0] != later[1]).any(axis=1).sum() > 40


def test_orders_are_the_same_for_a_seed_however_they_are_asked_for():
    forwards, backwards, other = ViewOrder(9, 3, 1), ViewOrder(9, 3, 1), ViewOrder(9, 3, 2)
    asked = {epoch: forwards(epoch).tolist() for epoch in range(12)}
    assert {epoch: backwards(epoch).tolist() for epoch in reversed(range(12))} == asked
    assert [other(epoch).tolist() for epoch in range(3, 12)] != [asked[epoch] for epoch in range(3, 12)]


def test_an_image_is_decoded_once_and_never_again(clip, images, processor, monkeypatch):
    decoded = []
    read = ImageRows.__getitem__
    monkeypatch.setattr(ImageRows, "__getitem__", lambda rows, index: decoded.append(index) or read(rows, index))
    for _ in range(2):
        dataset = AugmentedFeatures(images, clip, processor, VIEWS, SEED, batch_size=4)
        assert len(given(dataset, 5)) == N_IMAGES
        assert decoded == list(range(N_IMAGES))
    assert len(AugmentedFeatures(images, clip, processor, VIEWS, SEED + 1)) == N_IMAGES
    assert len(decoded) == 2 * N_IMAGES


@pytest.mark.parametrize("workers", [0, 2])
def test_the_trainer_has_another_view_in_every_epoch(workers, clip, images, processor, tmp_path):
    dataset = AugmentedFeatures(images, clip, processor, VIEWS, SEED)
    seen = train(dataset, tmp_path / "out", dataloader_num_workers=workers)
    assert [epoch for epoch, _, _ in seen] == [epoch for epoch in range(EPOCHS) for _ in range(N_IMAGES)]
    for epoch in range(EPOCHS):
        dataset.set_epoch(epoch)
        of_epoch = [(label, embeds) for other, label, embeds in seen if other == epoch]
        assert sorted(label for label, _ in of_epoch) == list(range(N_IMAGES))
        assert all(torch.equal(embeds, dataset[label]["image_embeds"]) for label, embeds in of_epoch)


def test_a_resumed_training_goes_on_with_the_same_views(clip, images, processor, tmp_path):
    """From the middle of the second epoch of four."""
    whole = train(AugmentedFeatures(images, clip, processor, VIEWS, SEED), tmp_path / "out")
    dataset = AugmentedFeatures(images, clip, processor, VIEWS, SEED)
    resumed = train(dataset, tmp_path / "out", resume=str(tmp_path / "out" / "checkpoint-5"))
    rest = whole[N_IMAGES + 2 * BATCH_SIZE :]
    assert [label for _, label, _ in resumed] == [label for _, label, _ in rest]
    assert all(torch.equal(one, other) for (_, _, one), (_, _, other) in zip(resumed, rest, strict=True))


def test_two_processes_have_the_views_of_one(clip, images, processor, tmp_path):
    """Each image in each epoch the same view, whichever process has it."""
    for done in run_ranks(2, WORKER, tmp_path):
        assert done.returncode == 0, done.stderr[-4000:]
    of_ranks = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    assert min(map(len, of_ranks)) > EPOCHS
    dataset = AugmentedFeatures(images, clip, processor, VIEWS, SEED)
    for epoch in range(EPOCHS):
        dataset.set_epoch(epoch)
        of_epoch = [(label, embeds) for rank in of_ranks for other, label, embeds in rank if other == epoch]
        assert {label for label, _ in of_epoch} == set(range(N_IMAGES))
        for label, embeds in of_epoch:
            torch.testing.assert_close(
                torch.tensor(embeds, dtype=torch.float64), dataset[label]["image_embeds"], atol=1e-9, rtol=0
            )


def test_with_a_view_for_every_epoch_a_training_is_that_on_pixels(images, processor, tokenizer_path):
    """A loop without the Trainer, shuffled; the gradients are those of pixels, to 1e-9."""
    contexts = []
    for of_pixels in (True, False):
        torch.manual_seed(0)
        config = CoOpConfig(n_ctx=2, class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
        model = get_peft_model(make_clip(), config).double()
        augmented = AugmentedImages(images, processor, SEED)
        dataset = augmented if of_pixels else AugmentedFeatures(images, model, processor, EPOCHS, SEED)
        learned = [weight for weight in model.parameters() if weight.requires_grad]
        start = torch.cat([weight.detach().flatten() for weight in learned])
        optimizer = torch.optim.SGD(learned, lr=0.1)
        generator = torch.Generator().manual_seed(1)
        for epoch in range(EPOCHS):
            dataset.set_epoch(epoch)
            for batch in DataLoader(dataset, BATCH_SIZE, shuffle=True, generator=generator):
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        contexts.append(torch.cat([weight.detach().flatten() for weight in learned]))
    assert (contexts[0] - start).abs().max() > 1e-4
    torch.testing.assert_close(contexts[1], contexts[0], atol=1e-9, rtol=0)


def test_a_vision_tower_that_is_trained_is_refused(images, processor, tokenizer_path):
    names = {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path}
    model = get_peft_model(make_clip(), CoOpConfig(**names, modules_to_save=["visual_projection"]))
    with pytest.raises(ValueError, match=r"An adapter trains the vision tower.*use `AugmentedImages`"):
        AugmentedFeatures(images, model, processor, 2, SEED)
    lora = get_peft_model(make_clip(), LoraConfig(target_modules=r"vision_model.*\.q_proj"))
    with pytest.raises(ValueError, match="An adapter trains the vision tower"):
        AugmentedFeatures(images, lora, processor, 2, SEED)
    of_text = get_peft_model(make_clip(), LoraConfig(target_modules=r"text_model.*\.q_proj"))
    assert len(AugmentedFeatures(images, of_text, processor, 2, SEED)) == N_IMAGES


def test_a_model_that_reads_images_with_prompts_is_refused(images, processor, tokenizer_path, monkeypatch):
    config = CoOpConfig(class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config)
    monkeypatch.setattr(CoOpConfig, "changes_vision", True)
    message = r"Adapter 'default' reads images with learned prompts in the vision tower, .* give the model pixels"
    with pytest.raises(ValueError, match=message):
        AugmentedFeatures(images, model, processor, 2, SEED)
    for each in (model, model.get_base_model()):
        with pytest.raises(ValueError, match=message):
            with_image_embeds(images, each, processor)
    with model.disable_adapter():
        assert len(with_image_embeds(images, model, processor)) == N_IMAGES


@pytest.mark.parametrize("of_pixels", [True, False], ids=["images", "features"])
def test_an_epoch_that_nobody_tells_is_warned_of(of_pixels, clip, images, processor):
    pixels = AugmentedImages(images, processor, SEED)
    dataset = pixels if of_pixels else AugmentedFeatures(images, clip, processor, VIEWS, SEED)
    for _ in range(2):
        dataset.set_epoch(1)
        assert sum(len(batch["labels"]) for _ in range(2) for batch in DataLoader(dataset, 4)) == 2 * N_IMAGES
    with pytest.warns(UserWarning, match=r"has been read more than twice in epoch 1, .* call `set_epoch` before"):
        next(iter(DataLoader(dataset, 4)))
    for epoch in range(5):  # who tells it is left alone, also by workers that outlive an epoch
        dataset.set_epoch(epoch)
        assert len(list(DataLoader(dataset, 4))) == 3
    loader = DataLoader(dataset, 4, num_workers=1, persistent_workers=True)
    for epoch in range(4):
        dataset.set_epoch(epoch)
        assert len(list(loader)) == 3


def test_indices_are_those_of_a_list(clip, images, processor):
    dataset = AugmentedFeatures(images, clip, processor, VIEWS, SEED)
    assert torch.equal(dataset[-1]["image_embeds"], dataset[N_IMAGES - 1]["image_embeds"])
    assert dataset[-1]["labels"] == N_IMAGES - 1
    with pytest.raises(IndexError, match="out of range"):
        dataset[N_IMAGES]


@pytest.mark.parametrize("views", [0, -2])
def test_no_views_are_refused(views, clip, images, processor):
    with pytest.raises(ValueError, match=rf"`views` must be 1 or more, or None for images as they are, got {views}"):
        AugmentedFeatures(images, clip, processor, views, SEED)


def test_computed_with_the_tower_as_a_model_has_it(clip, images, processor, monkeypatch):
    """In evaluation mode, and the model is left in the mode that it was in."""
    modes = []
    original = CLIPModel.get_image_features
    monkeypatch.setattr(
        CLIPModel, "get_image_features", lambda model, *a, **b: modes.append(model.training) or original(model, *a, **b)
    )
    clip.train()
    AugmentedFeatures(images, clip, processor, VIEWS, SEED, batch_size=N_IMAGES)
    assert modes == [False] * VIEWS
    assert clip.training
