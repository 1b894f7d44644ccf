"""The bar of a protocol moves while images are classified, where that is a part of the work."""

from dataclasses import replace

import pytest

from peft_coop.data import load_data
from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation import FrozenCLIP, LayerNormTuning, PromptLearning, TipAdapterF, TwoStage, base_to_new
from peft_coop.progress import Stage, show_progress

SHORT = {"num_epochs": 2, "batch_size": 4}
READING = ("classifying", "image features")
# Some images of each split at once, so that the bar has steps to move by.
AT_ONCE = 5


@pytest.fixture(scope="module")
def clip():
    return FrozenCLIP(load_clip(), load_processor(), "demo", batch_size=AT_ONCE)


@pytest.fixture(scope="module")
def digits():
    data = load_data("demo:digits")
    train, test = (part.shuffle(seed=0).select(range(size)) for part, size in ((data.train, 120), (data.test, 40)))
    return replace(data, train=train, test=test)


@pytest.fixture
def drawn(monkeypatch):
    """The bar after every step of a stage: the stage's name, and how much of everything is done."""
    shares, update = [], Stage.update

    def noting(self, steps=1):
        update(self, steps)
        shares.append((self.name, self._root._bar.n))

    monkeypatch.setattr(Stage, "update", noting)
    show_progress(True)
    return shares


@pytest.mark.parametrize(
    "method",
    [
        PromptLearning("vpt", {"n_ctx_vision": 2}, SHORT),
        PromptLearning("cocoop", {}, SHORT),
        LayerNormTuning(num_epochs=2, batch_size=4),
    ],
    ids=lambda method: method.key,
)
def test_classifying_each_image_is_a_part_of_a_run(clip, digits, tmp_path, drawn, method):
    """Of 5 base classes: 10 images twice through a training step, and then 40 test images, of two splits."""
    base_to_new(clip, digits, [method], tmp_path, num_shots=2, seeds=(1,))
    learned = max(share for name, share in drawn if name == "training")
    steps = 4 if isinstance(method, PromptLearning) else 6  # half a batch is left out by the papers' recipe
    passes = 3 * 4 * steps
    assert learned == pytest.approx(passes / (passes + 40))
    shares = [share for name, share in drawn if name in READING and share > learned]
    assert len(set(shares)) == 9  # batches of 5: 18 images and 22
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_features_that_others_use_too_do_not_move_the_bar(clip, digits, tmp_path, drawn):
    base_to_new(clip, digits, [PromptLearning("coop", {}, SHORT)], tmp_path, num_shots=1, seeds=(1,))
    trained = [share for name, share in drawn if name == "training"]
    assert trained[-1] == pytest.approx(1)
    assert {share for name, share in drawn[: drawn.index(("training", trained[0]))]} <= {0}


@pytest.mark.parametrize(
    "method",
    [TwoStage(num_epochs=2, batch_size=4, augment=True), TipAdapterF(num_epochs=2)],
    ids=lambda method: method.key,
)
def test_trainings_that_follow_each_other_share_the_bar(clip, digits, tmp_path, drawn, method):
    base_to_new(clip, digits, [method], tmp_path, num_shots=2, seeds=(1,))
    trained = [share for name, share in drawn if name == "training"]
    assert len(trained) >= 2
    assert len(set(trained)) == len(trained)
    assert trained == sorted(trained)
