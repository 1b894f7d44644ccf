"""Trains in one of several processes, for `test_distributed.py`: `distributed_worker.py SETTINGS.json`.

Rank 0 writes the losses and the learned context of every setting to the file that the settings name.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from conftest import make_clip
from method_kinds import small_config
from peft import get_peft_model
from task_inputs import IGNORED, as_given, labels_as_given
from tiny_families import draw_weights
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from peft_coop import LossPartsCallback

CLASS_NAMES = ["old cat", "red dog", "old kite"]
LEARNING_RATE = 0.05
# A method with as many prompts as it can have where the text tower is the deeper one: what has no place in the vision
# tower is not trained, or DDP would wait for it.
DEEPER = {"maple": ({"num_hidden_layers": 3}, {"prompt_depth": 3})}


def make_model(method: str, tokenizer: str):
    of_text, of_config = DEEPER.get(method, ({}, {}))
    clip = make_clip(**of_text)
    config = small_config(method, class_names=CLASS_NAMES, tokenizer_name_or_path=tokenizer, **of_config)
    if config.changes_vision:  # with weights as small as those, prompts hide the image
        torch.manual_seed(0)
        draw_weights(clip)
    # Every rank begins elsewhere: it must take over what rank 0 has.
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    return get_peft_model(clip, config).double()


def make_data(count: int, method: str) -> list[dict[str, torch.Tensor]]:
    images = {"pixel_values": torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
    labels = labels_as_given(method, torch.arange(count) % 3, images)
    pixel_values = as_given(method, images)["pixel_values"]
    return [{"pixel_values": image, "labels": label} for image, label in zip(pixel_values, labels, strict=True)]


class InOrderTrainer(Trainer):
    """A Trainer that reads the data in order, so that the global batches are the same with any number of ranks."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def train_with_trainer(
    model, method: str, batch_size: int, accumulation: int, steps: int, folder: str
) -> tuple[list[float], float]:
    """Losses of the steps, and the loss in evaluation.

    Every rank evaluates as many images as the others: else the Trainer counts some twice.
    """
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    world = int(os.environ.get("WORLD_SIZE", 1))
    data = make_data(batch_size * accumulation * steps * world, method)
    callbacks = [LossPartsCallback()]
    trainer = InOrderTrainer(
        model, arguments, train_dataset=data, eval_dataset=make_data(8, method), callbacks=callbacks
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    model.noted_parts = [entry["loss_kg"] for entry in trainer.state.log_history if "loss_kg" in entry]
    return losses, trainer.evaluate()["eval_loss"]


def train_with_accelerate(
    model, method: str, batch_size: int, accumulation: int, steps: int, folder: str
) -> tuple[list[float], float]:
    """The same with a loop over an Accelerator; the ranks cannot share the images of the evaluation evenly."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    data = make_data(batch_size * accumulation * steps * accelerator.num_processes, method)
    optimizer = torch.optim.SGD((each for each in model.parameters() if each.requires_grad), lr=LEARNING_RATE)
    model, optimizer, train, test = accelerator.prepare(
        model, optimizer, DataLoader(data, batch_size), DataLoader(make_data(7, method), batch_size)
    )
    model.train()
    losses = []
    for batch in train:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            losses.append(accelerator.gather(loss.detach()).mean().item())
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    logits, labels = [], []
    for batch in test:
        with torch.no_grad():
            outputs = model(**batch)
        for gathered, each in zip((logits, labels), (outputs.logits, batch["labels"]), strict=True):
            gathered.append(accelerator.gather_for_metrics(each))
    logits, labels = torch.cat(logits), torch.cat(labels)
    if labels.dim() > 1:  # of pixels, and the logits of a coarser grid
        logits = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear")
    return losses, torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED).item()


LOOPS = {"trainer": train_with_trainer, "accelerate": train_with_accelerate}


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    results = []
    for loop, method, batch_size, accumulation in settings["runs"]:
        model = make_model(method, settings["tokenizer"])
        losses, eval_loss = LOOPS[loop](model, method, batch_size, accumulation, settings["steps"], settings["folder"])
        context = [each.detach().flatten() for name, each in model.named_parameters() if "learned_prompts" in name]
        learned = {"context": torch.cat(context).tolist(), "kg": getattr(model, "noted_parts", [])}
        results.append({"losses": losses, "eval_loss": eval_loss, **learned})
        for state in (AcceleratorState, GradientState):
            state._reset_state()
    if PartialState().is_main_process:
        Path(settings["results"]).write_text(json.dumps(results))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
