"""The text side of prompt learning: the prefix tree against prompts padded to 77 positions and to the longest one.

All run in one process, in turn, on ViT-B/16's text tower with random weights.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from cases import HERE, LAYERS, WIDTH, Case, counts, flops, make_vectors, sequences_of, table_cases
from image_side import cached_features, inference
from own_process import in_own_process
from reference import LENGTH, Reference, objective
from timing import timed
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel

from peft_coop.towers import text_tower
from peft_coop.towers.tree_prompts import TreePrompts

REFERENCE_IMAGES = 2  # CoCoOp's padded form is timed on so many images and multiplied
COMPARED = 100  # classes whose features are compared between the forms


def make_clip(width: int = WIDTH, layers: int = LAYERS) -> CLIPModel:
    """CLIP's text tower with random weights, ViT-B/16's unless told otherwise, and a vision tower of no size."""
    torch.manual_seed(0)
    text = dict(hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 64)
    text |= dict(num_hidden_layers=layers)
    vision = dict(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=8
    )
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    clip.eval().requires_grad_(False)
    text_tower(clip).install()
    return clip


def tree_step(clip, prompts, vectors, memory=None):
    """Forward and backward of all classes, and of all images, in one call."""
    more = {} if memory is None else {"memory": memory}
    objective(text_tower(clip).encode(prompts, vectors, **more)).backward()


def matrix_speed(seconds: float = 0.3) -> float:
    """Floating-point operations per second of a matrix product in float32 of a layer's shape."""
    rows, weight = torch.randn(1024, WIDTH), torch.randn(4 * WIDTH, WIDTH)
    torch.nn.functional.linear(rows, weight)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        torch.nn.functional.linear(rows, weight)
        done += 2 * rows.numel() * len(weight)
    return done / (time.perf_counter() - started)


def compare(clip, prompts, vectors, references) -> float:
    """The largest difference of normalised features between the tree and other forms.

    It is the warm-up of all, too: the first touch of so much memory costs seconds.
    """
    tree_step(clip, prompts, vectors)
    first = vectors[:1] if vectors.dim() == 3 else vectors
    features = text_tower(clip).encode(prompts, first)[..., :COMPARED, :]
    others = [reference.features(first, slice(0, COMPARED)) for reference in references]
    for other in others:
        objective(other).backward()
    normalised = [torch.nn.functional.normalize(each.detach().float(), dim=-1) for each in (features, *others)]
    return max((other - normalised[0]).abs().max().item() for other in normalised[1:])


def measure(clip, case: Case, repeats: int) -> dict:
    """Time one case: the forms in turn, with the machine's matrix speed in between."""
    sequences = sequences_of(case)
    prompts, vectors = TreePrompts(sequences), make_vectors(case)
    padded, trimmed = Reference(clip, sequences, LENGTH), Reference(clip, sequences)
    few = vectors.detach()[:REFERENCE_IMAGES].requires_grad_() if case.images else vectors
    scale = case.images / len(few) if case.images else 1
    steps = {
        "tree": lambda: tree_step(clip, prompts, vectors),
        "trimmed": lambda: trimmed.step_by_images(vectors) if case.images else trimmed.step(vectors),
        # As the original implementation, which takes one image after the other.
        "padded": lambda: padded.step_by_images(few, 1) if case.images else padded.step(vectors),
    }
    difference = compare(clip, prompts, vectors, (padded, trimmed))
    times, speeds = {name: [] for name in steps}, []
    for _ in range(repeats):
        speeds.append(matrix_speed())
        times["tree"].append(median(timed(steps["tree"]) for _ in range(3)))
        speeds.append(matrix_speed())
        times["trimmed"].append(timed(steps["trimmed"]))
        times["padded"].append(scale * timed(steps["padded"]))
    seconds, positions = median(times["tree"]), counts(case, sequences)
    return {
        **asdict(case),
        "label": case.label,
        "positions": positions,
        "difference": difference,
        "seconds": seconds,
        "padded_seconds": median(times["padded"]),
        "trimmed_seconds": median(times["trimmed"]),
        "ratio": ratio(times["padded"], times["tree"]),
        "trimmed_ratio": ratio(times["trimmed"], times["tree"]),
        "share": flops(positions["step"]) / seconds / median(speeds),
        "gigaflops": median(speeds) / 1e9,
        "peak_bytes": alone(case, layers=clip.config.text_config.num_hidden_layers)["peak_bytes"],
    }


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the rounds' ratios."""
    return median(one / other for one, other in zip(slow, fast, strict=True))


def alone(case: Case, memory: int | None = None, layers: int = LAYERS) -> dict:
    """Seconds of a step and the memory it takes above the model, measured in a process that does nothing else."""
    request = {"case": asdict(case), "memory": memory, "layers": layers}
    return in_own_process("bench.py", "--peak-of", json.dumps(request))


def print_peak(request: str) -> None:
    """Run one step and print how far the process's peak lies above what it had before."""
    asked = json.loads(request)
    case = Case(**asked["case"])
    clip = make_clip(layers=asked["layers"])
    prompts, vectors = TreePrompts(sequences_of(case)), make_vectors(case)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; it would include what loading took
    before = resident("VmRSS")
    seconds = timed(lambda: tree_step(clip, prompts, vectors, asked["memory"]))
    print(json.dumps({"seconds": seconds, "peak_bytes": resident("VmHWM") - before}))


def resident(what: str) -> int:
    """This process's memory in bytes: `VmRSS` now, `VmHWM` at its peak. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def growth() -> list[dict]:
    """Cost against the number of classes, with the default memory budget."""
    cases = [Case("ImageNet" if n_cls <= 1000 else "pairs", n_cls) for n_cls in (100, 300, 1000, 3000, 10_000, 21_000)]
    return [{"n_cls": case.n_cls, "positions": counts(case, sequences_of(case)), **alone(case)} for case in cases]


def epoch_seconds(clip) -> dict:
    """One epoch of CoOp, 16 shots of 100 classes, batch 32, on features computed before."""
    case = Case("Caltech101", 100)
    prompts, vectors = TreePrompts(sequences_of(case)), make_vectors(case)
    images, labels = torch.nn.functional.normalize(torch.randn(1600, WIDTH), dim=-1), torch.arange(1600) % 100
    optimizer = torch.optim.SGD([vectors], lr=0.002, momentum=0.9)
    started = time.perf_counter()
    for batch in torch.randperm(1600).split(32):
        texts = torch.nn.functional.normalize(text_tower(clip).encode(prompts, vectors), dim=-1)
        loss = torch.nn.functional.cross_entropy(100 * images[batch] @ texts.t(), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"steps": 50, "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only",
        help="measure again what contains this text: a case's label, 'growth', 'epoch', 'inference' or 'cached'",
    )
    parser.add_argument("--smoke", action="store_true", help="one small case and small towers, in seconds")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options.peak_of)
        return
    clip = make_clip(layers=2 if options.smoke else LAYERS)
    cases = [Case("OxfordPets", 5, 4)] if options.smoke else table_cases()
    results = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if options.only and options.output.exists():
        results = json.loads(options.output.read_text())
    rows = {row["label"]: row for row in results.get("table", [])}
    for case in (progress := tqdm([case for case in cases if not options.only or options.only in case.label])):
        progress.set_description(case.label)
        rows[case.label] = row = measure(clip, case, 1 if options.smoke else options.repeats)
        peak = row["peak_bytes"] / 2**30
        ratios = f"{row['ratio']:6.1f} x  {row['trimmed_ratio']:6.1f} x"
        tqdm.write(f"{ratios}  share {row['share']:.0%}  {peak:.2f} GiB  {case.label}")
        results["table"] = list(rows.values())
        options.output.write_text(json.dumps(results, indent=1))
    cached = {"cached": lambda: cached_features(1 if options.smoke else options.repeats, small=options.smoke)}
    others = {"growth": growth, "epoch": lambda: epoch_seconds(clip), "inference": inference} | cached
    for name, run in (cached if options.smoke else others).items():
        if not options.only or options.only in name:
            results[name] = run()
            options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
