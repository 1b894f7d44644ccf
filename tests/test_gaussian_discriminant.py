"""Gaussian discriminant analysis against a slow, obvious version, and mixed with zero-shot CLIP."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from few_digits import few_images, frozen_clip
from safetensors.torch import load_file

from peft_coop.demo import load_task
from peft_coop.evaluation import GaussianDiscriminant, LabelledImages, ZeroShot, scores
from peft_coop.evaluation.baselines.gaussian_discriminant import ALPHAS, gaussian_classifier
from peft_coop.evaluation.baselines.held_out import folds
from peft_coop.evaluation.frozen_clip import FrozenCLIP
from peft_coop.evaluation.templates import imagenet_templates

EXACT = {"atol": 1e-9, "rtol": 1e-9}


@pytest.fixture(scope="module")
def task():
    return load_task("digits")


@pytest.fixture(scope="module")
def test_images(task):
    return task.test.select(range(60))


@pytest.fixture(scope="module")
def images(task) -> LabelledImages:
    return few_images(task)


@pytest.fixture(scope="module")
def frozen() -> FrozenCLIP:
    return frozen_clip()


def without_validation(images: LabelledImages) -> LabelledImages:
    return replace(images, val=images.val.select([]))


def points(counts: list[int], width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(labels), width, generator=generator, dtype=torch.float64), labels


def slow_log_likelihoods(features: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Minus half the squared Mahalanobis distances to each class's mean, with the paper's precision."""
    number, width = features.shape
    means = [features[labels == label].mean(axis=0) for label in np.unique(labels)]
    centred = features - np.array([means[label] for label in labels])
    covariance = np.cov(centred.T)
    precision = width * np.linalg.pinv((number - 1) * covariance + np.trace(covariance) * np.eye(width))
    return np.array([[-(x - mean) @ precision @ (x - mean) / 2 for mean in means] for x in queries])


@pytest.mark.parametrize("counts", [[3, 4, 5], [2, 2], [1, 9, 2], [40, 50]])
def test_it_is_the_likelihoods_of_gaussians(counts):
    """Up to what is the same for all classes: more images than the width, and fewer."""
    features, labels = points(counts)
    queries = torch.randn(5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight, bias = gaussian_classifier(features, labels, len(counts))
    logits = queries @ weight.T + bias
    expected = torch.from_numpy(slow_log_likelihoods(features.numpy(), labels.numpy(), queries.numpy()))
    torch.testing.assert_close(logits - logits[:, :1], expected - expected[:, :1], **EXACT)


def test_a_single_feature_of_each_class_is_the_nearest_one():
    """The formula's own precision would be zero: every image as likely in every class."""
    features, labels = points([1, 1, 1, 1])
    weight, bias = gaussian_classifier(features, labels, 4)
    queries = torch.randn(50, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    nearest = torch.cdist(queries, features).argmin(dim=1)
    assert torch.equal((queries @ weight.T + bias).argmax(dim=1), nearest)
    variance = features.var(dim=0).sum() / 6
    torch.testing.assert_close(weight, features * 6 / ((3 + 6) * variance), **EXACT)
    twice = gaussian_classifier(features.repeat(2, 1), labels.repeat(2), 4)  # the same feature twice says no more
    assert torch.equal((queries @ twice[0].T + twice[1]).argmax(dim=1), nearest)


def test_a_class_without_a_feature_is_never_taken():
    features, labels = points([3, 4])
    weight, bias = gaussian_classifier(features, labels * 2, 3)
    alone = gaussian_classifier(features, labels, 2)
    assert bias[1] == -torch.inf
    torch.testing.assert_close((weight[[0, 2]], bias[[0, 2]]), alone, **EXACT)


def test_what_cannot_be_estimated_is_refused():
    features, labels = points([3, 2])
    with pytest.raises(ValueError, match=r"needs images of two classes or more, got 1\."):
        gaussian_classifier(features, labels * 0, 2)
    with pytest.raises(ValueError, match=r"needs features that differ, and all 5 are the same"):
        gaussian_classifier(torch.ones_like(features), labels, 2)


def best_alpha(frozen, tried: list[tuple]) -> float:
    """The weight that gets most right: of images, by what was learned of others; of several the nearest to 0.1."""
    parts = []
    for images, part in tried:
        zero_shot = ZeroShot().fit(frozen, images, 1, None).logits(part, images.class_names)
        seen = frozen.image_embeds(images.train).double().numpy()
        queries = frozen.image_embeds(part).double().numpy()
        labels = np.array(images.train["label"])
        if len(labels) > 10:
            gaussian = slow_log_likelihoods(seen, labels, queries)
        else:
            gaussian = nearest_log_likelihoods(seen[np.argsort(labels)], queries)
        parts.append((zero_shot, gaussian, np.array(part["label"])))
    right = {
        alpha: sum(((zero_shot + alpha * gaussian).argmax(1) == truth).sum() for zero_shot, gaussian, truth in parts)
        for alpha in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    }
    best = [alpha for alpha in right if right[alpha] == max(right.values())]
    return min(best, key=lambda alpha: (abs(round(np.log10(alpha)) + 1), alpha))


def nearest_log_likelihoods(features: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Those of a feature of each class, with the variance of all."""
    number, width = features.shape
    variance = features.var(axis=0, ddof=1).sum() / width
    precision = width / ((number - 1 + width) * variance)
    return np.array([[-precision * ((x - feature) ** 2).sum() / 2 for feature in features] for x in queries])


def test_logits_are_zero_shot_and_gaussians(frozen, images, test_images, tmp_path):
    learned = GaussianDiscriminant().fit(frozen, images, 1, tmp_path)
    embeds = frozen.image_embeds(images.train).double().numpy()
    queries = frozen.image_embeds(test_images).double().numpy()
    gaussian = slow_log_likelihoods(embeds, np.array(images.train["label"]), queries)
    zero_shot = ZeroShot().fit(frozen, images, 1, tmp_path).logits(test_images, images.class_names)
    expected = zero_shot + learned.alpha * gaussian
    logits = learned.logits(test_images, images.class_names)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-3, rtol=1e-5)
    np.testing.assert_allclose(learned.logits(test_images, ["seven", "two"]), logits[:, [7, 2]], atol=1e-3)


def test_the_weight_is_the_best_on_validation_images(frozen, images, tmp_path):
    chosen = []
    predicted = ZeroShot().fit(frozen, images, 1, tmp_path).logits(images.val, images.class_names).argmax(axis=1)
    as_zero_shot = images.val.remove_columns("label").add_column("label", predicted.tolist())
    for val in (images.val, as_zero_shot):
        chosen.append(GaussianDiscriminant().fit(frozen, replace(images, val=val), 1, tmp_path).alpha)
        assert chosen[-1] == best_alpha(frozen, [(images, val)])
    assert chosen[0] > chosen[1]


def test_without_validation_images_training_images_are_left_out_in_turn(frozen, images, tmp_path):
    alphas = [GaussianDiscriminant().fit(frozen, without_validation(images), 1, tmp_path).alpha for _ in range(2)]
    parts = folds(np.array(images.train["label"]), 1)
    tried = [(replace(images, train=images.train.select(kept)), images.train.select(out)) for kept, out in parts]
    assert alphas == [best_alpha(frozen, tried)] * 2
    assert len(tried) == 2


def test_an_image_that_is_left_out_is_not_learned_from(frozen, images, tmp_path, monkeypatch):
    seen = []
    choose = GaussianDiscriminant.choose
    monkeypatch.setattr(
        GaussianDiscriminant, "choose", lambda self, trials: seen.extend(trials) or choose(self, trials)
    )
    GaussianDiscriminant().fit(frozen, without_validation(images), 1, tmp_path)
    embeds, labels = frozen.image_embeds(images.train).double().numpy(), np.array(images.train["label"])
    parts = folds(labels, 1)
    assert len(seen) == len(parts) == 2
    for trial, (kept, left_out) in zip(seen, parts, strict=True):
        learned = embeds[kept][np.argsort(labels[kept])]  # one of each class
        expected = nearest_log_likelihoods(learned, embeds[left_out])
        assert trial.labels.tolist() == labels[left_out].tolist()
        logits = trial.gaussian.numpy()
        np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


def test_a_weight_that_cannot_be_chosen_is_told(frozen, images, tmp_path):
    one_shot = replace(without_validation(images), train=images.train.select(range(0, 20, 2)))
    with pytest.warns(UserWarning, match=r"GDA with zero-shot: no images to choose the weight .* it is 0\.1\."):
        learned = GaussianDiscriminant().fit(frozen, one_shot, 1, tmp_path)
    assert learned.alpha == 0.1 in ALPHAS


def test_seeded_crops_of_each_image(frozen, images, tmp_path):
    learned = GaussianDiscriminant(views=3).fit(frozen, images, 3, tmp_path)
    views = frozen.augmented_features(images.train, 3, seed=3).all_views().flatten(0, 1)
    labels = torch.tensor(images.train["label"]).repeat_interleave(3)
    weight, bias = gaussian_classifier(F.normalize(views, dim=-1).double(), labels, 10)
    torch.testing.assert_close((learned.weight, learned.bias), (weight, bias), atol=1e-6, rtol=1e-6)
    unmirrored = GaussianDiscriminant(views=3, flip=False).fit(frozen, images, 3, tmp_path)
    assert not torch.allclose(unmirrored.weight, weight)


def test_new_classes_are_refused(frozen, images, test_images, tmp_path):
    learned = GaussianDiscriminant().fit(frozen, images, 1, tmp_path)
    with pytest.raises(ValueError, match=r"Gaussian discriminant analysis is for the classes .*; 'circle' is none"):
        learned.logits(test_images, ["circle", "two"])


def test_classes_without_images_are_scored(frozen, images, test_images, tmp_path):
    kept = images.train.filter(lambda label: label in (0, 3, 7), input_columns="label")
    learned = GaussianDiscriminant().fit(frozen, replace(images, train=kept), 1, tmp_path)
    logits = learned.logits(test_images, images.class_names)
    assert set(logits.argmax(axis=1)) <= {0, 3, 7}
    assert 0 < scores(logits, test_images["label"])["accuracy"] < 1


def test_images_of_imagenet_have_its_templates(frozen, images, tmp_path):
    learned = GaussianDiscriminant().fit(frozen, replace(images, data="imagenet"), 1, tmp_path)
    assert learned.templates == imagenet_templates(selection=True)
    target = learned.for_data("drawings", "a drawing of a {}.")
    assert target.templates == ["a drawing of a {}."]
    assert (target.alpha, target.weight is learned.weight) == (learned.alpha, True)


def test_settings_tell_runs_apart():
    assert GaussianDiscriminant("dtd", flip=False).settings() == GaussianDiscriminant().settings() == {}
    assert GaussianDiscriminant(views=2, num_workers=2).settings() == {"views": 2, "flip": True}
    with pytest.raises(ValueError, match="`views` must be 1 or more"):
        GaussianDiscriminant(views=0)


def test_what_is_learned_is_saved(frozen, images, tmp_path):
    learned = GaussianDiscriminant().fit(frozen, images, 1, tmp_path)
    learned.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "gda.safetensors")
    assert saved["alpha"].item() == learned.alpha
    assert torch.equal(saved["weight"], learned.weight)
    assert torch.equal(saved["bias"], learned.bias)
