"""The papers' learning rates, epoch by epoch."""

import json

import pytest
import torch
from conftest import GOLDEN
from transformers import Trainer, TrainerCallback

from peft_coop.evaluation.reports.finished_runs import SPLITS
from peft_coop.methods import METHODS, find_method
from peft_coop.recipes import (
    PROTOCOLS,
    Recipe,
    learning_rate,
    make_optimizer,
    trainer_steps,
)

LEARNING_RATES = json.loads((GOLDEN / "learning_rate.json").read_text())


@pytest.mark.parametrize("num_epochs", [int(key) for key in LEARNING_RATES])
def test_the_same_learning_rates_as_the_original(num_epochs):
    rates = [learning_rate(epoch, num_epochs) for epoch in range(num_epochs)]
    assert rates == pytest.approx(LEARNING_RATES[str(num_epochs)], rel=1e-6)


def test_the_schedule_changes_per_epoch():
    parameters = [torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1), requires_grad=False)]
    optimizer, scheduler = make_optimizer(parameters, steps_per_epoch=3, num_epochs=10)
    rates = []
    for _ in range(30):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[::3] == pytest.approx(LEARNING_RATES["10"], rel=1e-6)
    assert rates[1::3] == rates[::3]
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


@pytest.mark.parametrize(
    ("recipe", "kind", "more"),
    [
        (Recipe(2, 4, 3e-3, weight_decay=7e-5), torch.optim.SGD, {"momentum": 0.9}),
        (Recipe(2, 4, 3e-3, "adam", 7e-5, "constant", 1e-4), torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-4}),
    ],
)
def test_the_optimizer_has_all_numbers_of_the_recipe(recipe, kind, more, tmp_path):
    model = torch.nn.Linear(2, 2)
    arguments = recipe.arguments(str(tmp_path), 8, use_cpu=True)
    optimizer, _ = recipe.optimizers(model, arguments, 8)
    assert type(optimizer) is kind
    expected = {"weight_decay": 7e-5, **more}
    assert {name: optimizer.defaults[name] for name in expected} == expected
    assert {name: optimizer.param_groups[0][name] for name in expected} == expected
    assert optimizer.defaults["lr"] == 3e-3


def mmcv_rates(base: float, last: float, warm_up: int, steps: int) -> list[float]:
    """As mmcv's `PolyLrUpdaterHook` computes them, with a linear warm-up from a millionth."""
    rates = []
    for step in range(steps):
        rate = (base - last) * (1 - step / steps) ** 0.9 + last
        if step < warm_up:
            rate *= 1 - (1 - step / warm_up) * (1 - 1e-6)
        rates.append(rate)
    return rates


def test_poly_is_mmcvs_for_every_group_in_its_ratio(tmp_path):
    recipe = Recipe(4, 2, 1e-4, optimizer="adamw", schedule="poly", warm_up=0.25, last_learning_rate=1e-6)
    model = torch.nn.Linear(2, 1)
    optimizer, scheduler = recipe.optimizers(model, recipe.arguments(str(tmp_path), num_images=6), num_images=6)
    rates = []
    for _ in range(12):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(mmcv_rates(1e-4, 1e-6, warm_up=3, steps=12), rel=1e-9)
    assert scheduler.get_last_lr()[0] == pytest.approx(1e-6, rel=1e-9)


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_a_training_of_so_many_steps_has_the_schedule_of_these(schedule, tmp_path):
    """`max_steps` ends a training: 20 of 10 images each are 5 epochs of 40, whatever the recipe has."""
    rates = []
    for num_epochs, more in ((50, {"max_steps": 20}), (5, {})):
        recipe = Recipe(num_epochs, 10, schedule=schedule)
        arguments = recipe.arguments(str(tmp_path), 40, use_cpu=True, **more)
        optimizer, scheduler = recipe.optimizers(torch.nn.Linear(1, 1), arguments, 40)
        rates.append([])
        for _ in range(20):
            rates[-1].append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0][-1] < rates[0][4] / 2


def test_a_models_own_groups_are_trained(tmp_path):
    class InGroups(torch.nn.Linear):
        def param_groups(self, lr, weight_decay):
            yield {"params": [self.weight], "lr": 0.1 * lr, "weight_decay": weight_decay}
            yield {"params": [self.bias], "lr": lr, "weight_decay": 0.0}

    recipe = Recipe(1, 2, 1e-3, optimizer="adamw", weight_decay=0.5, schedule="poly", last_learning_rate=1e-4)
    optimizer, scheduler = recipe.optimizers(InGroups(2, 2), recipe.arguments(str(tmp_path), 4), 4)
    assert [(group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (1e-4, 0.5),
        (1e-3, 0),
    ]
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([1e-5, 1e-4])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"warm_up": 1.0, "schedule": "poly"}, "`warm_up` must be a share of the steps, from 0 to below 1, got 1.0"),
        ({"warm_up": 0.1}, "`warm_up` and `last_learning_rate` are of the schedule 'poly', got them with 'cosine'"),
        ({"last_learning_rate": 1e-6, "schedule": "constant"}, "are of the schedule 'poly', got them with 'constant'"),
        ({"last_learning_rate": 1.0, "schedule": "poly"}, "must be from 0 to the learning rate, 0.002, got 1.0"),
    ],
)
def test_what_a_schedule_does_not_take_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        Recipe(1, 1, **more)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="No parameter is trainable"):
        make_optimizer([torch.nn.Parameter(torch.ones(1), requires_grad=False)], 1, 1)
    with pytest.raises(ValueError, match="must be 1 or more, got 0, 5"):
        make_optimizer([torch.nn.Parameter(torch.ones(1))], 0, 5)


@pytest.mark.parametrize(
    ("method", "num_shots", "data", "num_epochs", "batch_size"),
    [
        ("coop", 1, None, 50, 32),
        ("coop", 2, "dtd", 100, 32),
        ("coop", 3, None, 100, 32),
        ("coop", 16, "dtd", 200, 32),
        ("coop", 100, None, 200, 32),
        ("coop", 16, "imagenet", 50, 32),
        ("cocoop", 16, "imagenet", 10, 1),
    ],
)
def test_the_papers_recipes(method, num_shots, data, num_epochs, batch_size):
    assert METHODS[method].recipe(num_shots, data) == Recipe(num_epochs, batch_size, 0.002)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_papers_context_vectors(protocol):
    """Those of the original's scripts, which have a configuration file for each."""
    words = {"n_ctx": None, "ctx_init": "a photo of a"}
    if protocol == "composition":  # all methods start as the zero-shot prompt, and are trained as CSP is
        words = {"n_ctx": None, "ctx_init": "a photo of", "class_template": "{}"}
        assert METHODS["cocoop"].recipe(16, "mit-states", protocol) == Recipe(20, 128, 5e-5, "adam", 1e-5, "constant")
        assert METHODS["coop"].recipe(16, "ut-zappos", protocol) == Recipe(20, 128, 5e-4, "adam", 1e-5, "constant")
        assert METHODS["csp"].fields(protocol) == {"embed_dropout": 0.3}
        assert METHODS["csp"].fields(protocol, "ut-zappos") == {"embed_dropout": 0.2}
    random = protocol in ("few-shot", "ablation")
    assert METHODS["coop"].fields(protocol) == ({"n_ctx": 16, "ctx_init": None} if random else words)
    assert METHODS["cocoop"].fields(protocol) == words


def test_every_protocol_has_context_vectors():
    assert sorted(PROTOCOLS) == sorted(each for each in SPLITS if not each.endswith("-trials"))  # of the same settings
    with pytest.raises(ValueError, match=r"`protocol` must be one of \('few-shot', .*, got 'few_shot'"):
        METHODS["coop"].fields("few_shot")


def test_unknown_recipes_are_refused():
    with pytest.raises(ValueError, match=r"`method` must be one of \('coop', 'cocoop'.*\), got 'unheard-of'"):
        find_method("unheard-of")
    with pytest.raises(ValueError, match="`num_shots` must be 1 or more, got 0"):
        METHODS["coop"].recipe(0)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="`batch_size` must be above 0 and finite, got 0"):
        Recipe(num_epochs=1, batch_size=0)


@pytest.mark.parametrize(("num_images", "steps"), [(10, 1), (32, 1), (40, 1), (64, 2), (160, 5)])
def test_the_trainer_takes_as_many_steps_as_the_schedule_expects(tmp_path, num_images, steps):
    """And the learning rate of each is that of its epoch: 1e-5 and then the cosine."""
    recipe = Recipe(num_epochs=3, batch_size=32)
    model = Line()
    rates = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            rates.append(optimizer.param_groups[0]["lr"])

    arguments = recipe.arguments(str(tmp_path), num_images, save_strategy="no", disable_tqdm=True)
    data = [{"x": torch.ones(1), "labels": torch.ones(1)} for _ in range(num_images)]
    Trainer(
        model,
        arguments,
        train_dataset=data,
        optimizers=recipe.optimizers(model, arguments, num_images),
        callbacks=[Watch()],
    ).train()
    assert trainer_steps(arguments, num_images) == recipe.steps_per_epoch(num_images) == steps
    assert rates == pytest.approx([learning_rate(epoch, 3) for epoch in range(3) for _ in range(steps)])


def test_accumulated_batches_are_one_step(tmp_path):
    arguments = Recipe(1, 4).arguments(str(tmp_path), 40, gradient_accumulation_steps=4)
    assert trainer_steps(arguments, 40) == 3


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, labels=None):
        return {"loss": ((self.slope * x - labels) ** 2).mean()}
