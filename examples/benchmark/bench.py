"""The text side of prompt learning: the prefix tree against prompts padded to 77 positions.

Both run in one process, in turn, on ViT-B/16's text tower with random weights.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from cases import HERE, LAYERS, WIDTH, Case, counts, flops, load_names, sequences_of, table_cases
from peft import get_peft_model
from reference import PaddedReference, objective
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel

from peft_coop import CoOpConfig
from peft_coop.demo import MODEL_PATH
from peft_coop.prompts import FAMILIES, PromptTensors, encode_prompts, install_text_side

PADDED_AT_ONCE = 100  # classes; more do not fit into memory together
REFERENCE_IMAGES = 2  # CoCoOp's reference is timed on so many images and multiplied


def make_clip() -> CLIPModel:
    """ViT-B/16's text tower with random weights, and a vision tower of no size."""
    torch.manual_seed(0)
    text = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=8, num_hidden_layers=LAYERS)
    vision = dict(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=8
    )
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    clip.eval().requires_grad_(False)
    install_text_side(clip.text_model)
    return clip


def make_vectors(case: Case) -> torch.Tensor:
    shape = (case.images, case.n_vectors, WIDTH) if case.images else (case.n_vectors, WIDTH)
    return (torch.randn(shape) * 0.02).requires_grad_()


def tree_step(clip, prompts, vectors, memory=None):
    """Forward and backward of all classes, and of all images, in one call."""
    more = {} if memory is None else {"memory": memory}
    objective(encode_prompts(clip, FAMILIES["clip"], prompts, vectors, **more)).backward()


def matrix_speed(seconds: float = 0.3) -> float:
    """Floating-point operations per second of a matrix product in float32 of a layer's shape."""
    rows, weight = torch.randn(1024, WIDTH), torch.randn(4 * WIDTH, WIDTH)
    torch.nn.functional.linear(rows, weight)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        torch.nn.functional.linear(rows, weight)
        done += 2 * rows.numel() * len(weight)
    return done / (time.perf_counter() - started)


def timed(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(clip, case: Case, repeats: int) -> dict:
    """Time one case: the two forms in turn, with the machine's matrix speed in between."""
    sequences = sequences_of(case)
    prompts, padded = PromptTensors(sequences), PaddedReference(clip, sequences)
    vectors = make_vectors(case)
    reference_vectors = vectors.detach()[:REFERENCE_IMAGES].requires_grad_() if case.images else vectors
    scale = case.images / len(reference_vectors) if case.images else 1

    def run_padded():
        if case.images:
            padded.step_per_image(reference_vectors)
        else:
            padded.step(vectors, PADDED_AT_ONCE)

    tree_step(clip, prompts, vectors)  # warm-up of both: the first touch of so much memory costs seconds
    objective(padded.features(reference_vectors[0] if case.images else vectors, slice(0, PADDED_AT_ONCE))).backward()
    tree_times, padded_times, speeds = [], [], []
    for _ in range(repeats):
        speeds.append(matrix_speed())
        tree_times.append(median(timed(lambda: tree_step(clip, prompts, vectors)) for _ in range(3)))
        speeds.append(matrix_speed())
        padded_times.append(scale * timed(run_padded))
    seconds, padded_seconds = median(tree_times), median(padded_times)
    positions = counts(case, sequences)
    return {
        **asdict(case),
        "label": case.label,
        "positions": positions,
        "seconds": seconds,
        "padded_seconds": padded_seconds,
        "ratio": median(one / other for one, other in zip(padded_times, tree_times, strict=True)),
        "share": flops(positions["step"]) / seconds / median(speeds),
        "gigaflops": median(speeds) / 1e9,
        "peak_bytes": in_own_process(case)["peak_bytes"],
    }


def in_own_process(case: Case, memory: int | None = None) -> dict:
    """Seconds of a step and the memory it takes above the model, measured in a process that does nothing else."""
    request = json.dumps({"case": asdict(case), "memory": memory})
    command = [sys.executable, str(HERE / "bench.py"), "--peak-of", request]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def print_peak(request: str) -> None:
    """Run one step and print how far the process's peak lies above what it had before."""
    asked = json.loads(request)
    case = Case(**asked["case"])
    clip, prompts, vectors = make_clip(), PromptTensors(sequences_of(case)), make_vectors(case)
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
    return [
        {"n_cls": case.n_cls, "positions": counts(case, sequences_of(case)), **in_own_process(case)} for case in cases
    ]


def epoch_seconds(clip) -> dict:
    """One epoch of CoOp, 16 shots of 100 classes, batch 32, on features computed before."""
    case = Case("Caltech101", 100)
    prompts, vectors = PromptTensors(sequences_of(case)), make_vectors(case)
    images, labels = torch.nn.functional.normalize(torch.randn(1600, WIDTH), dim=-1), torch.arange(1600) % 100
    optimizer = torch.optim.SGD([vectors], lr=0.002, momentum=0.9)
    started = time.perf_counter()
    for batch in torch.randperm(1600).split(32):
        texts = torch.nn.functional.normalize(encode_prompts(clip, FAMILIES["clip"], prompts, vectors), dim=-1)
        loss = torch.nn.functional.cross_entropy(100 * images[batch] @ texts.t(), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"steps": 50, "seconds": time.perf_counter() - started}


def inference() -> dict:
    """Classifying images: seconds per batch of the bare vision tower, and of the whole model after its first batch."""
    torch.manual_seed(0)
    vision = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32)
    clip = CLIPModel(CLIPConfig(vision_config=vision, projection_dim=WIDTH)).eval()
    names = [row.name for row in load_names()["Caltech101"]]
    # The weights are random, so any tokenizer whose ids exist will do; this one needs no download.
    config = CoOpConfig(n_ctx=16, class_names=names, tokenizer_name_or_path=MODEL_PATH)
    model = get_peft_model(clip, config).eval()
    images = torch.randn(32, 3, 224, 224)
    bare, whole = [], []
    with torch.no_grad():
        model(pixel_values=images)
        for _ in range(7):
            bare.append(timed(lambda: clip.get_image_features(images)))
            whole.append(timed(lambda: model(pixel_values=images)))
    ratios = [one / other for one, other in zip(whole, bare, strict=True)]
    return {"images": len(images), "vision_seconds": median(bare), "seconds": median(whole), "ratio": median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", help="measure again what contains this text: a case's label, 'growth', 'epoch' or 'inference'"
    )
    parser.add_argument("--smoke", action="store_true", help="one small case, in seconds")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options.peak_of)
        return
    clip = make_clip()
    cases = [Case("OxfordPets", 5, 4)] if options.smoke else table_cases()
    results = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if options.only and options.output.exists():
        results = json.loads(options.output.read_text())
    rows = {row["label"]: row for row in results.get("table", [])}
    for case in (progress := tqdm([case for case in cases if not options.only or options.only in case.label])):
        progress.set_description(case.label)
        rows[case.label] = row = measure(clip, case, 1 if options.smoke else options.repeats)
        peak = row["peak_bytes"] / 2**30
        tqdm.write(f"{row['ratio']:6.1f} x  share {row['share']:.0%}  {peak:.2f} GiB  {case.label}")
        results["table"] = list(rows.values())
        options.output.write_text(json.dumps(results, indent=1))
    others = {"growth": growth, "epoch": lambda: epoch_seconds(clip), "inference": inference}
    for name, run in {} if options.smoke else others.items():
        if not options.only or options.only in name:
            results[name] = run()
            options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
