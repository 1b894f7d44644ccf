"""Training as shipped against the original's own training: recipe, Trainer, schedule, and no clipping.

`training.safetensors` was written by `examples/fidelity/golden.py`, which runs the original's trainer.
"""

import math

import pytest
import torch
from conftest import GOLDEN
from peft import get_peft_model
from safetensors.torch import load_file
from test_golden import learnable

from peft_coop.evaluation import PromptLearning, train_prompt
from peft_coop.recipes import Recipe, learning_rate

TRAINING = load_file(GOLDEN / "training.safetensors")
# The prompt, and how long and in what batches the original trained it.
CASES = {
    "end": ("coop", {"n_ctx": 4}, 10, 6),
    "middle": ("coop", {"n_ctx": 4, "class_token_position": "middle"}, 10, 6),
    "front": ("coop", {"n_ctx": 4, "class_token_position": "front"}, 10, 6),
    "class-specific": ("coop", {"n_ctx": 4, "class_specific_context": True}, 10, 6),
    "cocoop": ("cocoop", {}, 2, 1),
}


def expected(key: str) -> dict[str, torch.Tensor]:
    prefix = f"{key}/"
    return {name.removeprefix(prefix): value for name, value in TRAINING.items() if name.startswith(prefix)}


@pytest.fixture
def train(golden, golden_clip, tokenizer_path, tmp_path):
    """Train a case on the golden images, from the original's start; the losses and what was learned."""
    with torch.no_grad():
        golden_clip.logit_scale.fill_(math.log(100))

    def trained(key: str, **arguments):
        method, context, num_epochs, batch_size = CASES[key]
        prompt = PromptLearning(method, context, {"num_epochs": num_epochs, "batch_size": batch_size})
        names = {"class_names": golden["class_names"], "tokenizer_name_or_path": tokenizer_path}
        model = get_peft_model(golden_clip, prompt.make_config(**names))
        for name, parameter in learnable(model).items():
            parameter.data.copy_(expected(key)[f"start.{name}"])
        losses = []
        model.register_forward_hook(lambda *call: losses.append(call[-1].loss.item()))
        images, labels = golden["tensors"]["pixel_values"], golden["tensors"]["labels"]
        data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
        recipe = prompt.recipe_for(num_shots=1)
        arguments = {"train_sampling_strategy": "sequential", **arguments}
        train_prompt(model, data, recipe, seed=1, folder=tmp_path, **arguments)
        return torch.tensor(losses, dtype=torch.float64), learnable(model)

    return trained


@pytest.mark.parametrize("key", CASES)
def test_training_as_shipped_has_the_originals_losses(train, key):
    losses, learned = train(key)
    reference = expected(key)
    assert len(losses) == len(reference["losses"]) >= 10
    # The Trainer's default would clip every one of these steps.
    assert (reference["norms"] > 1).all()
    torch.testing.assert_close(losses[:10], reference["losses"][:10], atol=1e-4, rtol=0)
    torch.testing.assert_close(losses, reference["losses"], atol=2e-4, rtol=0)
    for name, parameter in learned.items():
        torch.testing.assert_close(parameter.detach(), reference[f"final.{name}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", ["middle", "cocoop"])
def test_clipping_would_be_noticed(train, key):
    """The Trainer's own default leads elsewhere: the test above can fail."""
    losses, _ = train(key, max_grad_norm=1.0)
    assert (losses - expected(key)["losses"]).abs().max() > 1e-2


@pytest.mark.parametrize("key", CASES)
def test_the_schedule_is_that_of_the_originals_trainer(key):
    _, _, num_epochs, batch_size = CASES[key]
    steps = Recipe(num_epochs, batch_size).steps_per_epoch(6)
    rates = [learning_rate(epoch, num_epochs) for epoch in range(num_epochs) for _ in range(steps)]
    assert rates == pytest.approx(expected(key)["rates"].tolist(), rel=1e-6)


def test_nothing_is_clipped_unless_asked_for(tmp_path):
    assert Recipe(1, 1).arguments(str(tmp_path), 1).max_grad_norm == 0.0
    assert Recipe(1, 1).arguments(str(tmp_path), 1, max_grad_norm=2.0).max_grad_norm == 2.0
