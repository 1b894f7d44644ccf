"""Tip-Adapter and Tip-Adapter-F against their own code's numbers, and against slow, obvious versions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from few_digits import few_images, frozen_clip
from golden_cases import golden_case, golden_model
from golden_images import golden_frozen, numbered_images
from safetensors.torch import load_file

from peft_coop.demo import load_task
from peft_coop.evaluation import LabelledImages, TipAdapter, TipAdapterF, TipValues, ZeroShot
from peft_coop.evaluation.baselines import feature_views, tip_adapter
from peft_coop.evaluation.baselines.feature_views import FeatureViews
from peft_coop.evaluation.baselines.held_out import folds
from peft_coop.evaluation.baselines.tip_cache import Trial, cache_keys, cache_logits, search
from peft_coop.evaluation.baselines.tip_values import OTHERWISE, PUBLISHED
from peft_coop.evaluation.frozen_clip import FrozenCLIP
from peft_coop.evaluation.templates import imagenet_templates
from peft_coop.recipes import Recipe

BOTH = [TipAdapter, TipAdapterF]
FEW = TipValues(2.0, 3.0, 5.0, alpha_steps=3, beta_steps=4)

both = pytest.mark.parametrize("method_class", BOTH)
every_case = pytest.mark.parametrize("key", ["case0", "case1"])


@pytest.fixture(scope="module")
def task():
    return load_task("digits")


@pytest.fixture(scope="module")
def test_images(task):
    return task.test.select(range(30))


@pytest.fixture(scope="module")
def images(task) -> LabelledImages:
    return few_images(task)


@pytest.fixture(scope="module")
def frozen() -> FrozenCLIP:
    return frozen_clip()


def close(actual, expected) -> None:
    """As near as logits up to 31 of float32 are, with a factor of ten."""
    torch.testing.assert_close(torch.as_tensor(actual), expected, atol=2e-4, rtol=2e-5)


class Golden:
    """A golden case as images, with the settings it was computed with."""

    def __init__(self, key: str, tokenizer):
        case = self.case = golden_case("tip_adapter", key)
        settings = self.settings = case.cases
        views = case.all["cache/pixel_values"][: settings["views"], settings["support_indices"]]
        parts = (*views, case.all["val/pixel_values"], case.all["test/pixel_values"])
        self.frozen, numbers = golden_frozen(case, tokenizer, *parts)
        self.frozen.model.logit_scale.data.fill_(math.log(100))
        self.cached = [self.dataset(each, self.labels) for each in numbers[: len(views)]]
        self.val = self.dataset(numbers[-2], case.all["val/labels"])
        self.test = self.dataset(numbers[-1], case.all["test/labels"])
        self.data = "imagenet" if len(settings["templates"]) > 1 else None
        own = settings["templates"][0] if self.data is None else "unused {}"
        self.images = LabelledImages(case.class_names, own, self.cached[0], self.val, self.data)
        (beta_end, alpha_end), (beta_steps, alpha_steps) = settings["search_scale"], settings["search_step"]
        ends = {"largest_alpha": alpha_end, "largest_beta": beta_end}
        steps = {"alpha_steps": alpha_steps, "beta_steps": beta_steps}
        self.values = TipValues(settings["alpha"], beta=settings["beta"], **ends, **steps)

    @property
    def labels(self):
        return self.case.all["cache/labels"][self.settings["support_indices"]]

    def dataset(self, numbers, labels):
        return numbered_images(numbers, labels, self.case.class_names)

    def use_views(self, monkeypatch) -> None:
        """Give the methods the case's views; the golden training sees the first only."""
        features = torch.stack([self.frozen.image_features(view) for view in self.cached], dim=1)
        monkeypatch.setattr(feature_views.FeatureViews, "batch", lambda self, indices, _: self.features[indices, 0])
        monkeypatch.setattr(tip_adapter, "training_views", lambda *_: FeatureViews(features, None))
        assert features.shape[1] == self.settings["views"]


@pytest.fixture
def golden(request, tokenizer, monkeypatch) -> Golden:
    case = Golden(request.param, tokenizer)
    case.use_views(monkeypatch)
    return case


of_every_case = pytest.mark.parametrize("golden", ["case0", "case1"], indirect=True)


@every_case
def test_keys_are_its_own_codes(key):
    """In float64: nothing is off but the rounding of the golden numbers."""
    case = golden_case("tip_adapter", key)
    model = golden_model(case).double()
    views = case.all["cache/pixel_values"][: case.cases["views"], case.cases["support_indices"]].double()
    with torch.no_grad():
        features = torch.stack([model.get_image_features(view).pooler_output for view in views], dim=1)
    keys = cache_keys(features)
    assert keys.dtype == torch.float64
    torch.testing.assert_close(keys, case.tensors["cache_keys"].T.double(), atol=3e-6, rtol=0)


@of_every_case
def test_without_training_everything_is_its_own_codes(golden, tmp_path):
    tip = TipAdapter(golden.values).fit(golden.frozen, golden.images, 1, tmp_path)
    tensors, settings = golden.case.tensors, golden.settings
    assert tip.templates == settings["templates"]
    torch.testing.assert_close(tip.values(tip.class_names), tensors["cache_values"])
    assert (tip.alpha, tip.beta) == pytest.approx((settings["best_alpha"], settings["best_beta"]))
    close(tip.logits(golden.test, golden.case.class_names), tensors["test_logits"])
    tip.alpha, tip.beta = settings["alpha"], settings["beta"]
    close(tip.logits(golden.val, golden.case.class_names), tensors["val_logits"])


@of_every_case
def test_training_is_its_own_codes(golden, tmp_path, monkeypatch):
    """Losses, the first gradient, logits after the last epoch; the golden batches are not shuffled."""
    settings, tensors = golden.settings, golden.case.tensors
    monkeypatch.setattr(torch, "randperm", lambda count, generator: torch.arange(count))
    losses, gradients = [], []

    def train(loss_of, num_images, recipe, optimizers, *args):
        [keys] = optimizers[0].param_groups[0]["params"]
        keys.register_hook(gradients.append)
        noted = lambda *given: losses.append(loss_of(*given)) or losses[-1]  # noqa: E731
        original(noted, num_images, recipe, optimizers, *args)

    original = tip_adapter.train
    monkeypatch.setattr(tip_adapter, "train", train)
    method = TipAdapterF(settings["lr"], settings["epochs"], settings["f_batches"][0], values=golden.values)
    tip = method.fit(golden.frozen, golden.images, 1, tmp_path)
    torch.testing.assert_close(torch.stack(losses).detach(), tensors["f_losses"], atol=5e-5, rtol=0)
    torch.testing.assert_close(gradients[0], tensors["f_grad"], atol=6e-6, rtol=0)
    tip.alpha, tip.beta = settings["alpha"], settings["beta"]
    close(tip.logits(golden.test, golden.case.class_names), tensors["f_epoch_logits"][-1])


@of_every_case
def test_the_search_after_training_is_its_own_codes(golden, tmp_path):
    """With the keys of its best test epoch, which ours never looks for."""
    settings, tensors = golden.settings, golden.case.tensors
    tip, _ = TipAdapterF(values=golden.values).start(golden.frozen, golden.images, 1)
    tip.keys = tensors["f_weight"]
    labels = torch.tensor(golden.val["label"])
    tip.alpha, tip.beta = search([tip.trial(golden.frozen.image_embeds(golden.val), labels)], golden.values)
    assert (tip.alpha, tip.beta) == pytest.approx((settings["f_best_alpha"], settings["f_best_beta"]))
    close(tip.logits(golden.test, golden.case.class_names), tensors["f_test_logits"])


def random_trial(seed: int, images: int = 12, keys: int = 9, classes: int = 3) -> Trial:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    affinity = F.normalize(draw(images, 5), dim=-1) @ F.normalize(draw(keys, 5), dim=-1).T
    values = F.one_hot(torch.arange(keys) % classes, classes).double()
    return Trial(draw(images, classes), affinity, values, torch.randint(classes, (images,), generator=generator))


def slow_right(trial: Trial, alpha: float, beta: float) -> int:
    """How many images are right, one number after the other."""
    right = 0
    for zero_shot, affinity, label in zip(trial.zero_shot, trial.affinity, trial.labels, strict=True):
        scores = zero_shot.tolist()
        for cosine, value in zip(affinity.tolist(), trial.values, strict=True):
            scores[int(value.argmax())] += alpha * math.exp(-beta * (1 - cosine))
        right += scores.index(max(scores)) == int(label)
    return right


@pytest.mark.parametrize("seed", range(3))
def test_search_is_the_slow_one(seed):
    trials = [random_trial(seed), random_trial(seed + 10)]
    most, best = 0, None
    for beta in [0.1 + i * (5.0 - 0.1) / 4 for i in range(4)]:
        for alpha in [0.1 + j * (3.0 - 0.1) / 3 for j in range(3)]:
            right = sum(slow_right(trial, alpha, beta) for trial in trials)
            if right > most:
                most, best = right, (alpha, beta)
    assert search(trials, FEW) == pytest.approx(best)


def test_the_cache_votes():
    trial = random_trial(0)
    expected = torch.zeros(12, 3, dtype=torch.float64)
    for row in range(12):
        for key in range(9):
            expected[row, key % 3] += math.exp(-2.5 * (1 - trial.affinity[row, key].item()))
    torch.testing.assert_close(cache_logits(trial.affinity, trial.values, 2.5), expected, atol=1e-9, rtol=1e-9)


def test_the_grid_ends_before_its_end():
    assert FEW.alphas == pytest.approx([0.1, 0.1 + 2.9 / 3, 0.1 + 5.8 / 3])
    assert FEW.betas == pytest.approx([0.1, 1.325, 2.55, 3.775])
    assert len(OTHERWISE.betas) * len(OTHERWISE.alphas) == 200 * 20


def test_published_values_belong_to_the_data():
    assert TipAdapter(data="eurosat").published == TipValues(2, largest_alpha=10, largest_beta=12)
    assert TipAdapterF(data="fgvc_aircraft").published.alpha == 5
    assert TipAdapter(data="my own").published == TipAdapter().published == OTHERWISE
    assert TipAdapter(FEW, "eurosat").published == FEW
    for name in ("alpha", "largest_alpha", "largest_beta"):
        assert getattr(OTHERWISE, name) == np.median([getattr(each, name) for each in PUBLISHED.values()])


def test_epochs_are_the_papers():
    assert TipAdapterF(data="dtd").make_recipe(16, 752) == Recipe(20, 256, 0.001, keep_last=True)
    assert TipAdapterF(data="dtd").make_recipe(1, 47).num_epochs == 20
    assert TipAdapterF(data="eurosat").make_recipe(16, 160).num_epochs == 100
    assert TipAdapterF(0.01, 3, 8, "eurosat").make_recipe(1, 160) == Recipe(3, 8, 0.01, keep_last=True)


@pytest.mark.parametrize(("num_images", "epochs"), [(10, 100), (256, 100), (257, 50), (1281, 20), (5000, 20)])
def test_few_images_of_other_data_are_seen_in_a_hundred_steps(num_images, epochs):
    recipe = TipAdapterF(data="my own").make_recipe(1, num_images)
    assert recipe.num_epochs == epochs
    assert recipe.num_epochs * recipe.steps_per_epoch(num_images) >= 100


@pytest.mark.parametrize("name", ["alpha", "beta", "largest_alpha", "largest_beta", "alpha_steps", "beta_steps"])
def test_wrong_values_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be above 0 and finite, got 0"):
        replace(FEW, **{name: 0})


@both
def test_settings_tell_runs_apart(method_class):
    ways = [
        {},
        {"values": FEW},
        {"values": replace(FEW, beta=2.0)},
        {"views": 2},
        {"views": 2, "flip": False},
    ]
    told = [str(method_class(data="dtd", **way).settings()) for way in ways]
    assert len(set(told)) == len(ways)
    assert method_class(data="dtd", flip=False, num_workers=2).settings() == method_class().settings()
    with pytest.raises(ValueError, match="`views` must be 1 or more"):
        method_class(views=0)


def without_validation(images: LabelledImages) -> LabelledImages:
    return replace(images, val=images.val.select([]))


@both
def test_without_validation_images_training_images_are_left_out_in_turn(frozen, images, tmp_path, method_class):
    """Also of the keys' training."""
    method = method_class(values=FEW)
    tip = method.fit(frozen, without_validation(images), 1, tmp_path / "all")
    embeds, labels = frozen.image_embeds(images.train), torch.tensor(images.train["label"])
    zero_shot = torch.from_numpy(ZeroShot().fit(frozen, images, 1, tmp_path).logits(images.train, images.class_names))
    trials = []
    for kept, left_out in folds(labels.numpy(), 1):
        # validation images, so that the part is not divided again
        part = method.fit(frozen, replace(images, train=images.train.select(kept)), 1, tmp_path / str(kept))
        cosines, values = embeds[left_out] @ part.keys.T, F.one_hot(labels[kept], 10).float()
        trials.append(Trial(zero_shot[left_out], cosines, values, labels[left_out]))
    assert len(trials) == 2
    assert (tip.alpha, tip.beta) == search(trials, FEW)
    whole = method.fit(frozen, images, 1, tmp_path / "whole")
    assert torch.equal(tip.keys, whole.keys)


def test_steps_without_validation_images_are_those_of_all_trainings(images):
    method = TipAdapterF(num_epochs=3, batch_size=8)
    assert method.training_steps(images) == 3 * 3
    assert method.training_steps(without_validation(images)) == 3 * (3 + 2 + 2)
    assert TipAdapter().training_steps(images) is None


def test_a_killed_training_without_validation_images_goes_on(frozen, images, tmp_path, monkeypatch):
    method, images = TipAdapterF(num_epochs=2, batch_size=10, values=FEW), without_validation(images)
    whole = method.fit(frozen, images, 1, tmp_path / "whole")
    trained = []

    def train_until_killed(loss_of, num_images, *args):
        def loss(indices, epoch):
            trained.append((num_images, epoch))
            if len(trained) == 4:  # of the second part
                raise KeyboardInterrupt("killed")
            return loss_of(indices, epoch)

        original(loss, num_images, *args)

    original = tip_adapter.train
    monkeypatch.setattr(tip_adapter, "train", train_until_killed)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        method.fit(frozen, images, 1, tmp_path / "killed")
    resumed = method.fit(frozen, images, 1, tmp_path / "killed")
    assert trained == [(10, 0), (10, 1), (10, 0), (10, 1), (10, 1), *[(20, 0)] * 2, *[(20, 1)] * 2]
    assert torch.equal(resumed.keys, whole.keys)
    assert (resumed.alpha, resumed.beta) == (whole.alpha, whole.beta)


@pytest.mark.parametrize(("counts", "num_parts"), [([2, 5], 2), ([9, 6, 4], 4), ([1, 8], 0), ([1], 0)])
def test_parts_that_are_left_out(counts, num_parts):
    labels = np.repeat(range(len(counts)), counts)
    parts = folds(labels, seed=1)
    assert len(parts) == num_parts
    for kept, left_out in parts:
        assert sorted([*kept, *left_out]) == list(range(len(labels)))
        assert set(labels[kept]) == set(labels)
    assert sorted(index for _, left_out in parts for index in left_out) == list(range(len(labels) if parts else 0))


def test_what_cannot_be_searched_is_published_and_told(frozen, images, tmp_path):
    one_shot = replace(images, train=images.train.select(range(0, 20, 2)), val=images.val.select([]), data="eurosat")
    with pytest.warns(UserWarning, match=r"Tip-Adapter: no images to choose alpha and beta by.*: 2 and 1\.0"):
        tip = TipAdapter(data="eurosat").fit(frozen, one_shot, 1, tmp_path)
    assert (tip.alpha, tip.beta) == (2, 1)
    with pytest.warns(UserWarning, match=r"Tip-Adapter-F: no images to choose alpha and beta by.*: 2\.0 and 1\.0"):
        tip = TipAdapterF(num_epochs=1, values=FEW).fit(frozen, one_shot, 1, tmp_path)
    assert (tip.alpha, tip.beta) == (2, 1)


@both
def test_only_images_of_its_own_are_looked_at(frozen, images, tmp_path, method_class, monkeypatch):
    """Neither training nor search asks for other images than those for it."""
    asked = []
    original = FrozenCLIP.with_image_embeds
    monkeypatch.setattr(
        FrozenCLIP, "with_image_embeds", lambda *args, **kw: asked.append(args[1]) or original(*args, **kw)
    )
    method_class(values=FEW).fit(frozen, images, 1, tmp_path)
    assert {each._fingerprint for each in asked} == {images.train._fingerprint, images.val._fingerprint}


@both
def test_logits_are_zero_shot_and_votes(frozen, images, test_images, tmp_path, method_class, monkeypatch):
    monkeypatch.setattr("peft_coop.evaluation.baselines.tip_cache.ROWS_AT_ONCE", 7)
    tip = method_class(values=FEW).fit(frozen, images, 1, tmp_path)
    logits = tip.logits(test_images, images.class_names)
    assert logits.dtype == np.float32
    zero_shot = ZeroShot().fit(frozen, images, 1, tmp_path).logits(test_images, images.class_names)
    cosines = frozen.image_embeds(test_images) @ tip.keys.T
    votes = np.zeros_like(zero_shot)
    for key, label in enumerate(images.train["label"]):
        votes[:, label] += np.exp(-tip.beta * (1 - cosines[:, key].numpy()))
    np.testing.assert_allclose(logits, zero_shot + tip.alpha * votes, atol=1e-4)
    assert not np.allclose(logits, zero_shot, atol=0.1)


@both
def test_classes_without_an_image_are_zero_shot(frozen, images, test_images, tmp_path, method_class):
    tip = method_class(values=FEW).fit(frozen, images, 1, tmp_path)
    zero_shot = ZeroShot().fit(frozen, images, 1, tmp_path)
    new = ["circle", "square"]
    np.testing.assert_array_equal(tip.logits(test_images, new), zero_shot.logits(test_images, new))
    mixed = tip.logits(test_images, ["seven", "circle", "two"])
    np.testing.assert_array_equal(mixed[:, 1], zero_shot.logits(test_images, ["seven", "circle", "two"])[:, 1])
    known = tip.logits(test_images, images.class_names)
    np.testing.assert_allclose(mixed[:, [0, 2]], known[:, [7, 2]], atol=1e-3)


def test_duplicate_names_keep_their_own_votes(frozen, images, test_images, tmp_path):
    names = [*images.class_names[:9], images.class_names[0]]
    tip = TipAdapter(FEW).fit(frozen, replace(images, class_names=names), 1, tmp_path)
    assert tip.values(names).sum(dim=0).tolist() == [2] * 10
    assert tip.values([names[0], "circle"]).nonzero().flatten().tolist() == [0, 0, 1, 0]


@both
def test_images_of_imagenet_have_its_templates(frozen, images, tmp_path, method_class):
    tip = method_class(values=FEW).fit(frozen, replace(images, data="imagenet"), 1, tmp_path)
    assert tip.templates == imagenet_templates(selection=True)
    target = tip.for_data("imagenet_a", "a photo of a {}.")
    assert target.templates == imagenet_templates(selection=True)
    assert (target.alpha, target.beta, target.keys is tip.keys) == (tip.alpha, tip.beta, True)
    assert tip.for_data("drawings", "a drawing of a {}.").templates == ["a drawing of a {}."]


def test_keys_of_views_are_means_over_seeded_crops(frozen, images, tmp_path):
    keys = [TipAdapter(FEW, views=3).fit(frozen, images, seed, tmp_path).keys for seed in (3, 3, 4)]
    views = frozen.augmented_features(images.train, 3, seed=3).all_views()
    torch.testing.assert_close(keys[0], F.normalize(views.mean(1), dim=-1))
    assert torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[0], keys[2])
    unmirrored = TipAdapter(FEW, views=3, flip=False).fit(frozen, images, 3, tmp_path).keys
    assert not torch.equal(keys[0], unmirrored)


def test_training_on_views_sees_another_view_in_each_epoch(frozen, images, tmp_path, monkeypatch):
    batches = []
    original = FeatureViews.batch

    def noted(self, indices, epoch):
        batches.append(original(self, indices, epoch)[indices == 0])
        return original(self, indices, epoch)

    monkeypatch.setattr(FeatureViews, "batch", noted)
    TipAdapterF(num_epochs=5, values=FEW, views=3).fit(frozen, images, 3, tmp_path)
    views = frozen.augmented_features(images.train, 3, seed=3)
    expected = [views.all_views()[0, views.view_numbers(epoch)[0]] for epoch in range(5)]
    assert torch.equal(torch.cat(batches), torch.stack(expected))
    assert torch.equal(torch.cat(batches)[:3], views.all_views()[0])


@both
def test_what_is_learned_is_saved(frozen, images, test_images, tmp_path, method_class):
    tip = method_class(values=FEW).fit(frozen, images, 1, tmp_path)
    tip.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "tip_adapter.safetensors")
    assert (saved["alpha"].item(), saved["beta"].item()) == (tip.alpha, tip.beta)
    assert torch.equal(saved["keys"], tip.keys)
    assert saved["labels"].tolist() == images.train["label"][:]
    start = cache_keys(frozen.image_features(images.train)[:, None])
    assert torch.equal(start, tip.keys) == (method_class is TipAdapter)
