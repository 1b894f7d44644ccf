"""Every prompt method of this library, and PEFT's LoRA, IA3 and LayerNorm tuning, on one few-shot task.

OMP_NUM_THREADS=1 python examples/method_comparison/run.py
OMP_NUM_THREADS=1 python examples/method_comparison/run.py --seeds 1 2 3 --methods coop lora

Only what is missing is done; the table and the figures are made anew.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from experiments import every_method
from measure import measure
from report import write_report

HERE = Path(__file__).parent


def parse_args() -> argparse.Namespace:
    """Settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(every_method()), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="of the images and the training")
    parser.add_argument("--shots", type=int, default=16, help="training images per class")
    parser.add_argument("--data", default="digits", choices=("digits", "shapes"), help="of the demo")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of `results`, table and figures")
    parser.add_argument("--smoke", action="store_true", help="seconds: three methods, two shots, one epoch")
    args = parser.parse_args()
    return argparse.Namespace(**{**vars(args), **({"shots": 2} if args.smoke else {})})


def main() -> None:
    """Do the runs that are missing, each in a process of its own, so that its memory is its own."""
    args = parse_args()
    results = args.output / "results"
    results.mkdir(parents=True, exist_ok=True)
    processes = get_context("fork" if args.smoke else "forkserver")  # which imports nothing, and shares memory
    if not args.smoke:
        processes.set_forkserver_preload(["transformers", "peft", "datasets", "peft_coop.evaluation"])  # once for all
    for seed in args.seeds:
        for key in every_method(args.smoke):
            path = results / f"{key}--{args.data}-{args.shots}shots-seed{seed}.json"
            if path.exists() or (args.methods and key not in args.methods):
                continue
            print(f"{key}, seed {seed}", flush=True)
            with ProcessPoolExecutor(1, processes) as one:
                record = one.submit(measure, key, args.data, args.shots, seed, args.device, args.smoke).result()
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(write_report(results, args.output))


if __name__ == "__main__":
    main()
