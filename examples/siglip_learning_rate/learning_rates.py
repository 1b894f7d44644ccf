"""At which learning rate do context vectors learn on SigLIP, by softmax and by SigLIP's own loss, and on CLIP?

python examples/siglip_learning_rate/learning_rates.py --siglip my-siglip --output learning_rates.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

import torch
from peft import PeftModel, get_peft_model
from pretrain_siglip import make_siglip
from torch import Tensor
from transformers import AutoModel, CLIPImageProcessorPil
from transformers.utils.logging import disable_progress_bar

from peft_coop import CoOpConfig
from peft_coop.data import few_shot_indices, prepare_images
from peft_coop.demo import MODEL_PATH, DemoTask, load_task
from peft_coop.recipes import make_optimizer

LEARNING_RATES = [2e-4, 5e-4, 2e-3, 5e-3, 0.02, 0.1, 0.5]
# Shots and epochs; few, for what is asked is a learning rate.
TASKS = {"digits": (16, 50), "shapes": (4, 100)}
BATCH_SIZE = 32
FULL = {
    "pictures": 40_000, "steps": 1400, "learning_rates": LEARNING_RATES, "tasks": TASKS, "seeds": [1, 2, 3],
    "test_images": None,
}  # fmt: skip
SMOKE = {
    "pictures": 64, "steps": 2, "learning_rates": [0.02], "tasks": {"digits": (1, 2)}, "seeds": [1],
    "test_images": 64,
}  # fmt: skip

# The model of each row, and the loss.
ROWS = {
    "CLIP, softmax": ("clip", "softmax"),
    "SigLIP, softmax": ("siglip", "softmax"),
    "SigLIP, sigmoid": ("siglip", "sigmoid"),
}


def parse_args() -> argparse.Namespace:
    """Settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--siglip", type=Path, help="folder of the tiny SigLIP; it is trained into it where it is not")
    parser.add_argument("--output", type=Path, help="file for the figures")
    parser.add_argument("--smoke", action="store_true", help="seconds: a SigLIP of two steps, two epochs")
    args = parser.parse_args()
    vars(args).update(SMOKE if args.smoke else FULL)
    return args


def make_classifier(path: str, task: DemoTask, loss_type: str, seed: int) -> PeftModel:
    """A CLIP or SigLIP with an untrained prompt of 16 vectors."""
    torch.manual_seed(seed)
    settings = {"class_names": task.class_names, "zero_shot_template": task.zero_shot_template}
    config = CoOpConfig(n_ctx=16, loss_type=loss_type, **settings)
    return get_peft_model(AutoModel.from_pretrained(path), config)


@torch.no_grad()
def image_features(path: str, images: list) -> Tensor:
    """`[N, P]`, of the frozen vision tower."""
    model, processor = AutoModel.from_pretrained(path).eval(), CLIPImageProcessorPil.from_pretrained(path)
    parts = [prepare_images(images[start : start + 64], processor) for start in range(0, len(images), 64)]
    return torch.cat([model.get_image_features(pixel_values=part).pooler_output for part in parts])


@torch.no_grad()
def accuracy(model: PeftModel, features: Tensor, labels: Tensor) -> float:
    """Fraction of the images whose class has the highest logit."""
    model.eval()
    return (model(image_embeds=features).logits.argmax(dim=1) == labels).float().mean().item()


def learn(model: PeftModel, features: Tensor, labels: Tensor, rate: float, epochs: int, seed: int) -> float:
    """Train by the papers' recipe, in place; the norm of the first gradient."""
    steps = max(1, len(features) // BATCH_SIZE)
    optimizer, schedule = make_optimizer(model.parameters(), steps, epochs, rate)
    [ctx] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    order, first_gradient = torch.Generator().manual_seed(seed), None
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(features), generator=order)[: steps * BATCH_SIZE].split(BATCH_SIZE):
            optimizer.zero_grad()
            model(image_embeds=features[rows], labels=labels[rows]).loss.backward()
            first_gradient = first_gradient or ctx.grad.norm().item()
            optimizer.step()
            schedule.step()
    return first_gradient


def try_task(name: str, paths: dict[str, str], args: argparse.Namespace) -> dict:
    """For each loss: zero-shot accuracy, first gradient, and the accuracy at each learning rate, seeds averaged."""
    task, (shots, epochs) = load_task(name), args.tasks[name]
    tested = task.test.shuffle(seed=0).select(range(args.test_images or len(task.test)))
    test_labels = torch.tensor(tested["label"])
    test = {model: image_features(path, list(tested["image"])) for model, path in paths.items()}
    results = {}
    for title, (model_name, loss_type) in ROWS.items():
        path, gradients, by_rate = paths[model_name], [], {rate: [] for rate in args.learning_rates}
        for seed in args.seeds:
            chosen = task.train.select(few_shot_indices(task.train["label"], [], shots, seed)[0])
            features, labels = image_features(path, list(chosen["image"])), torch.tensor(chosen["label"])
            for rate, accuracies in by_rate.items():
                model = make_classifier(path, task, loss_type, seed)
                gradients.append(learn(model, features, labels, rate, epochs, seed))
                accuracies.append(accuracy(model, test[model_name], test_labels))
        with model.disable_adapter():
            zero_shot = accuracy(model, test[model_name], test_labels)
        by_rate = {rate: mean(accuracies) for rate, accuracies in by_rate.items()}
        results[title] = {"zero_shot": zero_shot, "first_gradient": mean(gradients), "accuracy": by_rate}
        row = "  ".join(f"{rate:g}: {100 * value:.1f}" for rate, value in by_rate.items())
        print(f"{name}  {title}  zero-shot {100 * zero_shot:.1f}  gradient {mean(gradients):.1f}  {row}", flush=True)
    return results


def main() -> None:
    """Train the SigLIP if there is none yet, then learn prompts on it and on the demo's CLIP."""
    args = parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        siglip = args.siglip or Path(folder) / "siglip"
        if not (siglip / "model.safetensors").exists():
            make_siglip(siglip, args.pictures, args.steps)
        else:
            print(f"taking the SigLIP that is in {siglip}")
        paths = {"clip": MODEL_PATH, "siglip": str(siglip)}
        results = {name: try_task(name, paths, args) for name in args.tasks}
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
