"""Which learning rate should each method have on the demo's CLIP? Chosen by training images that were not drawn.

python examples/demo_learning_rates/learning_rates.py --output rates
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean

from transformers.utils.logging import disable_progress_bar

from peft_coop.data import ImageData, draw_indices, load_data
from peft_coop.evaluation import FrozenCLIP, PromptLearning, base_to_new, few_shot

METHODS = ("maple", "ivlp", "vpt")
LEARNING_RATES = (0.001, 0.0025, 0.005, 0.01, 0.02)
# The protocol of each task, and its images per class. From base to new, base classes are what a user has images of.
TASKS = {"digits": ("few-shot", 4), "shapes": ("base-to-new", 16)}
SEEDS = (1, 2, 3)
SMOKE = {"methods": ["vpt"], "rates": [0.0025], "shots": 1, "seeds": [1], "num_epochs": 1, "num_images": 40}


def parse_args() -> argparse.Namespace:
    """Settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the runs; finished ones are not done again"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="keys of prompt methods")
    parser.add_argument("--rates", nargs="+", type=float, default=list(LEARNING_RATES), help="learning rates to try")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="of the draws and of the training")
    parser.add_argument("--smoke", action="store_true", help="seconds: a method, a rate, a seed, an epoch")
    args = parser.parse_args()
    vars(args).update({"shots": None, "num_epochs": None, "num_images": None})
    if args.smoke:
        vars(args).update(SMOKE)
    return args


@cache
def held_out(task: str, shots: int, seed: int, num_images: int | None) -> ImageData:
    """The task's images to learn from, and in the place of the test images the training images that are not drawn."""
    data = load_data(f"demo:{task}")
    drawn = set(draw_indices(data, shots, seed)[0])
    rest = [index for index in range(len(data.train)) if index not in drawn]
    if num_images is not None:
        rest = rest[:: max(1, len(rest) // num_images)]
    return replace(data, test=data.train.select(rest))


def accuracy(clip: FrozenCLIP, task: str, key: str, rate: float, seed: int, args: argparse.Namespace) -> float:
    """What a method learns at a rate from a draw of a seed, as a fraction of images that it was not shown."""
    protocol, shots = TASKS[task]
    shots = args.shots or shots
    recipe = {"learning_rate": rate} | ({"num_epochs": args.num_epochs} if args.num_epochs else {})
    images = held_out(task, shots, seed, args.num_images)
    method = PromptLearning(key, recipe=recipe, data=task)
    output = args.output / f"without-draw-{seed}"  # each draw leaves other images out
    if protocol == "few-shot":
        [record] = few_shot(clip, images, [method], output, [shots], [seed])
        return record["results"]["test"]["accuracy"]
    [record] = base_to_new(clip, images, [method], output, shots, [seed])
    return record["results"]["base"]["accuracy"]


def row(name: str, cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Train every method at every rate, and print the means over seeds and tasks; the best rate is the one to take."""
    args = parse_args()
    disable_progress_bar()
    clip = FrozenCLIP.from_pretrained("demo", device="cpu")
    print(row("method", [f"{rate:g}" for rate in args.rates] + ["best"]))
    print(row("---", ["---:"] * (len(args.rates) + 1)))
    for key in args.methods:
        found: dict[float, dict[str, float]] = {}
        for rate in args.rates:
            found[rate] = {
                task: mean(accuracy(clip, task, key, rate, seed, args) for seed in args.seeds) for task in TASKS
            }
        for name in (*TASKS, "mean"):
            values = {rate: mean(by.values()) if name == "mean" else by[name] for rate, by in found.items()}
            best = max(values, key=lambda rate: values[rate])
            print(
                row(f"{key}, {name}", [f"{100 * value:.1f}" for value in values.values()] + [f"{best:g}"]), flush=True
            )


if __name__ == "__main__":
    main()
