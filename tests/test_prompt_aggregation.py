"""The weighted mean of what was learned in each epoch."""

import shutil

import pytest
import torch
from conftest import make_clip
from peft import get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from peft_coop import CoOpConfig, PromptAggregation
from peft_coop.methods.prompt_aggregation import FILE_NAME

EPOCHS, MEAN, STD = 4, 2.0, 1.5
EXACT = {"atol": 1e-12, "rtol": 0}


@pytest.fixture
def make_model(tokenizer_path):
    def make(seed=0):
        torch.manual_seed(seed)
        config = CoOpConfig(n_ctx=2, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
        return get_peft_model(make_clip().double(), config)

    return make


def weights_of(epochs, mean, std):
    raw = torch.tensor(
        [-0.5 * ((epoch - mean) / std) ** 2 for epoch in range(1, epochs + 1)], dtype=torch.float64
    ).exp()
    return raw / raw.sum()


def images(count=6):
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(count, 40, generator=generator, dtype=torch.float64)
    return [{"image_embeds": each, "labels": index % 2} for index, each in enumerate(embeds)]


def arguments(folder, **settings):
    common = {"num_train_epochs": EPOCHS, "per_device_train_batch_size": 2, "learning_rate": 0.01, "use_cpu": True}
    common |= {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no"}
    return TrainingArguments(str(folder), **{**common, **settings})


class Noted(TrainerCallback):
    """The context after each epoch."""

    def __init__(self):
        self.contexts = []

    def on_epoch_end(self, args, state, control, model, **kwargs):
        self.contexts.append(context(model).clone())


def context(model):
    return model.prompt_layer.prompt.ctx.detach()


def train(model, folder, *callbacks, resume=None, **settings):
    trainer = Trainer(model, arguments(folder, **settings), train_dataset=images(), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_the_weights_are_a_gaussian_whose_sum_is_one():
    weights = PromptAggregation(20).weights
    torch.testing.assert_close(torch.tensor(weights, dtype=torch.float64), weights_of(20, 15, 1), **EXACT)
    assert weights[14] == pytest.approx(0.399, abs=5e-4)
    assert weights[19] == pytest.approx(1.5e-6, rel=0.05)


def test_epochs_that_hardly_count_are_told():
    with pytest.warns(UserWarning, match=r"The last half of 60 epochs holds 0\.0% of the weight: with `mean=15\.0`"):
        PromptAggregation(60)
    for given in ((20,), (50, 30, 30), (50, 45, 5), (20, 6, 10), (1,), (5,)):  # the papers', and short ones
        PromptAggregation(*given)


def test_the_trainer_ends_with_the_mean_over_epochs(make_model, tmp_path):
    model, noted = make_model(), Noted()
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    train(model, tmp_path, noted, PromptAggregation(EPOCHS, MEAN, STD))
    expected = sum(weight * each for weight, each in zip(weights_of(EPOCHS, MEAN, STD), noted.contexts, strict=True))
    torch.testing.assert_close(context(model), expected, **EXACT)
    assert (expected - noted.contexts[-1]).abs().max() > 1e-4
    plain, undisturbed = make_model(), Noted()
    train(plain, tmp_path, undisturbed)
    assert all(map(torch.equal, noted.contexts, undisturbed.contexts))  # training never sees the mean
    assert all(torch.equal(weight, frozen[name]) for name, weight in model.named_parameters() if name in frozen)


def test_in_a_loop_of_ones_own():
    model = nn.Linear(2, 1, bias=False).double()
    frozen = nn.Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)
    model.register_parameter("frozen", frozen)
    aggregation = PromptAggregation(3, mean=2, std=0.5)
    values = [torch.tensor([each], dtype=torch.float64) for each in ([1.0, -2.0], [3.0, 5.0], [7.0, 0.0])]
    for value in values:
        model.weight.data.copy_(value)
        aggregation.update(model)
    aggregation.finish(model)
    expected = sum(weight * value for weight, value in zip(weights_of(3, 2, 0.5), values, strict=True))
    torch.testing.assert_close(model.weight.detach(), expected, **EXACT)
    assert model.weight.requires_grad
    with pytest.raises(ValueError, match="There were 3 epochs already"):
        aggregation.update(model)


@pytest.mark.parametrize(
    "saved",
    [
        {"save_strategy": "epoch"},
        {"save_strategy": "steps", "save_steps": 2},
        {"save_strategy": "steps", "save_steps": 3},
    ],
)
def test_a_resumed_training_goes_on_with_its_sum(make_model, tmp_path, saved):
    """Three steps are an epoch: checkpoints at its end, in the middle, and in its last step."""
    whole = make_model()
    train(whole, tmp_path, PromptAggregation(EPOCHS, MEAN, STD), **saved)
    for step in (6, 12) if saved.get("save_steps") != 2 else (4, 6, 8):
        resumed = make_model(seed=5)
        train(
            resumed,
            tmp_path,
            PromptAggregation(EPOCHS, MEAN, STD),
            resume=str(tmp_path / f"checkpoint-{step}"),
            **saved,
        )
        torch.testing.assert_close(context(resumed), context(whole), **EXACT)


def test_a_callback_that_was_used_begins_anew(make_model, tmp_path):
    aggregation, first, second = PromptAggregation(EPOCHS, MEAN, STD), make_model(), make_model()
    train(first, tmp_path, aggregation, save_strategy="epoch")
    train(second, tmp_path / "other", aggregation)
    torch.testing.assert_close(context(second), context(first), **EXACT)
    third = make_model(seed=5)
    train(third, tmp_path, aggregation, resume=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(context(third), context(first), **EXACT)


def test_a_checkpoint_elsewhere_is_loaded_by_name(make_model, tmp_path):
    whole = make_model()
    train(whole, tmp_path / "out", PromptAggregation(EPOCHS, MEAN, STD), save_strategy="epoch")
    shutil.copytree(tmp_path / "out" / "checkpoint-6", tmp_path / "kept")
    aggregation, resumed = PromptAggregation(EPOCHS, MEAN, STD), make_model(seed=5)
    with pytest.raises(FileNotFoundError, match=f"There is no {FILE_NAME} in .*call `load` with the folder"):
        train(resumed, tmp_path / "new", aggregation, resume=str(tmp_path / "kept"))
    aggregation.load(tmp_path / "kept")
    train(resumed, tmp_path / "new", aggregation, resume=str(tmp_path / "kept"))
    torch.testing.assert_close(context(resumed), context(whole), **EXACT)


def test_a_training_without_it_is_not_resumed_with_it(make_model, tmp_path):
    train(make_model(), tmp_path, save_strategy="epoch")
    with pytest.raises(FileNotFoundError, match="was not aggregated"):
        train(make_model(), tmp_path, PromptAggregation(EPOCHS), resume=str(tmp_path / "checkpoint-6"))


def test_a_sum_of_other_settings_is_refused(make_model, tmp_path):
    train(make_model(), tmp_path, PromptAggregation(EPOCHS, MEAN, STD), save_strategy="epoch")
    with pytest.raises(ValueError, match=r"has `std` 1\.5, and this one 1\.0"):
        PromptAggregation(EPOCHS, MEAN, 1.0).load(tmp_path / "checkpoint-6")


def test_the_best_checkpoint_and_the_mean_contradict_each_other(make_model, tmp_path):
    settings = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    trainer = Trainer(
        make_model(),
        arguments(tmp_path, **settings),
        train_dataset=images(),
        eval_dataset=images(),
        callbacks=[PromptAggregation(EPOCHS)],
    )
    with pytest.raises(ValueError, match="`load_best_model_at_end` and `PromptAggregation` both choose"):
        trainer.train()


def test_another_number_of_epochs_is_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match="The Trainer has 4 epochs and `PromptAggregation` 20"):
        train(make_model(), tmp_path, PromptAggregation(20))


class Stop(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.epoch >= 2


def test_a_training_that_stops_early_has_the_mean_of_its_epochs(make_model, tmp_path):
    model, noted = make_model(), Noted()
    with pytest.warns(UserWarning, match="after 2 of 4 epochs, which hold 5.*% of the weight"):
        train(model, tmp_path, noted, PromptAggregation(EPOCHS, MEAN, STD), Stop())
    first, second = weights_of(EPOCHS, MEAN, STD)[:2]
    expected = (first * noted.contexts[0] + second * noted.contexts[1]) / (first + second)
    torch.testing.assert_close(context(model), expected, **EXACT)


class StopInEpoch(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_a_training_that_stops_before_an_epoch_that_counts_keeps_what_it_learned(make_model, tmp_path):
    """The weight of epoch 1 is exp(-744) of that of the one that counts most, the least that is not 0."""
    model, noted, mean = make_model(), Noted(), 39.57
    start = context(model).clone()
    aggregation = PromptAggregation(42, mean, 1.0)
    assert 0 < aggregation.weights[0] < 1e-300
    with pytest.warns(UserWarning, match="after 1 of 42 epochs, before one that counts with .* has learned last"):
        train(model, tmp_path, noted, aggregation, StopInEpoch(), num_train_epochs=42)
    assert torch.equal(context(model), noted.contexts[-1])
    assert (context(model) - start).abs().max() > 1e-6


def test_a_loop_without_an_epoch_keeps_the_weights():
    model, aggregation = nn.Linear(2, 1), PromptAggregation(3, 2.0)
    weight = model.weight.detach().clone()
    with pytest.warns(UserWarning, match="after 0 of 3 epochs, before one that counts"):
        aggregation.finish(model)
    assert torch.equal(model.weight, weight)


def test_other_weights_than_before_are_refused():
    model, aggregation = nn.Linear(2, 1), PromptAggregation(3)
    aggregation.update(model)
    model.bias.requires_grad_(False)
    for call in (aggregation.update, aggregation.finish):
        with pytest.raises(ValueError, match="Other weights are trained than in the epochs before, 'bias'"):
            call(model)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0,), "`num_epochs` must be a whole number of 1 or more, got 0"),
        ((2.0,), "`num_epochs` must be a whole number"),
        ((2, -1.0), "`mean` must be above 0 and finite, got -1.0"),
        ((2, 1.0, 0), "`std` must be above 0 and finite, got 0"),
        ((2, 1000.0), "No epoch counts: with `mean=1000.0` and `std=1.0`"),
    ],
)
def test_wrong_numbers_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        PromptAggregation(*given)
