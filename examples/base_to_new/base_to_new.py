"""Learn prompts from half of the classes, and classify into these and into the other half.

python base_to_new.py
python base_to_new.py --data coop:oxford_pets@DATA coop:dtd@DATA --model openai/clip-vit-base-patch16
"""

from __future__ import annotations

import argparse
from pathlib import Path

from peft_coop import demo
from peft_coop.data import ImageData, load_data
from peft_coop.evaluation import (
    ComparedMethod,
    FrozenCLIP,
    LinearProbe,
    PromptLearning,
    ZeroShot,
    base_to_new,
    format_report,
    load_runs,
    write_report,
)

SMOKE = {"num_shots": 2, "num_epochs": 1, "seeds": [1]}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["demo:shapes"], help="demo:…, folder:…, hub:… or coop:NAME@DATA")
    parser.add_argument("--model", default="demo", help="CLIP on the Hub or in a folder; demo: the one in the package")
    parser.add_argument("--num_shots", type=int, default=16, help="training images per class")
    parser.add_argument("--num_epochs", type=int, help="default: the papers', 200 for CoOp's 16 shots, 10 for CoCoOp")
    parser.add_argument("--learning_rate", type=float, help="default: the papers' 0.002, and 0.02 for the demo's CLIP")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of the drawn images and the training")
    parser.add_argument("--output_dir", type=Path, default=Path("output"))
    parser.add_argument("--smoke", action="store_true", help="seconds: a seed, an epoch, two images per class")
    args = parser.parse_args()
    if args.smoke:
        vars(args).update(SMOKE)
    return args


def make_methods(args: argparse.Namespace, data: ImageData) -> list[ComparedMethod]:
    rate = args.learning_rate or (demo.LEARNING_RATE if args.model == "demo" else None)
    recipe = {"num_epochs": args.num_epochs, "learning_rate": rate}
    recipe = {name: value for name, value in recipe.items() if value is not None}  # the others are the papers'
    return [ZeroShot(), LinearProbe(), *(PromptLearning(key, {}, recipe, data.name) for key in ("coop", "cocoop"))]


def main() -> None:
    args = parse_args()
    clip = FrozenCLIP.from_pretrained(args.model)
    records = []
    for source in args.data:
        data = load_data(source)
        methods = make_methods(args, data)
        records += base_to_new(clip, data, methods, args.output_dir, args.num_shots, args.seeds)
    runs = load_runs(record["folder"] for record in records)
    print(format_report(runs))
    for path in write_report(runs, args.output_dir / "report"):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
