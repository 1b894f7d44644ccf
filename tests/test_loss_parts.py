"""The callback that logs the parts of the loss with the Trainer's own numbers."""

import pytest
import torch
from conftest import make_clip
from method_kinds import small_config
from peft import get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from peft_coop import LossPartsCallback


class Reporter(TrainerCallback):
    """Sees what TensorBoard's would."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(dict(logs))


@pytest.fixture
def train(tokenizer_path, tmp_path):
    def train(method, in_front=False, **settings):
        torch.manual_seed(0)
        config = small_config(method, class_names=["cat", "dog", "kite"], tokenizer_name_or_path=tokenizer_path)
        model = get_peft_model(make_clip(), config)
        images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images)]
        settings = {"max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 2, **settings}
        reporter = Reporter()
        trainer = Trainer(
            model,
            TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, learning_rate=0.1, **settings),
            train_dataset=data,
            eval_dataset=data[:3],
            callbacks=[reporter] if in_front else [LossPartsCallback(), reporter],
        )
        if in_front:
            LossPartsCallback().add_to(trainer)
        forwards = []
        model.register_forward_hook(lambda module, given, outputs: forwards.append(outputs))
        trainer.train()
        assert not [each for each in model._forward_hooks.values() if "LossPartsCallback" in each.__qualname__]
        trainer.evaluate()
        parts = [each.loss_parts for each in forwards if each.loss_parts is not None]
        return trainer.state.log_history, reporter.seen, parts

    return train


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize("method, name", [("kgcoop", "kg"), ("prograd", "kl")])
def test_means_since_the_last_log(train, method, name, in_front, accumulation):
    history, seen, parts = train(method, in_front, gradient_accumulation_steps=accumulation)
    logs = [entry for entry in history if "loss" in entry]
    assert len(logs) == 2
    assert len(parts) == 4 * accumulation
    for place, entry in enumerate(logs):
        since = parts[place * 2 * accumulation : (place + 1) * 2 * accumulation]
        for part in ("cross_entropy", name):
            mean = sum(each[part].item() for each in since) / len(since)
            assert entry[f"loss_{part}"] == pytest.approx(mean, rel=1e-5)
            assert seen[place][f"loss_{part}"] == entry[f"loss_{part}"]
    if method == "kgcoop":
        assert logs[0]["loss"] == pytest.approx(logs[0]["loss_cross_entropy"] + 8 * logs[0]["loss_kg"], rel=1e-4)
    assert not [entry for entry in history if "eval_loss" in entry and f"loss_{name}" in entry]


def test_nothing_is_added_where_there_are_no_parts(train):
    history, _, parts = train("coop")
    assert parts
    assert not [key for entry in history for key in entry if key.startswith("loss_")]
