"""What augmented views that are computed once are worth, beside fixed features and pixels that are drawn every epoch.

OMP_NUM_THREADS=1 python examples/augmented_views/compare.py --photographs folder:CIFAR-10-images
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from report import write_report

from peft_coop import demo
from peft_coop.data import ImageData, load_data
from peft_coop.evaluation import FrozenCLIP, PromptLearning, draw_images, scores

HERE = Path(__file__).parent
# How a prompt is trained, by what a table calls it.
WAYS: dict[str, dict[str, Any]] = {
    "fixed features": {},
    "--views 1": {"views": 1},
    "--views 4": {"views": 4},
    "--views 16": {"views": 16},
    "--augment": {"augment": True},
}
# Dataset, shots, seeds; the papers' epochs belong to the shots.
FULL = [
    ("digits", 4, (1, 2, 3, 4, 5)),
    ("digits", 16, (1, 2, 3)),
    ("shapes", 4, (1, 2, 3, 4, 5)),
    ("photographs", 4, (1, 2, 3, 4, 5)),
    ("photographs", 16, (1, 2, 3)),
]
SMOKE = [("digits", 1, (1, 2))]
# So many test images of each class of the photographs: the first by their names.
TEST_IMAGES = 100


def parse_args() -> argparse.Namespace:
    """Settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", help="where they are, as --data of the commands; without it they are left out")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results, table and figure")
    parser.add_argument("--smoke", action="store_true", help="seconds: digits, one shot, two epochs")
    return parser.parse_args()


def load(name: str, photographs: str | None) -> ImageData | None:
    """A dataset; None where it is not at hand."""
    if name != "photographs":
        return load_data(f"demo:{name}")
    if photographs is None:
        return None
    data = load_data(photographs)
    labels, first = list(data.test["label"]), []
    for label in range(len(data.class_names)):
        first += [index for index, other in enumerate(labels) if other == label][:TEST_IMAGES]
    return replace(data, name=name, test=data.test.select(first))


def run(clip: FrozenCLIP, data: ImageData, way: str, shots: int, seed: int, recipe: dict[str, Any]) -> dict[str, Any]:
    """Train once; accuracy as a fraction, and what training took, features included, in seconds of the processor."""
    recipe = {"learning_rate": demo.LEARNING_RATE, **recipe}
    method = PromptLearning("coop", recipe=recipe, flip=data.flip, **WAYS[way]).for_protocol("few-shot")
    images = draw_images(data, shots, seed)
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"  # nobody has computed these features before
        started = time.process_time()
        classifier = method.fit(clip, images, seed, Path(folder) / "training")
        seconds = time.process_time() - started
    measured = scores(classifier.logits(data.test, data.class_names), data.test["label"])
    return {"accuracy": measured["accuracy"], "ece": measured["ece"], "seconds": seconds}


def missing(done: list[dict[str, Any]], plan: list) -> Iterator[dict[str, Any]]:
    """The runs that are not done yet, one dataset and seed after the other."""
    names = ("data", "shots", "seed", "way")
    known = {tuple(each[name] for name in names) for each in done}
    for data, shots, seeds in plan:
        for seed in seeds:
            for way in WAYS:
                if (data, shots, seed, way) not in known:
                    yield dict(zip(names, (data, shots, seed, way), strict=True))


def main() -> None:
    """Do the runs that are missing, and write the table and the figure."""
    args = parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    results = args.output / "results.json"
    done = json.loads(results.read_text()) if results.exists() else []
    clip, loaded = FrozenCLIP.from_pretrained("demo", device="cpu"), {}
    for each in missing(done, SMOKE if args.smoke else FULL):
        name = each["data"]
        if name not in loaded:
            loaded[name] = load(name, args.photographs)
        if loaded[name] is None:
            continue
        recipe = {"num_epochs": 2} if args.smoke else {}
        done.append(each | run(clip, loaded[name], each["way"], each["shots"], each["seed"], recipe))
        results.write_text(json.dumps(done, indent=1) + "\n")
    print(write_report(done, list(WAYS), args.output))


if __name__ == "__main__":
    main()
