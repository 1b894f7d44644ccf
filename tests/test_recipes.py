"""The papers' learning rates, epoch by epoch."""

import json

import pytest
import torch
from conftest import GOLDEN

from peft_coop.recipes import learning_rate, make_optimizer

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


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="No parameter is trainable"):
        make_optimizer([torch.nn.Parameter(torch.ones(1), requires_grad=False)], 1, 1)
    with pytest.raises(ValueError, match="must be 1 or more, got 0, 5"):
        make_optimizer([torch.nn.Parameter(torch.ones(1))], 0, 5)
