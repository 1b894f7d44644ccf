"""Learn a prompt from one dataset, and classify images of the same classes that look different.

python domain_generalisation.py
python domain_generalisation.py --data DATA --model openai/clip-vit-base-patch16
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import ImageFilter, ImageOps
from PIL.Image import Image

from peft_coop import demo
from peft_coop.data import ImageData, load_data
from peft_coop.evaluation import (
    ComparedMethod,
    FrozenCLIP,
    LinearProbe,
    PromptLearning,
    ZeroShot,
    domain_generalisation,
    format_report,
    load_runs,
    write_report,
)

IMAGENET_TARGETS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
CONTEXT_LENGTHS = (4, 16)
SMOKE = {"num_shots": 2, "num_epochs": 1, "seeds": [1]}


def invert(image: Image) -> Image:
    return ImageOps.invert(image)


def blur(image: Image) -> Image:
    return image.filter(ImageFilter.GaussianBlur(3))


def turn(image: Image) -> Image:
    return image.rotate(30)


DEMO_TARGETS = {"inverted": invert, "blurred": blur, "turned": turn}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of ImageNet and its variants; default: the demo's digits")
    parser.add_argument("--model", default="demo", help="CLIP on the Hub or in a folder; demo: the one in the package")
    parser.add_argument("--num_shots", type=int, default=16, help="training images per class")
    parser.add_argument("--num_epochs", type=int, help="default: the paper's, 50 for ImageNet and 200 for other data")
    parser.add_argument("--learning_rate", type=float, help="default: the paper's 0.002, and 0.02 for the demo's CLIP")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of the drawn images and the training")
    parser.add_argument("--output_dir", type=Path, default=Path("output"))
    parser.add_argument("--smoke", action="store_true", help="seconds: a seed, an epoch, two images per class")
    args = parser.parse_args()
    if args.smoke:
        vars(args).update(SMOKE)
    return args


def load_imagenet(folder: str) -> tuple[ImageData, list[ImageData]]:
    """The source and its targets; the last two have 200 of its classes."""
    return load_data(f"coop:imagenet@{folder}"), [load_data(f"coop:{name}@{folder}") for name in IMAGENET_TARGETS]


def load_digits() -> tuple[ImageData, list[ImageData]]:
    """Scanned digits, and their test images changed."""
    source = load_data("demo:digits")
    return source, [changed(source, name, change) for name, change in DEMO_TARGETS.items()]


def changed(source: ImageData, name: str, change: Callable[[Image], Image]) -> ImageData:
    test = source.test.map(lambda row: {"image": change(row["image"])})
    return replace(source, name=f"{source.name} {name}", train=source.train.select([]), test=test)


def make_methods(args: argparse.Namespace, source: ImageData) -> list[ComparedMethod]:
    rate = args.learning_rate or (demo.LEARNING_RATE if args.model == "demo" else None)
    recipe = {"num_epochs": args.num_epochs, "learning_rate": rate}
    recipe = {name: value for name, value in recipe.items() if value is not None}  # the others are the paper's
    coop = PromptLearning("coop", recipe=recipe, data=source.name)
    return [ZeroShot(), LinearProbe(), *coop.grid(n_ctx=CONTEXT_LENGTHS)]


def main() -> None:
    args = parse_args()
    source, targets = load_imagenet(args.data) if args.data else load_digits()
    clip, methods = FrozenCLIP.from_pretrained(args.model), make_methods(args, source)
    records = domain_generalisation(clip, source, targets, methods, args.output_dir, args.num_shots, args.seeds)
    runs = load_runs(record["folder"] for record in records)
    print(format_report(runs))
    for path in write_report(runs, args.output_dir / "report"):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
