"""Training steps of the whole model with the Trainer, and the memory they take above the model.

Exact softmax over 21,000 classes with CoOp; CoCoOp with a batch of 32 images and 100 classes. The tower has ViT-B/16's
sizes and random weights; images are features computed before.
"""

import argparse
import tempfile
import time

import torch
from bench import make_clip, resident
from cases import WIDTH, many_names
from datasets import Dataset
from peft import get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from peft_coop import CoCoOpConfig, CoOpConfig

BATCH_SIZE = 32
CASES = {"coop": (CoOpConfig, 21_000), "cocoop": (CoCoOpConfig, 100)}


class StepTimer(TrainerCallback):
    """Seconds of every step."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *args, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.seconds.append(time.perf_counter() - self.started)


def run(method: str, n_cls: int, steps: int, tokenizer: str) -> None:
    """Train a few steps and print what they took."""
    config_class = CASES[method][0]
    names = [row.name for row in many_names(n_cls)]
    model = get_peft_model(make_clip(), config_class(class_names=names, tokenizer_name_or_path=tokenizer))
    images = torch.nn.functional.normalize(torch.randn(steps * BATCH_SIZE, WIDTH), dim=-1)
    train = Dataset.from_dict({"image_embeds": images.tolist(), "label": [row % n_cls for row in range(len(images))]})
    timer = StepTimer()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew; it would include what loading took
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"per_device_train_batch_size": BATCH_SIZE, "num_train_epochs": 1, "learning_rate": 0.002}
        settings["max_grad_norm"] = 0.0  # the papers' training clips no gradient
        settings |= {"optim": "sgd", "save_strategy": "no", "report_to": "none", "dataloader_pin_memory": False}
        arguments = TrainingArguments(folder, **settings)
        result = Trainer(model, arguments, train_dataset=train, callbacks=[timer]).train()
    peak = (resident("VmHWM") - before) / 2**30
    seconds = ", ".join(f"{each:.1f}" for each in timer.seconds)
    print(
        f"{method}: {n_cls:,} classes, batch {BATCH_SIZE}: {seconds} s a step, {peak:.2f} GiB above the model, "
        f"loss {result.training_loss:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=CASES)
    parser.add_argument("--classes", type=int, help="default: 21,000 for CoOp, 100 for CoCoOp")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tokenizer", default="openai/clip-vit-base-patch16", help="Hub name or folder")
    options = parser.parse_args()
    n_cls = options.classes or CASES[options.method][1]
    run(options.method, n_cls, options.steps, options.tokenizer)


if __name__ == "__main__":
    main()
